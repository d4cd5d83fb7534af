"""What the commands say and wait for while others compute, and while the scheduler is away."""

import signal
import subprocess
import sys

import pytest

from binenc.experiment import EXPERIMENTS, expand, parse_settings
from binenc.slurm import plans_folder, write_plan
from binenc.store import run_folder
from helpers import TINY, call, environment, in_process, settings, train_slowly, wait_for

ONE = dict(experiment='tiny', model='bin_enc', replicate=0, lr='1e-3', **{**TINY, 'epochs': 80, 'log_every': 40})
WORDS = 'sweep', 'demo', *settings(**ONE)

# Says what SLURM says while its controller is down, twice; then that no job is there.
SQUEUE = """#!/bin/sh
echo asked >> {asked}
[ $(wc -l < {asked}) -gt 2 ] && exit 0
echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2
exit 1
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A run of the experiment `tiny` that another process computes."""
    [run] = expand(EXPERIMENTS['demo'].override(**parse_settings(f'{k}={v}' for k, v in ONE.items())))
    process = in_process(train_slowly, run, tmp_path / 'results')
    wait_for(lambda: run_folder(run, tmp_path / 'results').owner, what='the start of the run')
    yield run
    process.kill()
    process.join()


def test_sweep_of_what_others_compute(elsewhere, command, tmp_path):
    """Without `--wait` it ends with an error, so that nothing is drawn too early; with it, when all has finished."""
    done = command(*WORDS, cwd=tmp_path)
    assert done.returncode != 0 and '1 running of 1 runs' in done.stdout, done.stdout + done.stderr
    folder = run_folder(elsewhere, tmp_path / 'results')
    assert folder.metrics is None, 'the run is too short for this test'
    done = command(*WORDS, '--wait', cwd=tmp_path)
    assert done.returncode == 0 and 'computed by other processes: waiting' in done.stdout, done.stdout + done.stderr
    assert '1 finished of 1 runs' in done.stdout and folder.metrics['train_accuracy'] > 0.5


def test_watching_while_the_scheduler_is_away(copy, command, monkeypatch, tmp_path):
    """It says so each time, and goes on until there is an answer."""
    clients, asked = tmp_path / 'clients', tmp_path / 'asked'
    clients.mkdir()
    for name in 'squeue', 'sbatch', 'scancel':
        (clients / name).write_text(SQUEUE.format(asked=asked), encoding='utf-8')
        (clients / name).chmod(0o755)
    write_plan([], plans_folder('tiny', copy / 'results'))
    monkeypatch.setenv('PATH', str(clients), prepend=':')
    done = command('status', 'tiny', '--watch', 1, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count('Unable to contact slurm controller') == 2
    assert asked.read_text(encoding='utf-8').count('asked') == 3
    assert done.stdout.count('tiny: 8 runs') == 3


SIGNALLED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler) # ignored in what a script starts in the background
number, module = int(sys.argv.pop(1)), sys.argv.pop(1)
class Finder:
    def find_spec(name, *_):
        if name == module:
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder)
runpy.run_module('binenc', run_name='__main__')
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('module', ['typer', 'torch'])
def test_signals_before_anything_began(number, module, tmp_path):
    """A signal while modules are still imported ends the command without a traceback, and leaves nothing half made."""
    command = [sys.executable, '-c', SIGNALLED, str(int(number)), module, *map(str, WORDS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode in (130, -number) and 'Traceback' not in done.stderr, done.stdout + done.stderr
    assert not list(tmp_path.rglob('.*.????????')) and not list(tmp_path.rglob('metrics.json'))


@pytest.mark.parametrize('words, minutes', [
    (('sweep', 'demo', *settings(**{**ONE, 'experiment': 'long', 'epochs': 100_000, 'gamma_factor': 1.0})), 0.2),
    (('measure', 'tiny', '--again'), 0.001),
    (('attack', 'tiny', '--again'), 0.001),
])
def test_when_the_minutes_are_over(words, minutes, copy):
    """The command ends as by Ctrl-C."""
    done = call(*words, '--minutes', minutes, cwd=copy)
    assert done.returncode == 130 and 'Traceback' not in done.stderr, done.stdout + done.stderr
    assert words[0] != 'sweep' or 'the same command continues' in done.stdout
