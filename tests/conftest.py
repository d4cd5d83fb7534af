"""Fixtures: the command, and one small experiment that is computed once."""

import contextlib
import gc
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from binenc import locks
from binenc.run import Run
from helpers import REPO, STARTED, TINY, environment, run_notebook_here, settings

torch.set_num_threads(1)  # a process with threads may not be forked, and several tests run side by side
EXPERIMENT = dict(experiment='tiny', replicate='0,1', lr='1e-3', **TINY)


def caller(monkeypatch):
    """As `helpers.call`, but in this process, which spares the seconds in which a new one imports torch."""
    from binenc.commands import main

    for name, value in environment().items():
        monkeypatch.setenv(name, value)

    def here(*words, cwd):
        out, errors, code = io.StringIO(), io.StringIO(), 0
        monkeypatch.setattr(sys, 'argv', ['binenc', *map(str, words)])
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        return subprocess.CompletedProcess(words, code, out.getvalue(), errors.getvalue())

    return here


@pytest.fixture(autouse=True)
def processes_end():
    """Also where a test fails: a command that was to be interrupted would go on for ever."""
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture
def command(monkeypatch):
    """Runs the command as a user does, but in this process: `command('status', 'tiny', cwd=folder)`."""
    return caller(monkeypatch)


@pytest.fixture
def asks_no_gpu(monkeypatch):
    """In this process, any question to CUDA is an error; its copies may ask."""
    parent = os.getpid()

    def guarded(name, ask):
        def asked(*args):
            assert os.getpid() != parent, f'{name} was called in the process that forks'
            return ask(*args)
        return asked

    for module, name in ((torch._C, '_cuda_getDeviceCount'), (torch._C, '_cuda_init'), (torch.cuda, 'is_available'),
                         (torch.cuda, 'device_count'), (torch.cuda, '_lazy_init')):
        monkeypatch.setattr(module, name, guarded(name, getattr(module, name)))


@pytest.fixture
def draw_here(monkeypatch):
    """`command` draws figures without papermill."""
    monkeypatch.setattr('binenc.execute.execute_notebook', run_notebook_here)


@pytest.fixture
def tables_here(draw_here, monkeypatch):
    """The same with empty pictures: writing them takes most of the time."""
    def empty(figure, folder, name):
        paths = [Path(folder) / 'figures' / f'{name}.{ending}' for ending in ('pdf', 'png')]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.touch()
        return paths

    monkeypatch.setattr('binenc.figures.save_figure', empty)


@pytest.fixture
def tiny():
    """A run of about a second."""
    return Run(**TINY)


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """Results folder of the run `tiny`, trained without interruption in this process."""
    from binenc.training import train

    folder = tmp_path_factory.mktemp('trained')
    train(Run(**TINY), folder)
    return folder


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
    """Folder with `results/` of the experiment `tiny`: four models, two replicates. Not to be changed: see `copy`.

    Test processes side by side share it: the first that needs it computes it.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder) / 'finished'
    with FileLock(f'{folder}.lock'):
        if not (folder / 'figures.txt').exists():
            compute(folder)
    return folder


def compute(folder):
    """Six runs of `tiny` in this process, which is quick, two in kernels of the sweep; figures in this process."""
    from binenc.experiment import EXPERIMENTS, expand, parse_settings
    from binenc.training import train

    folder.mkdir()
    for run in expand(EXPERIMENTS['demo'].override(**parse_settings(f'{k}={v}' for k, v in EXPERIMENT.items()))):
        if run.replicate or run.model in ('lin_pen', 'nonlin_pen'):
            train(run, folder / 'results')
    with pytest.MonkeyPatch.context() as patch:
        command = caller(patch)
        for words in ('sweep', 'demo', *settings(**EXPERIMENT)), ('figures', 'tiny', '--jobs', 1):
            done = command(*words, cwd=folder)
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / f'{words[0]}.txt').write_text(done.stdout, encoding='utf-8')
            patch.setattr('binenc.execute.execute_notebook', run_notebook_here)


# What takes longest comes first, so that processes side by side end at about the same time.
LONG = (
    'test_sample', 'test_command_stopped_in_every_way', 'test_sweep_interrupted_and_continued',
    'test_what_each_extension_changes', 'test_sweep_says_what_it_does', 'test_full_disk', 'test_damaged_metrics',
    'test_figures_without_the_runs', 'test_bf16_gives_what_fp32_gives', 'test_package.py', 'test_attacks.py',
    'test_protocol_trains', 'test_two_jobs_on_one_run', 'test_killed_before_any_rename', 'test_report.py',
    'test_torture.py',
)
# The tests of these files share what takes long to make, and run in one process.
TOGETHER = ('test_package.py', 'test_report.py')


class OneByOne(LoadScopeScheduling):
    """Gives each process one test after the other, and the files in `TOGETHER` as a whole."""

    def _split_scope(self, nodeid):
        file = Path(nodeid.partition('::')[0]).name
        return file if file in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config, log):
    return OneByOne(config, log)


def place(item):
    """Where a test stands in `LONG`."""
    names = item.path.name, getattr(item, 'originalname', item.name)
    return min((LONG.index(name) for name in names if name in LONG), default=len(LONG))


def pytest_collection_modifyitems(items):
    items.sort(key=place)


def pytest_collection_finish():
    """What has been imported by now lives on: the collector of garbage need not look at it again and again."""
    gc.freeze()


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of `finished`, to be changed."""
    shutil.copytree(finished, tmp_path / 'copy')
    return tmp_path / 'copy'


@pytest.fixture
def slurm_says(tmp_path, monkeypatch):
    """Sets what SLURM's commands do, in the shell's words: scripts that answer as they are told. Returns a function
    that tells what each was asked."""
    asked = tmp_path / 'asked'
    asked.touch()
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=':')
    monkeypatch.setenv('BINENC_REPO', str(REPO))
    for name in 'SLURM_CLUSTERS', 'SBATCH_CLUSTERS':
        monkeypatch.delenv(name, raising=False)

    def answer(**scripts):
        locks._ANSWERS.clear()
        locks._local_cluster.cache_clear()
        for name in ('sbatch', 'squeue', 'scancel', 'scontrol'):
            script = tmp_path / 'bin' / name
            script.write_text(f'#!/bin/sh\necho "{name} $*" >> {asked}\n{scripts.get(name, "")}\n', encoding='utf-8')
            script.chmod(0o755)
        return lambda name: [line for line in asked.read_text(encoding='utf-8').splitlines() if line.startswith(name)]

    answer()
    return answer
