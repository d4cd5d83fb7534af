"""A trial finds what would end an experiment later, and goes on with what can still be tried."""

import errno
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from binenc.errors import UserError
from binenc.experiment import EXPERIMENTS
from binenc.run import Run
from binenc.slurm import Submission, trial_command
from binenc.trial import Row, new_trial, room, run_trial
from helpers import TINY, settings


@pytest.mark.parametrize('gpus, models', [(1, 'bin_enc,lin_pen'), (2, 'lin_pen')])
def test_all_is_well(gpus, models, command, asks_no_gpu, tmp_path):
    """Every stage passes, the whole is estimated, and nothing is left; with two processes a run, too."""
    done = command('trial', 'demo', *settings(**TINY | dict(model=models)), '--images', 60, '--seconds', 0.3,
                   '--gpus', gpus, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line[26:37].strip() for line in lines[:-2] if 'side by side' not in line} == {'ok'}
    assert ('--gpus 2' in lines[-1]) == (gpus == 2)
    for words in 'train lin_pen', 'same bytes', 'relative difference 0', 'images/s', '--runs-per-task', '--time=00:':
        assert words in done.stdout
    assert not list((tmp_path / 'results').iterdir())


def read_only(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, 'Read-only file system')
    monkeypatch.setattr(Path, 'mkdir', refuse)


def little_memory(monkeypatch):
    """Copies of this process may take 3 GB more than it has; a layer of this width needs 25."""
    taken = resource.getpagesize() * int(Path('/proc/self/statm').read_text(encoding='utf-8').split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * 10**9, -1))


FAULTS = {  # what is wrong -> how, settings, the stage that fails, what it says, a stage that is tried all the same
    'a results folder that is read-only': (read_only, {}, 'results folder', 'choose another', 'speed'),
    'no data': (None, dict(dataset='folder:nowhere'), 'data', "no folder 'nowhere'", 'device'),
    'no GPU': (None, dict(precision='tf32'), 'device', 'add --set precision=fp32', 'data'),
    'too little memory': (little_memory, dict(width=20_000), 'train bin_enc', 'ask for more memory', 'data'),
    'a module that is missing': (lambda patch: patch.setitem(sys.modules, 'papermill', None), {}, 'environment',
                                 'pip install', 'results folder'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_found(fault, tmp_path, monkeypatch):
    """The stage that meets it says what to do, what needs that stage is not tried, and the rest is."""
    broken, changed, stage, words, other = FAULTS[fault]
    said, limit = [], resource.getrlimit(resource.RLIMIT_AS)
    e = EXPERIMENTS['demo'].override(**TINY | dict(model='bin_enc', lr=1e-3) | changed)
    trial = new_trial(e, tmp_path, tmp_path, images=20, seconds=0.1, say=said.append)
    try:
        with monkeypatch.context() as patch:
            if broken:
                broken(patch)
            assert not run_trial(trial)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    rows = trial.rows
    assert rows[stage].state == 'failed' and words in rows[stage].words, rows[stage].words
    assert rows['attack'].state == 'not tried' and rows[other].state == 'ok', rows[other]
    assert said[:len(rows)] == [*rows.values()]


def test_too_little_room(trained):
    """What all runs will store is compared with what is free."""
    trial = replace(new_trial(EXPERIMENTS['demo'], '', ''), folder=trained, rows={
        'data': Row('', '', 0, '', {'share': 0.1}), 'results folder': Row('', '', 0, '', {'free': 10**8})})
    assert 'all runs will store' in room(trial, Run(**TINY))[0]
    trial.rows['results folder'].found['free'] = 10**6
    with pytest.raises(UserError, match='choose another results folder'):
        room(trial, Run(**TINY))


def test_what_is_submitted():
    """One short job, with the cluster's flags before its time limit, and the user's after it."""
    s = Submission('demo', Path('/r'), Path('/d'), settings=('epochs=5',), train_flags=('--gres=gpu:1', '--time=4:00'),
                   flags=('--time=5',), gpus=8)
    assert trial_command(s) == [
        'sbatch', '--parsable', '--job-name=binenc-demo-trial', '--output=/r/demo/logs/trial-%j.out',
        '--cpus-per-task=8', '--gres=gpu:8', '--time=4:00', '--time=00:10:00', '--time=5', 'slurm/trial.sbatch', 'demo',
        '--gpus=8', '--results', '/r', '--data', '/d', '--set', 'epochs=5']
