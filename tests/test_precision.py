"""bf16 in the backbone gives the codes that fp32 gives, and numbers that differ no more than replicates do."""

import shutil
from dataclasses import replace

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

# a metric, and a difference of it that is none
METRICS = dict(test_accuracy=0.01, train_accuracy=0.01, train_peaks_distance_mean=0.0, train_score=0.0, train_stds=0.0)


def test_bf16_gives_what_fp32_gives(tmp_path):
    """The demo's BinEnc: ten classes, ten codes, and almost all images on the code of their class. Each number is less
    than five deviations of a difference from the mean of the stored replicates in fp32, which estimate it loosely."""
    runs = expand('demo', model='bin_enc', lr=2e-3)
    full = collect('demo', REPO / 'results').set_index('id').loc[[run.id for run in runs]]
    assert (full.precision == 'fp32').all() and len(full) == 3
    low = train(replace(runs[0], precision='bf16', deepfool_images=0, store_latents=False, log_every=300), tmp_path)
    for metrics in low, *full.to_dict('records'):
        assert metrics['train_distinct_codes'] == 10 and metrics['train_same_encoding_fraction'] > 0.98
    for metric, least in METRICS.items():
        error = full[metric].std() * (1 + 1 / len(full))**0.5
        assert abs(low[metric] - full[metric].mean()) < max(5 * error, least), metric
    assert low['train_loss'] not in [*full.train_loss], 'the same training'


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
