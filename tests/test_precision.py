"""bf16 in the backbone gives the codes that fp32 gives, and numbers that differ no more than replicates do."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from binenc.errors import UserError
from binenc.experiment import expand
from binenc.restored import load_run
from binenc.results import collect
from binenc.run import Run
from binenc.store import run_folder
from binenc.training import train
from helpers import REPO, TINY

REPLICATES = 0, 1, 2


@pytest.fixture(scope='module')
def numbers(tmp_path_factory):
    """Final numbers of the demo's BinEnc with each precision, a list over replicates; those of fp32 are stored."""
    results = tmp_path_factory.mktemp('precision')
    fields = dict(deepfool_images=0, store_latents=False, log_every=300)
    runs = expand('demo', model='bin_enc', lr=2e-3, replicate=list(REPLICATES))
    kept = collect('demo', REPO / 'results').set_index('id').loc[[run.id for run in runs]]
    assert (kept.precision == 'fp32').all()
    return {
        'fp32': kept.to_dict('records'),
        'bf16': [train(replace(run, precision='bf16', **fields), results) for run in runs],
    }


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_one_code_a_class(numbers, precision):
    """Ten classes, ten codes, and almost all images on the code of their class."""
    for metrics in numbers[precision]:
        assert metrics['train_distinct_codes'] == 10 and metrics['train_same_encoding_fraction'] > 0.98


@pytest.mark.parametrize(
    'metric, least',
    [
        ('test_accuracy', 0.01),
        ('train_accuracy', 0.01),
        ('train_peaks_distance_mean', 0.0),
        ('train_score', 0.0),
        ('train_stds', 0.0),
    ],
)
def test_difference_within_the_spread(numbers, metric, least):
    """Means differ by less than four standard errors of their difference (three replicates estimate a deviation
    loosely), or an accuracy of 0.01."""
    low, full = (np.array([m[metric] for m in numbers[precision]]) for precision in ('bf16', 'fp32'))
    error = np.sqrt((low.var(ddof=1) + full.var(ddof=1)) / len(REPLICATES))
    assert abs(low.mean() - full.mean()) < max(4 * error, least), (low, full)


def test_bf16_is_used(numbers):
    """The two are not the same training."""
    assert all(low['train_loss'] != full['train_loss'] for low, full in zip(numbers['bf16'], numbers['fp32']))


def test_tf32_is_measured_without_a_gpu(trained, tmp_path):
    """A network trained in TF32 elsewhere can be loaded anywhere: measuring is in float32. Training it cannot be."""
    run = Run(**TINY)
    there = replace(run, precision='tf32')
    kept = tmp_path / there.experiment / 'weights' / f'{there.id}.safetensors'
    kept.parent.mkdir(parents=True)
    shutil.copy(run_folder(run, trained).path / 'weights.safetensors', kept)
    weights = [part.classifier.state_dict() for part in (load_run(run, trained), load_run(there, tmp_path))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match='tf32 needs a GPU'):
            train(there, tmp_path)
