"""One run in several processes, as on several GPUs: the same curve, and nothing is lost when one of them ends."""

import os
import signal
import time

import pytest
from torch import nn

import binenc.models as models
import binenc.training as training
from binenc.execute import Sweep, Watcher
from binenc.run import Run
from binenc.store import read_history, run_folder
from binenc.training import train_epoch

RUN = Run(epochs=12, log_every=2, width=8, deepfool_images=0, train_images=600, augment=True, norm_parts=1)


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
    """Two processes, stopped; two of which one is killed; then three: the loss curve is that of one process."""
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
    assert Sweep([RUN], tmp_path / 'several', gpus=3)().outcome[RUN] == ('finished', '')
    assert losses(tmp_path / 'several') == pytest.approx(losses(tmp_path / 'one'), rel=0, abs=1e-5)
