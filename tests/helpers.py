"""What several test files use."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from binenc.run import Run
from binenc.store import run_folder

REPO = Path(__file__).parents[1]
BINENC = Path(sys.executable).with_name('binenc')
TINY = dict(epochs=4, width=8, deepfool_images=5, log_every=2)  # about a second of training
STORED = (
    'metrics.json',
    'history.csv',
    'latents.npz',
    'outputs.npz',
    'snapshots.npz',
    'weights.safetensors',
    'weights.json',
    'README.md',
)  # what a finished run leaves for figures
FIGURES = [
    'codes',
    'figure1_binarity',
    'figure2_histograms',
    'figure3_encoding',
    'figure4_within_class',
    'figure5_accuracy',
    'overview',
]  # of an experiment without attacks


def settings(**values):
    """Command line options that set fields of `Run`."""
    return [word for name, value in values.items() for word in ('--set', f'{name}={value}')]


def environment():
    """This environment, with no way out to the network and one thread where a library asks for as many as there
    are cores."""
    nowhere = {name: 'http://127.0.0.1:9' for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY')}
    return {**os.environ, **nowhere, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}


STARTED = []  # processes of the test that runs


def start(*words, cwd, **options):
    """`binenc WORDS` as a running process, its output in pipes; it does not outlive the test."""
    STARTED.append(subprocess.Popen([BINENC, *map(str, words)], cwd=cwd, env=environment(), text=True, **options,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return STARTED[-1]


def call(*words, cwd, **options):
    """`binenc WORDS` in a process of its own, ended; output and errors as text."""
    process = start(*words, cwd=cwd, **options)
    out, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, errors)


def tracked(*below):
    """Every file of the repository, or of parts of it, that git tracks or would track, by its name there."""
    listed = subprocess.check_output(
        ['git', '-C', REPO, 'ls-files', '-z', '--cached', '--others', '--exclude-standard', *below])
    return sorted({name for name in os.fsdecode(listed).split('\0') if (REPO / name).is_file()})


def write_images(folder, images, names):
    """One file each, whose folders are made."""
    for image, name in zip(images, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)


def image_folder(folder, shape=(8, 8), classes='abc', each=8):
    """Images of noise in train/ and test/, with a folder per class. Returns the folder."""
    names = [f'{split}/{name}/{i}.png' for split in ('train', 'test') for name in classes for i in range(each)]
    write_images(folder, np.random.default_rng(0).integers(0, 256, (len(names), *shape), np.uint8), names)
    return folder


def stored(run, results):
    """The bytes of everything that a finished run stores."""
    folder = run_folder(run, results)
    return {name: (folder / name).read_bytes() for name in STORED if (folder / name).exists()}


def contents(folder):
    """The bytes and time of change of every file below a folder."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob('*'))
        if path.is_file()
    }


def wait_for(condition, seconds=60, what='it'):
    """Wait until `condition()` is true; returns what it returned."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f'{what} did not happen within {seconds} s'
        time.sleep(0.02)
    return value


def read_until(process, beginning):
    """Read a process's output up to a line that begins so; returns the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(f'no line {beginning!r} in {"".join(lines)}{process.stderr.read()}')


# a process that is to be killed is forked from a server that has imported torch, which takes seconds
_processes = multiprocessing.get_context('forkserver')
_processes.set_forkserver_preload(['binenc.training', 'sklearn.datasets', 'torch._dynamo'])


def in_process(function, *args):
    """Call a function in a process of its own; returns the process, started."""
    process = _processes.Process(target=function, args=args, daemon=True)
    process.start()
    return process


def die_at_rename(number, run, results):
    """Train, and be killed before the file operation of that number that gives a file its name; all that is stored
    goes through one."""
    import binenc.training

    binenc.training.CHECKPOINT_SECONDS = 0
    rename, count = Path.replace, iter(range(number))

    def counted(path, target):
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.replace = counted
    binenc.training.train(run, results)


def train_slowly(run, results):
    """Train with a checkpoint after each epoch and a pause in it, so that a kill from outside finds any moment."""
    import binenc.training as training

    training.CHECKPOINT_SECONDS = 0
    epoch = training.train_epoch

    def slow(*args):
        epoch(*args)
        time.sleep(0.02)

    training.train_epoch = slow
    training.train(run, results)


def exit_with_threads(run, results):
    """Train, and end with the number of threads that torch uses as the exit code."""
    import torch

    from binenc.training import train

    train(run, results)
    sys.exit(torch.get_num_threads())


def describe(run):
    """The fields of a run that are not the default, for the names of tests."""
    default = asdict(Run())
    return ' '.join(f'{name}={value}' for name, value in asdict(run).items() if value != default[name])


def definitions_of(name, called, parameters=None):
    """What a notebook's code defines, executed in this process; `called` is what it takes for its `__name__`."""
    from binenc.execute import notebook_path

    names = {'__name__': called}
    for cell in json.loads(notebook_path(name).read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code':
            exec(compile(''.join(cell['source']), name, 'exec'), names)
        if 'parameters' in cell['metadata'].get('tags', []):
            names |= parameters or {}
    return names


def run_notebook_here(name, output, parameters):
    """Execute a notebook's code in this process, as papermill does in a copy; keeps no executed one."""
    from matplotlib import pyplot

    definitions_of(name, '__notebook__', parameters)
    pyplot.close('all')
