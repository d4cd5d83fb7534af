"""Fixtures: the command, and one small experiment that is computed once."""
import shutil
import subprocess

import pytest

from binenc.experiment import Run
from helpers import BINENC, TINY, environment, settings

EXPERIMENT = dict(experiment='tiny', replicate='0,1', lr='1e-3', **TINY)


def call(*words, cwd, **options):
    """`binenc WORDS` in a folder, ended; output and errors as text."""
    return subprocess.run([BINENC, *map(str, words)], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=300, **options)


@pytest.fixture(scope='session')
def binenc():
    """Runs the command in a folder: `binenc('status', 'tiny', cwd=folder)`."""
    return call


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
    """Folder with `results/` of the experiment `tiny`: four models, two replicates, swept and drawn by the command. Not to be changed: see `copy`."""
    folder = tmp_path_factory.mktemp('finished')
    for words in ('sweep', 'demo', *settings(**EXPERIMENT)), ('figures', 'tiny'):
        done = call(*words, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / f'{words[0]}.txt').write_text(done.stdout)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of `finished`, to be changed."""
    shutil.copytree(finished, tmp_path / 'copy')
    return tmp_path / 'copy'
