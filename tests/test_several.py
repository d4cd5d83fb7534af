"""One run in several processes, as on several GPUs: the same curve, and nothing is lost when one of them ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from torch import nn

import binenc.models as models
import binenc.training as training
from binenc.errors import UserError
from binenc.execute import Sweep, Watcher
from binenc.run import Run
from binenc.store import read_history, run_folder
from binenc.training import train_epoch
from helpers import environment

RUN = Run(epochs=12, log_every=2, width=8, deepfool_images=0, train_images=600, augment=True, norm_parts=1)

SCRIPT = f"""
import sys
from torch import nn
import binenc.models
from binenc.training import Run, train
binenc.models.nn.BatchNorm1d = lambda *_: nn.Identity()
train({RUN}, sys.argv[1])
"""


class Ending(Watcher):
    """Once it has completed four more epochs, a run is stopped, or its second process killed."""

    def __init__(self, kill):
        self.kill, self.epochs, self.sweep, self.reasons = kill, None, None, []

    def progress(self, run, progress):
        self.epochs = self.epochs or progress['epoch'] + 2
        if progress['epoch'] < self.epochs or run not in self.sweep.running:
            return
        if not self.kill:
            self.sweep.stop()
        for process in self.sweep.running[run].process.others if self.kill else ():
            os.kill(process.process.pid, signal.SIGKILL)

    def end(self, run, state, reason):
        self.reasons.append(reason)


def slowly(*args):
    """An epoch that lasts long enough to be interrupted."""
    time.sleep(0.4)
    train_epoch(*args)


def losses(folder):
    """The mean losses in the history of the run."""
    history = read_history(run_folder(RUN, folder) / 'history.csv')
    return history[history.metric == 'loss'].value.to_numpy()


def test_as_one_process(tmp_path, monkeypatch):
    """Two processes, stopped; two of which one is killed; then three, which torchrun starts: the loss curve is that of
    one process."""
    monkeypatch.setattr(models.nn, 'BatchNorm1d', lambda *_: nn.Identity())  # its sums differ in the last digits
    monkeypatch.setattr(training, 'train_epoch', slowly)
    assert Sweep([RUN], tmp_path / 'one')().outcome[RUN] == ('finished', '')
    folder = run_folder(RUN, tmp_path / 'several')
    for kill, state in (False, 'interrupted'), (True, 'failed'):
        ending = Ending(kill)
        ending.sweep = Sweep([RUN], tmp_path / 'several', watcher=ending, gpus=2)
        assert ending.sweep().outcome[RUN][0] == state
        assert (folder / 'checkpoint.pt').exists() and not folder.finished and not folder.owner
    assert ending.reasons[0].startswith('its process was killed, or ended by itself')
    (tmp_path / 'script.py').write_text(SCRIPT, encoding='utf-8')
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=3',
                           'script.py', 'several'], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={**environment(), 'GLOO_SOCKET_IFNAME': 'lo'})
    assert done.returncode == 0 and 'continues after epoch' in done.stdout, done.stderr
    assert losses(tmp_path / 'several') == pytest.approx(losses(tmp_path / 'one'), rel=0, abs=1e-5)


def test_commands_are_not_for_torchrun(tmp_path, monkeypatch):
    """Each of its processes would compute all runs."""
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'any')
    with pytest.raises(UserError, match='start binenc without it, and add --gpus N'):
        Sweep([RUN], tmp_path)()
