// The player of an animation: draws the JSON that is in a figure of the page on the figure's canvas.
// One expression, a function of the figure, so that a page can call it in place. The chapter "animation" puts it there.
figure => {
    const data = JSON.parse(figure.querySelector('script').textContent);
    const canvas = figure.querySelector('canvas'), pen = canvas.getContext('2d');
    const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
    for (const arm of data.arms) { arm.points = bytes(arm.points); arm.bars = bytes(arm.bars); }
    const last = data.epochs.length - 1;

    function mix(at, value) {
        const i = Math.min(Math.floor(at), last), j = Math.min(i + 1, last), a = value(i);
        return a + (at - i) * (value(j) - a);
    }

    function text(words, x, y, size, colour, bold) {
        pen.font = (bold ? 'bold ' : '') + size + 'px sans-serif';
        pen.fillStyle = colour;
        pen.fillText(words, x, y);
    }

    function name(words, x, y) {
        pen.lineWidth = 3;
        pen.strokeStyle = '#fff';
        pen.font = 'bold 13px sans-serif';
        pen.strokeText(words, x, y);
        text(words, x, y, 13, '#111', true);
    }

    function plane(arm, at, left, top, side) {
        const place = v => side * (v / data.limit + 1) / 2, sums = {};
        pen.lineWidth = 1;
        pen.strokeStyle = '#bbb';
        for (const [x, y] of arm.vertices)
            pen.strokeRect(left + place(x) - 7, top + side - place(y) - 7, 14, 14);
        for (let k = 0; k < arm.n; k++) {
            const x = left + side * mix(at, i => arm.points[2 * (i * arm.n + k)]) / 255;
            const y = top + side - side * mix(at, i => arm.points[2 * (i * arm.n + k) + 1]) / 255;
            const sum = sums[arm.y[k]] = sums[arm.y[k]] || [0, 0, 0];
            sum[0] += x; sum[1] += y; sum[2] += 1;
            pen.fillStyle = arm.colours[arm.y[k]];
            pen.fillRect(x - 1.3, y - 1.3, 2.6, 2.6);
        }
        pen.textAlign = 'center';
        for (const k in sums) if (arm.names.length)
            name(arm.names[k], sums[k][0] / sums[k][2], sums[k][1] / sums[k][2] + 5);
        text(arm.label, left + side / 2, top + 12, 16, arm.colour, true);
    }

    function bars(arm, at, left, top, side, height) {
        const wide = side / arm.bins, values = [];
        for (let b = 0; b < arm.bins; b++) values.push(mix(at, i => arm.bars[i * arm.bins + b]));
        const most = Math.max(30, ...values);
        pen.fillStyle = arm.colour;
        values.forEach((v, b) =>
            pen.fillRect(left + b * wide, top + height * (1 - v / most), wide - 0.5, height * v / most));
        pen.fillStyle = '#111';
        pen.fillRect(left, top + height, side, 1);
        pen.fillRect(left + side / 2, top, 1, height);
        text('values of node 1', left + side / 2, top + height + 15, 13, '#111');
    }

    function fractions(at, left, top, wide, height) {
        const low = Math.min(...data.arms.map(arm => Math.min(...arm.fraction))) - 0.02, end = data.epochs[last];
        const x = epoch => left + 38 + (wide - 52) * epoch / end, y = f => top + height * (1 - (f - low) / (1 - low));
        pen.textAlign = 'left';
        text("images on their class's side of zero", left, top - 10, 13, '#111');
        for (const f of [1, (1 + low) / 2, low]) text(f.toFixed(2), left, y(f) + 4, 12, '#444');
        pen.fillStyle = '#999';
        pen.fillRect(left + 38, top + height, wide - 52, 1);
        for (const arm of data.arms) {
            pen.strokeStyle = pen.fillStyle = arm.colour;
            pen.lineWidth = 2;
            pen.beginPath();
            for (let i = 0; i <= at; i++) {
                const [a, b] = [x(data.epochs[i]), y(arm.fraction[i])];
                if (data.joined) pen.lineTo(a, b); else pen.fillRect(a - 2, b - 2, 4, 4);
            }
            const to = [x(mix(at, i => data.epochs[i])), y(mix(at, i => arm.fraction[i]))];
            if (data.joined) pen.lineTo(...to);
            pen.stroke();
            pen.fillRect(to[0] - 4, to[1] - 4, 8, 8);
        }
        pen.textAlign = 'right';
        text('epoch ' + end, left + wide, top + height + 16, 12, '#444');
    }

    function draw(at) {
        const wide = figure.clientWidth - 16, gap = 8, arms = data.arms.length, side = (wide - gap * (arms - 1)) / arms;
        const low = side * 0.3, high = side + low + 24 + 30 + 80 + 22, scale = window.devicePixelRatio || 1;
        canvas.width = wide * scale;
        canvas.height = high * scale;
        pen.setTransform(scale, 0, 0, scale, 0, 0);
        pen.clearRect(0, 0, wide, high);
        data.arms.forEach((arm, i) => {
            plane(arm, at, i * (side + gap), 0, side);
            bars(arm, at, i * (side + gap), side, side, low);
        });
        fractions(at, 0, side + low + 54, wide, 80);
        const gamma = data.arms.map(arm => mix(at, i => arm.gamma[i])).find(g => g > 0);
        figure.querySelector('.now').textContent = 'epoch ' + Math.round(mix(at, i => data.epochs[i]))
            + (gamma ? ', gamma ' + gamma.toPrecision(2) : '') + '; same-encoding fraction: '
            + data.arms.map(arm => arm.label + ' ' + mix(at, i => arm.fraction[i]).toFixed(3)).join(', ');
    }

    const button = figure.querySelector('button'), slider = figure.querySelector('input');
    const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    let begun = null, from = 0;

    function show(at) { slider.value = at; draw(at); }

    function stop() { begun = null; button.textContent = 'Play'; }

    function step(now) {
        if (begun === null || !figure.isConnected) return;
        if (begun === 0) begun = now;
        const at = Math.min(from + (now - begun) / (still ? 1000 : 500), last);
        show(still ? Math.floor(at) : at);
        if (at < last) requestAnimationFrame(step); else stop();
    }

    function play() {
        from = Number(slider.value) >= last ? 0 : Number(slider.value);
        begun = 0;
        button.textContent = 'Pause';
        requestAnimationFrame(step);
    }
    if (still) slider.step = 1;
    button.addEventListener('click', () => begun === null ? play() : stop());
    slider.addEventListener('input', () => { stop(); draw(Number(slider.value)); });
    window.addEventListener('resize', () => draw(Number(slider.value)));
    show(last);
    if (!still && window.IntersectionObserver) new IntersectionObserver((seen, watch) => {
        if (seen[0].isIntersecting) { watch.disconnect(); play(); }
    }, {threshold: 0.6}).observe(canvas);
}
