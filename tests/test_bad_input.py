"""What cannot be used is refused in one sentence that says what it is and what to do; nothing computed is lost."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binenc.data import load_data
from binenc.errors import UserError
from binenc.experiment import expand
from binenc.models import build_classifier
from binenc.run import Run
from binenc.store import run_folder
from binenc.training import train
from helpers import TINY, call, contents, image_folder, read_until, settings, start, stored

FAST = settings(**TINY)


def refused(done, *words):
    """That a command failed with one sentence which has these words."""
    assert done.returncode not in (0, -signal.SIGKILL), done.stdout
    assert 'Traceback' not in done.stdout + done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], f'{word!r} is not in {lines[0]!r}'


# ---- what is typed


@pytest.mark.parametrize(
    'words, named',
    [
        (('plan', 'dmeo'), ["experiment 'dmeo'", "did you mean 'demo'", 'cifar10-jpeg']),
        (('status', 'dmeo'), ["'dmeo'", 'demo']),
        (('figures', 'dmeo'), ["'dmeo'", 'demo']),
        (('run', '--set', 'model=bin_en'), ["model 'bin_en'", "did you mean 'bin_enc'"]),
        (('run', '--set', 'dataset=cifar11'), ["dataset 'cifar11'", 'cifar10', 'folder:PATH']),
        (('data', 'cifar11'), ["dataset 'cifar11'", 'cifar10', 'folder:PATH']),
        (('plan', 'demo', '--set', 'epoch=3'), ["field 'epoch'", "did you mean 'epochs'"]),
        (('plan', 'demo', '--set', 'epochs'), ["'epochs'", 'field=value']),
        (('run', '--set', 'lr=0'), ['lr=0', 'positive', '1e-3']),
        (('run', '--set', 'lr=fast'), ["lr='fast'", 'positive']),
        (('sweep', 'demo', '--set', 'lr=1e-3,0'), ['lr=0', 'positive']),
        (('run', '--set', 'epochs=0'), ['epochs=0', 'whole number of at least 1']),
        (('run', '--set', 'batch_size=1'), ['batch_size=1', 'at least 2']),
        (('sweep', 'demo', '--set', 'selection=best'), ["selection 'best'", 'val', 'test']),
        (('sweep', 'demo', '--set', 'val_fraction=0'), ['val_fraction=0', 'selection=train']),
        (('run', '--set', 'val_fraction=1'), ['val_fraction=1', 'below 1']),
        (('run', '--set', 'augment=maybe'), ["augment 'maybe'", 'true, mirror']),
        (('run', '--set', 'experiment=../elsewhere'), ["experiment='../elsewhere'", 'letters']),
        (('sweep', 'demo', '--set', 'train_images=5'), ['train_images=5', 'each of the 10 classes']),
        (('sweep', 'demo', '--set', 'val_fraction=0.001'), ['val_fraction=0.001', 'each of the 10 classes']),
    ],
)
def test_mistyped(command, tmp_path, words, named):
    """Names the value, what is possible, and the closest name."""
    refused(command(*words, cwd=tmp_path), *named)
    assert not list(tmp_path.rglob('metrics.json'))


# ---- data


def pets(folder, shape=(8, 8)):
    """A folder of images that can be trained on."""
    return image_folder(folder, shape, ('cat', 'dog'), 12)


def save(image, *names):
    """What puts an image into a folder."""
    return lambda pets: image.save(pets.joinpath(*names))


def spoiled(function, *names):
    """What does something to a part of a folder."""
    return lambda pets: function(pets.joinpath(*names))


@pytest.mark.parametrize(
    'spoil, named',
    [
        (shutil.rmtree, ['pets', 'train/ and test/']),
        (spoiled(shutil.rmtree, 'test'), ['pets', 'no folder test/', 'one folder per class']),
        (lambda pets: [path.unlink() for path in pets.glob('test/*/*')], ['pets/test', 'no images']),
        (spoiled(Path.mkdir, 'test', 'cow'), ["'cow'", 'pets/test', 'training images']),
        (spoiled(Path.mkdir, 'train', 'empty'), ['empty holds no images']),
        (spoiled(Path.mkdir, 'train', 'cat', '2021.01'), ['2021.01 is a folder in a class folder']),
        (save(Image.new('L', (8, 8)), 'train', 'lost.png'), ['lost.png is in no class folder']),
        (spoiled(lambda path: path.write_bytes(path.read_bytes()[:60]), 'train', 'dog', '3.png'),
         ['dog/3.png', 'replace or remove']),
        (save(Image.new('L', (9, 8)), 'train', 'dog', '3.png'), ['dog/3.png is 9x8', 'is 8x8', 'resize']),
        (save(Image.new('1', (14000, 14000)), 'train', 'cat', '0.png'), ['0.png has too many pixels']),
        (lambda pets: [shutil.rmtree(path) for path in pets.glob('*/dog')], ["'cat'", 'two or more']),
        (save(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), 'train', 'dog', '3.png'),
         ['dog/3.png', '8 bits', 'convert']),
        (spoiled(lambda path: path.symlink_to('nowhere.png'), 'train', 'dog', 'x.png'), ['dog/x.png', 'remove']),
    ],
)
def test_damaged_image_folder(command, tmp_path, spoil, named):
    """Names the folder, file and class."""
    spoil(pets(tmp_path / 'pets'))
    refused(command('data', 'folder:pets', cwd=tmp_path), *named)


def test_splits_of_different_shape(command, tmp_path):
    """Train and test images that cannot go through one network: said before a sweep starts."""
    shutil.rmtree(pets(tmp_path / 'pets') / 'test')
    (pets(tmp_path / 'others', (9, 8)) / 'test').rename(tmp_path / 'pets' / 'test')
    refused(
        command('sweep', 'demo', *settings(dataset='folder:pets', experiment='pets'), cwd=tmp_path),
        'test/cat/0.png is 8x9',
        'train/cat/0.png is 8x8',
        'image_size',
    )
    assert not (tmp_path / 'results').exists()


def test_bad_data_through_the_notebook(command, tmp_path):
    """`run` says the library's sentence, not papermill's; mending the folder is enough to continue."""
    Image.new('L', (9, 8)).save(pets(tmp_path / 'pets') / 'train' / 'dog' / '3.png')
    words = 'run', *settings(**{**TINY, 'dataset': 'folder:pets', 'batch_size': 8})
    refused(command(*words, cwd=tmp_path), 'dog/3.png is 9x8', 'resize')
    (tmp_path / 'pets' / 'train' / 'dog' / '3.png').unlink()
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0 and 'finished' in done.stdout, done.stderr


def test_no_internet(command, tmp_path, monkeypatch):
    """A data set that cannot be downloaded: says which, where it would be, and what can be done; after a few seconds
    also where nothing answers."""
    for words in ('data', 'cifar10'), ('sweep', 'cifar10', '--set', 'precision=fp32'):
        refused(command(*words, cwd=tmp_path), 'cifar10', 'datasets', 'binenc data cifar10')
    with socket.create_server(('127.0.0.1', 0)) as silent:
        monkeypatch.setenv('http_proxy', f'http://127.0.0.1:{silent.getsockname()[1]}')
        begun = time.monotonic()
        refused(command('data', 'cifar10', cwd=tmp_path), 'did not answer', 'binenc data cifar10')
    assert time.monotonic() - begun < 5
    assert not [path for path in tmp_path.rglob('*') if path.is_file()], 'left behind'


@pytest.mark.parametrize('wrong', [None, 3, (1, 8), (4, 8, 8), 'abc', np.ones((3, 3)), torch.randn(60, 4)])
def test_neither_a_shape_nor_an_experiment(wrong):
    """One sentence, whatever stands for the shape of an image, the name of an experiment or of a data set."""
    with pytest.raises(UserError, match='channels, height and width|grey .1. or colour .3.'):
        build_classifier(Run(backbone='resnet8'), wrong, 10)
    with pytest.raises(UserError, match='unknown experiment'):
        expand(wrong)
    with pytest.raises(UserError, match='^unknown dataset .*choose one of digits'):
        load_data(wrong)


# ---- damaged results


def one_run(folder):
    """The folder of a finished run of the experiment `tiny`."""
    return next((folder / 'results' / 'tiny' / 'runs').glob('bin_enc-*-r0-*'))


def test_damaged_metrics(command, tables_here, copy):
    """`status` counts it as damaged, `run` refuses, `figures` leaves it out and says so; once it is removed, the
    run is repeated."""
    path = one_run(copy) / 'metrics.json'
    whole = path.read_bytes()
    for content in '', '{"train_accuracy": 0.9', '[1, 2]', '\0' * 100:
        path.write_text(content, encoding='utf-8')
        said = command('status', 'tiny', cwd=copy).stdout
        assert re.search(r'damaged +1\b', said) and f'{path.relative_to(copy)}' in said and 'remove it' in said, said
    refused(command('run', 'tiny', *settings(model='bin_enc', replicate=0), cwd=copy), 'metrics.json', 'remove it')
    (copy / 'results' / 'tiny' / 'runs.csv').unlink()  # where the numbers are kept as well
    said = command('figures', 'tiny', cwd=copy).stdout
    assert '1 of 8 runs' in said and path.parent.name in said, said
    path.unlink()
    assert command('sweep', 'tiny', cwd=copy).returncode == 0 and path.read_bytes() == whole


@pytest.mark.parametrize('name, kept', [('history.csv', 15), ('history.csv', 3000), ('latents.npz', 1000),
                                        ('run.json', 7)])
def test_damaged_file_of_a_run_in_figures(command, tables_here, copy, name, kept):
    """Named, with what to do; no other file changes."""
    path = one_run(copy) / name
    path.write_bytes(path.read_bytes()[:kept])
    before = contents(copy / 'results' / 'tiny' / 'runs')
    refused(command('figures', 'tiny', cwd=copy), str(path.relative_to(copy)), 'remove')
    assert contents(copy / 'results' / 'tiny' / 'runs') == before


def test_damaged_run_json_of_a_started_run(command, tmp_path, tiny):
    """Refused before anything is overwritten."""
    folder = run_folder(tiny, tmp_path / 'results')
    folder.path.mkdir(parents=True)
    (folder / 'run.json').write_text('{"id": ', encoding='utf-8')
    refused(command('run', *FAST, cwd=tmp_path), 'run.json', 'damaged', 'remove it')
    assert (folder / 'run.json').read_text(encoding='utf-8') == '{"id": '


NO_RATE = dict(name='tiny', title='T', settings={}, lrs=['fast'], replicates=[0], models=['bin_enc'])


@pytest.mark.parametrize('content', ['{"name": "tiny", ', '{}', '{"name": "tiny", "surprise": 1}', '[]',
                                     json.dumps(NO_RATE)])
def test_damaged_experiment_json(command, copy, content):
    """Named by each command that reads it; the runs stay."""
    (copy / 'results' / 'tiny' / 'experiment.json').write_text(content, encoding='utf-8')
    before = contents(copy / 'results')
    for word in ('status', 'figures', 'sweep', 'plan') if content == '{}' else ['status']:
        refused(command(word, 'tiny', cwd=copy), 'experiment.json', 'damaged', 'SHA256SUMS', 'verify')
    assert contents(copy / 'results') == before
    accept(copy / 'results' / 'tiny')
    refused(command('status', 'tiny', cwd=copy), *(['lr'] if 'fast' in content else ['experiment.json', 'restore it']))


@pytest.mark.parametrize(
    'rule, named',
    [('best', ["selection rule 'best'", 'val', 'train']), ('val', ['validation accuracy', 'val_fraction', 'test'])],
)
def test_selection_that_is_not_possible(command, copy, rule, named):
    """An unknown rule, and selection by a split that the runs do not have."""
    path = copy / 'results' / 'tiny' / 'experiment.json'
    path.write_text(json.dumps({**json.loads(path.read_text(encoding='utf-8')), 'selection': rule}), encoding='utf-8')
    if rule == 'val':
        for metrics in (copy / 'results' / 'tiny' / 'runs').glob('*/metrics.json'):
            metrics.write_text(
                json.dumps({k: v for k, v in json.loads(metrics.read_bytes()).items() if not k.startswith('val_')}),
                encoding='utf-8',
            )
    accept(copy / 'results' / 'tiny')
    refused(command('figures', 'tiny', cwd=copy), *named)


def accept(folder):
    """As after an edit on purpose: no list of checksums."""
    for path in folder.rglob('SHA256SUMS'):
        path.unlink()


def test_no_results_yet(command, tmp_path):
    """`figures` before any run says what to do; `status` shows the plan."""
    refused(command('figures', 'demo', cwd=tmp_path), 'no run has finished', 'binenc sweep')
    done = command('status', 'demo', cwd=tmp_path)
    assert done.returncode == 0 and '24 runs' in done.stdout and 'finished' not in done.stdout, done.stdout


# ---- the place of results


def test_results_folder_is_a_file(command, tmp_path):
    """Named, and left as it is; so is a link that leads to itself."""
    (tmp_path / 'loop').symlink_to('loop')
    refused(command('run', *FAST, '--results', 'loop/below', cwd=tmp_path), 'loop/below', 'choose another')
    (tmp_path / 'results').write_text('my notes', encoding='utf-8')
    refused(command('run', *FAST, cwd=tmp_path), 'results', 'choose another')
    refused(command('sweep', 'demo', cwd=tmp_path), 'results', 'choose another')
    refused(command('plan', 'demo', cwd=tmp_path), 'results', 'choose another')
    assert (tmp_path / 'results').read_text(encoding='utf-8') == 'my notes'


def test_results_folder_is_not_writable(command, tmp_path):
    """Named, with what to do. Root may write everywhere but on a file system that is read-only."""
    results = tmp_path / 'results'
    results.mkdir(mode=0o555)
    mount = ['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', results]
    if not os.geteuid() and subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('root, and no file system may be mounted here')
    try:
        for words in ('run', *FAST), ('sweep', 'demo'):
            refused(command(*words, cwd=tmp_path), 'results', 'choose another')
    finally:
        if not os.geteuid():
            subprocess.run(['umount', results], check=True)


def small_files():
    """Let no file grow above 16 KiB, which a checkpoint does, so that writing fails much as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))


def test_full_disk(command, tmp_path):
    """Says what is in the way; without it the run continues to the same bytes."""
    run = Run(**TINY)
    done = call('run', *FAST, cwd=tmp_path, preexec_fn=small_files)
    refused(done, 'cannot write', 'raise the limit on the size of files')
    left = {path.name for path in run_folder(run, tmp_path / 'results').path.iterdir()}
    assert 'metrics.json' not in left and not [n for n in left if n[0] == '.' and n != '.guard'], 'half-written files'
    assert command('run', *FAST, cwd=tmp_path).returncode == 0
    train(run, tmp_path / 'whole')
    assert stored(run, tmp_path / 'results') == stored(run, tmp_path / 'whole')


# ---- two at a time


def test_two_jobs_on_one_run(command, tmp_path):
    """The second is refused and names the first, which is not harmed."""
    values = {**TINY, 'epochs': 1500, 'log_every': 20, 'model': 'lin_pen'}
    run, words = Run(**values), ('run', *settings(**values))
    first = start(*words, cwd=tmp_path)
    read_until(first, 'epoch ')
    refused(command(*words, cwd=tmp_path), run.id, 'is being computed by', 'wait for it')
    assert first.poll() is None, 'the run is too short for this test'
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 0 and 'finished' in out, out + errors
    folder = run_folder(run, tmp_path / 'results')
    assert folder.metrics['train_accuracy'] > 0.9 and not folder.owner and not (folder / 'failed.json').exists()
