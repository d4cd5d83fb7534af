"""How long a data set of one's own takes, and how much memory: python .ci/bench_images.py [NUMBER [PIXELS]].

Paints NUMBER colour photographs (20,000 by default) of PIXELS x PIXELS (64) in ten class folders, and loads them in a
new process each time, as a run does before its first epoch: listing, decoding, a tenth for validation, statistics.
Memory beyond the imports: *own* is what the process cannot give back, *mapped* is shared by all processes and given
back when memory is short.

Then, each in a new process, with memory beyond its start: an epoch of images as they are read for a GPU, without the
last copy; the same augmented and normalised, which a GPU would do itself; an epoch of training and measuring with two
small networks, on 500 of the images. At the size of ImageNet's: python .ci/bench_images.py 3000 224
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

NETWORKS = 'convnet', 'resnet8'  # of width 4


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


def epoch(root, what):
    """An epoch of images, or of training and measuring a network; prints images a second and memory."""
    import torch

    from binenc import data
    from binenc.evaluation import evaluate
    from binenc.run import Run
    from binenc.training import new_training, prepare, shapes_of, train_epoch
    run = Run(dataset='folder:photos', val_fraction=0.1, augment=True, batch_size=64, width=4,
              **(dict(backbone=what, train_images=500) if what in NETWORKS else dict(backbone='mlp')))
    device, splits = prepare(run), data.load_splits(run, root)
    loaders = data.make_loaders(run, splits, device)
    data.pinned = partial(torch.empty, dtype=torch.uint8)  # pinning needs a GPU
    loaders['train'].read = what == 'read ahead'
    order = torch.randperm(len(loaders['train'])).split(64)
    training = new_training(run, *shapes_of(splits), device) if what in NETWORKS else None
    peak, begun = Peak(), time.perf_counter()
    if training:
        train_epoch(training, loaders['train'])
    else:
        deque(loaders['train'].picked(order) if what == 'read ahead' else loaders['train'].shuffled(0), maxlen=0)
    rate = len(loaders['train']) / (time.perf_counter() - begun)
    if training:
        evaluate(training.classifier, loaders['train'])
    print(f'{rate:8,.0f} images/s {peak.most[0]:22,.0f} MB own {peak.most[1]:8,.0f} MB mapped')


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
        (Path(folder) / '.decoded').unlink()
        steady = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '1000000'}  # large pieces go back at once, as pinned ones do
        for name in 'decoding', 'read ahead', 'augmented', *NETWORKS:
            print(f'{name:13}', end='', flush=True)
            words = ['--load', folder] if name == 'decoding' else ['--epoch', folder, name]
            subprocess.run([sys.executable, __file__, *words], check=True, env=steady)


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1])) # the library of this repository
    if sys.argv[1:2] == ['--load']:
        load(Path(sys.argv[2]))
    elif sys.argv[1:2] == ['--epoch']:
        epoch(Path(sys.argv[2]), sys.argv[3])
    else:
        main(*map(int, sys.argv[1:]))
