"""A run that was stopped, killed or found its checkpoint damaged stores the same bytes as one that was left alone."""

import shutil
import signal
from dataclasses import replace

import pytest
import torch

import binenc.training as training
from binenc.arms import ARMS, PAPER_ARMS
from binenc.errors import UserError
from binenc.files import read_json, write_json
from binenc.losses import LOSSES
from binenc.run import Run
from binenc.schedules import GAMMA_SCHEDULES, LR_SCHEDULES
from binenc.store import run_folder
from binenc.training import CHECKPOINT, PREVIOUS, Stopped, find_checkpoint, read_checkpoint, train
from helpers import (
    STORED,
    TINY,
    describe,
    die_at_rename,
    in_process,
    read_until,
    settings,
    start,
    stored,
    wait_for,
)

SHORT = {**TINY, 'epochs': 3, 'train_images': 300}


def kinds():
    """Runs that between them have every further arm, every schedule of gamma and of the learning rate, and other
    settings that leave something to be continued."""
    arms = [arm for arm in ARMS if arm not in PAPER_ARMS]
    for number in range(max(map(len, (arms, GAMMA_SCHEDULES, LR_SCHEDULES)))):
        arm, gamma, lr = ([*names][number % len(names)] for names in (arms, GAMMA_SCHEDULES, LR_SCHEDULES))
        schedules = dict(gamma_schedule=gamma, gamma_max=1.0, lr_schedule=lr, lr_from=1, lr_every=1)
        yield Run(**SHORT, model=arm, **schedules, imbalance=1.0 if number else 5.0)
    yield Run(**SHORT, optimizer='sgd', model='nonlin_pen', precision='bf16', backbone='convnet')
    yield Run(**SHORT, val_fraction=0.2, augment=True, replicate=3, lr_warmup=1, output_lr=2.0)


def train_to(monkeypatch, run, results, epoch):
    """Train and stop after an epoch, by the stop file."""
    original = training.train_epoch

    def stopping(*args):
        original(*args)
        if args[0].epoch == epoch:
            (run_folder(run, results) / 'stop').touch()

    monkeypatch.setattr(training, 'train_epoch', stopping)
    with pytest.raises(Stopped, match=f'after epoch {epoch}'):
        train(run, results)
    monkeypatch.setattr(training, 'train_epoch', original)


def continued(monkeypatch, run, folder):
    """Train in one piece, and with a stop after each epoch in turn; that this changes no byte."""
    train(run, folder / 'whole')
    for epoch in range(1, run.epochs):
        train_to(monkeypatch, run, folder / 'parts', epoch)
    train(run, folder / 'parts')
    assert stored(run, folder / 'parts') == stored(run, folder / 'whole')
    assert len(stored(run, folder / 'whole')) == len(STORED)


@pytest.mark.parametrize('run', [*kinds()], ids=describe)
def test_stopped_at_every_epoch(run, tmp_path, monkeypatch):
    """One process for each epoch, as it were."""
    continued(monkeypatch, run, tmp_path)


def test_killed_before_any_rename(tmp_path):
    """SIGKILL at each moment that a file gets its name, those between the renames of the checkpoints too; then
    continued."""
    tiny, trained, number = Run(**SHORT | {'log_every': 3}), tmp_path / 'whole', 0
    train(tiny, trained)
    while True:
        results = tmp_path / str(number)
        process = in_process(die_at_rename, number, tiny, results)
        process.join(60)
        if process.exitcode == 0:
            break  # there were not so many renames
        assert process.exitcode == -signal.SIGKILL
        train(tiny, results)
        assert stored(tiny, results) == stored(tiny, trained), f'killed before rename {number}'
        number += 1
    assert number > 15 and stored(tiny, results) == stored(tiny, trained)


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    """Results folder of the run `tiny`, stopped after epoch 3: checkpoints of epochs 3 and 2."""
    results = tmp_path_factory.mktemp('half')
    with pytest.MonkeyPatch.context() as patch:
        train_to(patch, Run(**TINY), results, 3)
    return results


@pytest.fixture
def interrupted(half, tiny, tmp_path):
    """(results folder, run's folder) of the run `tiny`, stopped after epoch 3."""
    shutil.copytree(half, tmp_path / 'half')
    return tmp_path / 'half', run_folder(tiny, tmp_path / 'half')


def test_any_flipped_bit_is_noticed_or_harmless(interrupted, tiny):
    """A checkpoint with one bit turned is refused, or what is read from it is what was written."""
    path, refused = interrupted[1] / CHECKPOINT, 0
    content, whole = path.read_bytes(), as_text(read_checkpoint(path, tiny))
    for at in range(0, len(content), 211):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            assert as_text(read_checkpoint(path, tiny)) == whole, at
        except UserError:
            refused += 1
    assert refused > 50


def as_text(state):
    """What counts in a checkpoint, to the last bit."""
    weights = torch.cat([t.flatten().double() for t in state['classifier'].values()])
    return weights.tolist(), state['history'], state['epoch'], str(state['optimizer'])


def test_checkpoint_of_another_run(interrupted, tiny, capsys):
    """A checkpoint that was copied from elsewhere is not continued from."""
    results, folder = interrupted
    other = replace(tiny, replicate=1)
    shutil.copytree(folder.path, run_folder(other, results).path)
    (run_folder(other, results) / 'run.json').unlink()
    train(other, results)
    assert 'belongs to another run' in capsys.readouterr().out
    train(other, results / 'fresh')
    assert stored(other, results) == stored(other, results / 'fresh')


def test_command_stopped_in_every_way(command, tmp_path):
    """`binenc run` ended by SIGTERM, then Ctrl-C, then SIGKILL, then left alone: the bytes of a training in one
    piece."""
    values, epochs = {**TINY, 'epochs': 40, 'log_every': 1}, [0]
    run, words = Run(**values), ('run', *settings(**values))
    folder = run_folder(run, tmp_path / 'results')
    for number, code in (signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL):
        process = start(*words, cwd=tmp_path)
        read_until(process, 'epoch ')
        process.send_signal(number)
        out, errors = process.communicate(timeout=120)
        assert process.returncode == code and 'Traceback' not in errors, out + errors
        assert code != 130 or 'stopped; the same command continues' in out
        wait_for(lambda: not folder.owner, what='the end of the kernel')
        epochs.append(read_json(folder / 'progress.json')['epoch'])
    assert epochs == sorted(set(epochs)) and epochs[-1] < run.epochs, 'every attempt got further, none to the end'
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    train(run, tmp_path / 'whole')
    assert stored(run, tmp_path / 'results') == stored(run, tmp_path / 'whole')
    assert len(list(folder.path.glob('train-*.ipynb'))) >= 3


class Centred(torch.nn.Module):
    """A loss with a parameter, which is trained, and a buffer, which counts: cross entropy plus distance to centres."""

    def __init__(self, run, nodes, num_classes):
        super().__init__()
        self.centres = torch.nn.Parameter(torch.zeros(num_classes, nodes))
        self.register_buffer('batches', torch.zeros(()))

    def forward(self, out, y, run, epoch):
        self.batches += 1
        distance = (out.z - self.centres[y]).square().mean()
        return torch.nn.functional.cross_entropy(out.logits, y) + distance / self.batches


def test_a_loss_with_a_state_is_continued(tmp_path, monkeypatch):
    """Its parameters and buffers are part of the checkpoint."""
    monkeypatch.setitem(LOSSES, 'cross_entropy', Centred)
    run = Run(**SHORT, model='lin_pen')
    train_to(monkeypatch, run, tmp_path / 'half', 2)
    loss = read_checkpoint(run_folder(run, tmp_path / 'half') / CHECKPOINT, run)['loss']
    assert loss['batches'] > 0 and loss['centres'].abs().max() > 0
    continued(monkeypatch, run, tmp_path)


def test_a_checkpoint_from_before_a_field_existed(interrupted, tiny, trained, capsys):
    """What was written without the field reads as the field's default: the run is continued, not begun again."""
    results, folder = interrupted
    about = read_json(folder / 'run.json')
    del about['run']['margin']
    write_json(folder / 'run.json', about)
    for name in CHECKPOINT, PREVIOUS:
        state = torch.load(folder / name, weights_only=True)
        del state['run']['margin']
        torch.save(state, folder / name)
    assert find_checkpoint(folder)['epoch'] == 3
    train(tiny, results)
    said = capsys.readouterr().out
    assert 'damaged' not in said and 'another run' not in said
    assert stored(tiny, results) == stored(tiny, trained)
