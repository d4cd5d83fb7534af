"""The protocols of the later versions: planned, submitted without sending anything, and trained for a few epochs."""

import pytest

from binenc.experiment import EXPERIMENTS, expand
from binenc.store import run_folder
from binenc.training import train
from helpers import REPO

PROTOCOLS = [name for name in EXPERIMENTS if name.rpartition('-')[2] in ('rebuttal', 'iclr', 'lpc')]
SMALL = dict(dataset='digits', train_images=100, epochs=2, log_every=2, precision='fp32', deepfool_images=0)


def test_protocols_are_planned_and_submitted(command, tmp_path):
    """Three data sets for two versions, two for the last; every run of the grid is in the arrays that would be sent."""
    assert len(PROTOCOLS) == 8
    for name in PROTOCOLS:
        wide, *_ = expand(name, model='bin_enc_wide')
        assert wide.nodes == EXPERIMENTS[name].own['bin_enc_wide']['nodes']
        done = command('submit', name, '--dry-run', '--results', tmp_path / 'results', cwd=REPO)
        assert done.returncode == 0, done.stderr
        assert f'--array=0-{len(expand(name)) - 1} ' in done.stdout


@pytest.mark.parametrize('name', ['cifar10-iclr', 'cifar10-lpc'])
def test_protocol_trains(name, tmp_path):
    """Its network, schedules and wide arm, for two epochs on a hundred digits. That of the rebuttal is the first."""
    settings = SMALL | (dict(lr_from=1) if name.endswith('lpc') else {})
    run, *_ = expand(name, model='bin_enc_wide', replicate=0, **settings)
    assert train(run, tmp_path)['train_accuracy'] > 0.05 and run_folder(run, tmp_path).metrics is not None
