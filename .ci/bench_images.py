"""How long a data set of one's own takes to start, and how much memory: python .ci/bench_images.py [NUMBER [PIXELS]].

Paints NUMBER colour photographs (20,000 by default) of PIXELS x PIXELS (64) in ten class folders, and loads them in a
new process each time, as a run does before its first epoch: listing, decoding, a tenth for validation, statistics.
Memory beyond the imports: *own* is what the process cannot give back, *mapped* is shared by all processes and given
back when memory is short.
"""

import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def paint(folder, number, pixels):
    """Noise over a gradient, as JPEG."""
    import numpy as np
    from PIL import Image
    slope = np.linspace(0, 150, pixels)[None, :, None]

    def one(i):
        noise = np.random.default_rng(i).integers(0, 100, (pixels, pixels, 3))
        Image.fromarray((noise + slope).astype(np.uint8)).save(folder / f'class {i % 10}' / f'{i:06}.jpg')

    for label in range(10):
        (folder / f'class {label}').mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(number)))


def memory():
    """MB in memory now: own, mapped from files."""
    lines = dict(line.split(':') for line in Path('/proc/self/status').read_text(encoding='utf-8').splitlines())
    return [int(lines[name].split()[0]) / 1024 for name in ('RssAnon', 'RssFile')]


class Peak(threading.Thread):
    """The largest memory beyond that at the beginning, asked for every 5 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before, self.most = memory(), [0, 0]
        self.start()

    def run(self):
        while True:
            self.most = [max(most, now - was) for most, now, was in zip(self.most, memory(), self.before)]
            time.sleep(0.005)


def load(root):
    """Load as a run does; prints seconds and memory."""
    from sklearn.model_selection import train_test_split  # noqa: F401 - not part of what is measured

    from binenc.data import load_splits, make_loaders
    from binenc.run import Run
    run, peak = Run(dataset='folder:photos', val_fraction=0.1), Peak()
    begun, worked = time.perf_counter(), time.process_time()
    make_loaders(run, load_splits(run, root), 'cpu')
    seconds, work = time.perf_counter() - begun, time.process_time() - worked
    time.sleep(0.02)
    print(f'{seconds:8.2f} s ({work:.2f} of computing) {peak.most[0]:8,.0f} MB own {peak.most[1]:8,.0f} MB mapped')


def main(number=20_000, pixels=64):
    """Measure starts in new processes."""
    with tempfile.TemporaryDirectory() as folder:
        paint(Path(folder) / 'photos', number, pixels)
        print(f'{number:,} images of {pixels}x{pixels}, {3 * number * pixels**2 / 1e6:,.0f} MB decoded')
        for name in 'first start', 'second start', 'third start', 'not kept':
            if name == 'not kept':  # as where the folder of data sets cannot be written
                subprocess.run(['rm', '-r', f'{folder}/.decoded'], check=True)
                (Path(folder) / '.decoded').touch()
            print(f'{name:13}', end='', flush=True)
            subprocess.run([sys.executable, __file__, '--load', folder], check=True)


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1])) # the library of this repository
    if sys.argv[1:2] == ['--load']:
        load(Path(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
