"""What cannot be used is refused in one sentence that says what it is and what to do; nothing computed is lost."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from binenc.errors import UserError
from binenc.experiment import expand
from binenc.run import Run
from binenc.store import run_folder
from helpers import TINY, contents, read_until, run_of, settings, start, stored

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


def image_folder(path, classes=('cat', 'dog'), per_class=12, size=(8, 8), mode='L'):
    """A folder of images that can be trained on."""
    draw = np.random.default_rng(0)
    for split in 'train', 'test':
        for name in classes:
            (path / split / name).mkdir(parents=True)
            for i in range(per_class):
                shape = (*size, 3) if mode == 'RGB' else size
                Image.fromarray(draw.integers(0, 256, shape, np.uint8), mode).save(path / split / name / f'{i}.png')
    return path


def leave_out_test(path):
    shutil.rmtree(path / 'test')


def no_images(path):
    for name in 'cat', 'dog':
        shutil.rmtree(path / 'test' / name)


def strange_class(path):
    (path / 'test' / 'cow').mkdir()


def damaged_image(path):
    (path / 'train' / 'dog' / '3.png').write_bytes((path / 'train' / 'dog' / '3.png').read_bytes()[:60])


def other_size(path):
    Image.new('L', (9, 8)).save(path / 'train' / 'dog' / '3.png')


def gone(path):
    shutil.rmtree(path)


def one_class(path):
    for split in 'train', 'test':
        shutil.rmtree(path / split / 'dog')


def sixteen_bits(path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path / 'train' / 'dog' / '3.png')


def broken_link(path):
    (path / 'train' / 'dog' / 'x.png').symlink_to('nowhere.png')


@pytest.mark.parametrize(
    'spoil, named',
    [
        (gone, ['pets', 'train/ and test/']),
        (leave_out_test, ['pets', 'no folder test/', 'one folder per class']),
        (no_images, ['pets/test', 'no images']),
        (strange_class, ["'cow'", 'pets/test', 'training images']),
        (damaged_image, ['dog/3.png', 'replace or remove']),
        (other_size, ['dog/3.png is 9x8', 'is 8x8', 'resize']),
        (one_class, ["'cat'", 'two or more']),
        (sixteen_bits, ['dog/3.png', '8 bits', 'convert']),
        (broken_link, ['dog/x.png', 'remove']),
    ],
)
def test_damaged_image_folder(command, tmp_path, spoil, named):
    """Names the folder, file and class."""
    spoil(image_folder(tmp_path / 'pets'))
    refused(command('data', 'folder:pets', cwd=tmp_path), *named)


def test_splits_of_different_shape(command, tmp_path):
    """Train and test images that cannot go through one network: said before a sweep starts."""
    shutil.rmtree(image_folder(tmp_path / 'pets') / 'test')
    (image_folder(tmp_path / 'others', size=(9, 8)) / 'test').rename(tmp_path / 'pets' / 'test')
    refused(
        command('sweep', 'demo', *settings(dataset='folder:pets', experiment='pets'), cwd=tmp_path),
        'test/cat/0.png is 8x9',
        'train/cat/0.png is 8x8',
        'image_size',
    )
    assert not (tmp_path / 'results').exists()


def test_bad_data_through_the_notebook(command, tmp_path):
    """`run` says the library's sentence, not papermill's; mending the folder is enough to continue."""
    other_size(image_folder(tmp_path / 'pets'))
    words = 'run', *settings(**{**TINY, 'dataset': 'folder:pets', 'batch_size': 8})
    refused(command(*words, cwd=tmp_path), 'dog/3.png is 9x8', 'resize')
    (tmp_path / 'pets' / 'train' / 'dog' / '3.png').unlink()
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0 and 'finished' in done.stdout, done.stderr


def test_no_internet(command, tmp_path):
    """A data set that cannot be downloaded: says which, where it would be, and what can be done."""
    for words in ('data', 'cifar10'), ('sweep', 'cifar10', '--set', 'precision=fp32'):
        refused(command(*words, cwd=tmp_path), 'cifar10', 'datasets', 'binenc data cifar10')
    assert not [path for path in tmp_path.rglob('*') if path.is_file()], 'left behind'


def test_more_than_three_channels():
    """Neither grey nor colour: refused when the classifier is built."""
    from binenc.models import build_classifier

    with pytest.raises(UserError, match=r'4 channels.*grey \(1\) or colour \(3\)'):
        build_classifier(Run(backbone='resnet8'), (4, 8, 8), 10)


@pytest.mark.parametrize('wrong', [None, 3, (1, 8), 'abc', np.ones((3, 3)), [[1], [8], [8]], torch.randn(60, 4)])
def test_neither_a_shape_nor_an_experiment(wrong):
    """One sentence, whatever stands for the shape of an image or the name of an experiment."""
    from binenc.models import build_classifier

    with pytest.raises(UserError, match='channels, height and width'):
        build_classifier(Run(), wrong, 10)
    with pytest.raises(UserError, match='unknown experiment'):
        expand(wrong)


def test_transparent_images_are_read_as_colour(tmp_path):
    """A fourth channel in a file is transparency, which is dropped."""
    from binenc.data import load_data

    path = image_folder(tmp_path / 'pets', mode='RGB')
    with Image.open(path / 'train' / 'cat' / '0.png') as image:
        image.convert('RGBA').save(path / 'train' / 'cat' / '0.png')
    assert load_data('folder:pets', tmp_path).images.shape == (24, 3, 8, 8)


# ---- damaged results


def one_run(folder, model='bin_enc', replicate=0):
    """A finished run of the experiment `tiny`: its folder."""
    return next((folder / 'results' / 'tiny' / 'runs').glob(f'{model}-*-r{replicate}-*'))


def redo(folder, run):
    """The words of `binenc` that compute one run of the experiment `tiny`."""
    return 'run', 'tiny', *settings(model=run.model, replicate=run.replicate)


def test_damaged_metrics(command, tables_here, copy):
    """`status` counts it as damaged, `run` refuses, `figures` leaves it out and says so; once it is removed, the
    run is repeated."""
    path = one_run(copy) / 'metrics.json'
    whole = path.read_bytes()
    others = {k: v for k, v in contents(copy / 'results' / 'tiny' / 'runs').items() if k.parts[0] != path.parent.name}
    for content in '', '{"train_accuracy": 0.9', '[1, 2]', '\0' * 100:
        path.write_text(content, encoding='utf-8')
        done = command('status', 'tiny', cwd=copy)
        assert done.returncode == 0 and re.search(r'damaged +1\b', done.stdout), done.stdout
        assert str(path.relative_to(copy)) in done.stdout and 'remove it' in done.stdout
        refused(command(*redo(copy, run_of(path.parent)), cwd=copy), 'metrics.json', 'damaged', 'remove it')
    (copy / 'results' / 'tiny' / 'runs.csv').unlink()  # where the numbers are kept as well
    done = command('figures', 'tiny', cwd=copy)
    assert done.returncode == 0 and '1 of 8 runs' in done.stdout and path.parent.name in done.stdout, done.stdout
    path.unlink()
    assert command('sweep', 'tiny', cwd=copy).returncode == 0
    assert path.read_bytes() == whole
    assert others.items() <= contents(copy / 'results' / 'tiny' / 'runs').items()


def spoil_history(folder):
    (folder / 'history.csv').write_text('epoch,split,met', encoding='utf-8')


def half_history(folder):
    text = (folder / 'history.csv').read_text(encoding='utf-8')
    (folder / 'history.csv').write_text(text[: len(text) // 2], encoding='utf-8')


def spoil_latents(folder):
    (folder / 'latents.npz').write_bytes((folder / 'latents.npz').read_bytes()[:1000])


def spoil_run(folder):
    (folder / 'run.json').write_text('{"id": ', encoding='utf-8')


@pytest.mark.parametrize(
    'spoil, name',
    [
        (spoil_history, 'history.csv'),
        (half_history, 'history.csv'),
        (spoil_latents, 'latents.npz'),
        (spoil_run, 'run.json'),
    ],
)
def test_damaged_file_of_a_run_in_figures(command, tables_here, copy, spoil, name):
    """Named, with what to do; no other file changes."""
    folder = one_run(copy)
    spoil(folder)
    before = contents(copy / 'results' / 'tiny' / 'runs')
    refused(command('figures', 'tiny', cwd=copy), str((folder / name).relative_to(copy)), 'remove')
    assert contents(copy / 'results' / 'tiny' / 'runs') == before


def test_damaged_run_json_of_a_started_run(command, tmp_path, tiny):
    """Refused before anything is overwritten."""
    folder = run_folder(tiny, tmp_path / 'results')
    folder.path.mkdir(parents=True)
    (folder / 'run.json').write_text('{"id": ', encoding='utf-8')
    refused(command('run', *FAST, cwd=tmp_path), 'run.json', 'damaged', 'remove it')
    assert (folder / 'run.json').read_text(encoding='utf-8') == '{"id": '


@pytest.mark.parametrize(
    'content',
    [
        '{"name": "tiny", ',
        '{}',
        '{"name": "tiny", "surprise": 1}',
        '[]',
        json.dumps(dict(name='tiny', title='T', settings={}, lrs=['fast'], replicates=[0], models=['bin_enc'])),
    ],
    ids=['cut', 'empty', 'field', 'list', 'lr'],
)
def test_damaged_experiment_json(command, copy, content):
    """Named by each command that reads it; the runs stay."""
    (copy / 'results' / 'tiny' / 'experiment.json').write_text(content, encoding='utf-8')
    before = contents(copy / 'results')
    for word in ('figures', 'sweep', 'plan') if content == '{}' else []:
        refused(command(word, 'tiny', cwd=copy))
    refused(command('status', 'tiny', cwd=copy), 'experiment.json', 'damaged', 'SHA256SUMS', 'verify')
    assert contents(copy / 'results') == before
    accept(copy / 'results' / 'tiny')
    refused(
        command('status', 'tiny', cwd=copy),
        *(['lr'] if 'fast' in content else ['experiment.json', 'damaged', 'restore it']),
    )


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
    """Named, and left as it is."""
    (tmp_path / 'results').write_text('my notes', encoding='utf-8')
    refused(command('run', *FAST, cwd=tmp_path), 'results', 'choose another')
    refused(command('sweep', 'demo', cwd=tmp_path), 'results', 'choose another')
    refused(command('plan', 'demo', cwd=tmp_path), 'results', 'choose another')
    assert (tmp_path / 'results').read_text(encoding='utf-8') == 'my notes'


def mounted(folder, options):
    """Whether a small file system could be put there."""
    folder.mkdir()
    return not subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder], capture_output=True).returncode


def test_results_folder_is_not_writable(command, tmp_path):
    """Named, with what to do. Root may write everywhere but on a file system that is read-only."""
    if os.geteuid():
        (tmp_path / 'results').mkdir(mode=0o555)
    elif not mounted(tmp_path / 'results', 'ro'):
        pytest.skip('root, and no file system may be mounted here')
    try:
        for words in ('run', *FAST), ('sweep', 'demo'):
            refused(command(*words, cwd=tmp_path), 'results', 'choose another')
    finally:
        if not os.geteuid():
            subprocess.run(['umount', tmp_path / 'results'], check=True)


def small_files():
    """Let no file grow above 16 KiB, which a checkpoint does, so that writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))


def test_full_disk(binenc, command, tmp_path):
    """Says that there is no room; with room again the run continues to the same bytes."""
    run = Run(**TINY)
    done = binenc('run', *FAST, cwd=tmp_path, preexec_fn=small_files)
    refused(done, 'cannot write', 'make room')
    assert run_folder(run, tmp_path / 'results').metrics is None
    assert command('run', *FAST, cwd=tmp_path).returncode == 0
    from binenc.training import train

    train(run, tmp_path / 'whole')
    assert stored(run, tmp_path / 'results') == stored(run, tmp_path / 'whole')


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can mount a small disk')
def test_disk_that_fills_up_on_the_way(tmp_path, monkeypatch):
    """What is on the full disk stays whole, and is continued from when there is room."""
    import binenc.training as training
    from binenc.training import train

    run, disk = Run(**{**TINY, 'store_latents': False}), tmp_path / 'disk'
    if not mounted(disk, 'size=400k'):
        pytest.skip('no file system may be mounted here')
    epoch, filler = training.train_epoch, disk / 'filler'

    def filling(*args):
        epoch(*args)
        if args[0].epoch != 3:
            return
        with filler.open('wb', buffering=0) as file:  # whatever was free
            try:
                while file.write(bytes(1024)):
                    pass
            except OSError:
                pass

    try:
        monkeypatch.setattr(training, 'train_epoch', filling)
        with pytest.raises(UserError, match='cannot write .*No space left.*make room'):
            train(run, disk)
        assert not [
            p.name for p in run_folder(run, disk).path.iterdir() if p.name.startswith('.') and p.name != '.guard'
        ], 'no half-written files stay'
        filler.unlink()
        monkeypatch.setattr(training, 'train_epoch', epoch)
        train(run, disk)
        train(run, tmp_path / 'whole')
        assert stored(run, disk) == stored(run, tmp_path / 'whole')
    finally:
        subprocess.run(['umount', disk], check=True)


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
