"""bf16 in the backbone gives the codes that fp32 gives, and numbers that differ no more than replicates do."""

from dataclasses import replace

import numpy as np
import pytest

from binenc.experiment import expand
from binenc.results import collect
from binenc.training import train
from helpers import REPO

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
