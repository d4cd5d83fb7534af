"""The protocols of the later versions: planned, submitted without sending anything, and trained for a few epochs."""

import pytest

from binenc.experiment import EXPERIMENTS, expand
from binenc.store import run_folder
from binenc.training import train
from helpers import REPO

PROTOCOLS = [name for name in EXPERIMENTS if name.rpartition('-')[2] in ('rebuttal', 'iclr', 'lpc')]
SMALL = dict(dataset='digits', train_images=100, epochs=2, log_every=2, precision='fp32', deepfool_images=0)


def test_all_protocols_are_here():
    """Three data sets for two versions, two for the last."""
    assert len(PROTOCOLS) == 8


@pytest.mark.parametrize('name', PROTOCOLS)
def test_protocol_is_planned_and_submitted(name, command, tmp_path):
    """Every run of the grid is in the arrays that would be sent."""
    done = command('submit', name, '--dry-run', '--results', tmp_path / 'results', cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert f'--array=0-{len(expand(name)) - 1} ' in done.stdout


@pytest.mark.parametrize('name', PROTOCOLS)
def test_protocol_trains(name, tmp_path):
    """Its network, schedules and wide arm, for two epochs on a hundred digits."""
    settings = SMALL | (dict(lr_from=1) if name.endswith('lpc') else {})
    run = expand(name, model='bin_enc_wide', replicate=0, **settings)[0]
    assert run.nodes == EXPERIMENTS[name].own['bin_enc_wide']['nodes']
    metrics = train(run, tmp_path)
    assert metrics['train_accuracy'] > 0.05 and run_folder(run, tmp_path).metrics is not None
