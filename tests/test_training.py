"""Every model trains on every backbone and precision, and so do the later versions' protocols; the same run is the same
to the bit; bf16 in the backbone gives the codes that fp32 gives, and numbers that differ no more than replicates do."""

import math
import platform
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import version
from itertools import product

import pytest
import torch

from binenc.arms import ARMS
from binenc.data import load_splits, make_loaders
from binenc.errors import UserError
from binenc.evaluation import evaluate
from binenc.experiment import EXPERIMENTS, expand
from binenc.files import read_json
from binenc.locks import Owned, acquire
from binenc.measures import AT_THE_END, EACH_SPLIT, MEASURES
from binenc.measures import GROUPED as BY_CLASS
from binenc.restored import load_run
from binenc.results import collect
from binenc.run import Run
from binenc.store import read_history, run_folder
from binenc.training import LONG_EPOCH, WayBack, new_training, prepare, train, train_epoch
from helpers import REPO, STORED, TINY, exit_with_threads, in_process, stored

ONE = Run(**{**TINY, 'epochs': 1, 'log_every': 1, 'train_images': 300, 'batch_size': 50})


def names(*views):
    """Names of the measures of these views."""
    return [m.name for m in MEASURES.values() if m.of in views]


GROUPED = names(*BY_CLASS)
FINAL = set(names(*(view for view in AT_THE_END if not view.startswith('unknown'))))  # every class is known
EVERY_ARM = [view for view in EACH_SPLIT if view != 'mixtures']


def test_gamma_of_every_epoch_is_recorded(tmp_path):
    """The history holds the gamma that the epoch was trained with."""
    run = replace(ONE, epochs=4, gamma=2.0, gamma_factor=3.0, gamma_max=20.0)
    train(run, tmp_path)
    history = read_history(run_folder(run, tmp_path) / 'history.csv')
    assert history[history.metric == 'gamma'].value.tolist() == [2, 6, 18, 20]


# each arm once, and each backbone in each precision
EACH = [*((model, 'convnet', ('fp32', 'bf16')[i % 2]) for i, model in enumerate(ARMS)),
        *product(['bin_enc'], ('resnet8', 'mlp'), ('fp32', 'bf16')), ('bin_enc', 'convnet', 'bf16'),
        ('bin_enc', 'resnet18', 'bf16')]


@pytest.mark.parametrize('model, backbone, precision', EACH)
def test_every_model_yields_every_metric(model, backbone, precision, tmp_path):
    """One epoch on a few digits; all numbers are there and finite, in the history too."""
    run = replace(ONE, model=model, backbone=backbone, precision=precision, val_fraction=0.1)
    metrics = train(run, tmp_path)
    split = names(*EVERY_ARM, *ARMS[model].also) + [f'{name}_true' for name in GROUPED]
    assert set(metrics) == {f'{s}_{name}' for s in ('train', 'val', 'test') for name in split} | FINAL
    # NaN where one class only is predicted, fewer than two bits vary, or all classes have one code
    undefined = {f'{s}_{name}' for s in ('train', 'val', 'test') for name in (*GROUPED, 'bit_correlation')}
    unknown = {name for name, value in metrics.items() if not math.isfinite(value)}
    assert unknown <= undefined | {'confusion_distance'}
    assert metrics['test_accuracy'] > 0.05 and 0 <= metrics['mahalanobis_auroc'] <= 1


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd'])
def test_plain_and_fast_agree(optimizer):
    """channels_last and the fused optimizer change what an epoch learns by rounding only.

    Outputs are compared, because a bias before a batch norm has no gradient but rounding, which AdamW takes for
    a direction. A wrong layout or update would differ by as much as was learnt.
    """
    outputs = {}
    for speed in 'plain', 'auto':
        run = replace(ONE, speed=speed, backbone='resnet8', width=16, optimizer=optimizer)
        device = prepare(run)
        loaders = make_loaders(run, load_splits(run), device)
        training = new_training(run, (1, 8, 8), 10, device)
        before = evaluate(training.classifier, loaders['test']).logits
        train_epoch(training, loaders['train'])
        outputs[speed] = evaluate(training.classifier, loaders['test']).logits
    learnt = (outputs['plain'] - before).abs().mean()
    assert (outputs['plain'] - outputs['auto']).abs().max() < 0.02 * learnt


def test_replicates_differ_and_repeat(tmp_path):
    """Another replicate gives other numbers; the same one, in two fresh processes and in this one, the same bytes."""
    places = [tmp_path / name for name in ('first', 'second')]
    processes = [in_process(train, ONE, place) for place in places]
    for process in processes:
        process.join(60)
    train(ONE, tmp_path / 'here')
    train(replace(ONE, replicate=1), tmp_path / 'here')
    first = stored(ONE, tmp_path / 'first')
    assert first == stored(ONE, tmp_path / 'second') == stored(ONE, tmp_path / 'here') and len(first) == len(STORED)
    assert stored(replace(ONE, replicate=1), tmp_path / 'here')['metrics.json'] != first['metrics.json']


def test_threads_are_the_run_s(tmp_path):
    """torch uses as many threads as the run says."""
    for threads in 1, 2:
        process = in_process(exit_with_threads, replace(ONE, threads=threads), tmp_path)
        process.join(60)
        assert process.exitcode == threads


def test_run_json_says_how_it_was_computed(trained, tiny):
    """Configuration, versions, device and commit."""
    about = read_json(run_folder(tiny, trained) / 'run.json')
    assert Run(**about['run']) == tiny and about['id'] == tiny.id == run_folder(tiny, trained).path.name
    assert about['versions']['torch'] == version('torch') and about['versions']['python'] == platform.python_version()
    assert None not in about['versions'].values() and about['device']
    if (REPO / '.git').exists():
        head = subprocess.check_output(['git', '-C', REPO, 'rev-parse', 'HEAD'], text=True).strip()
        assert len(about['commit']) == len(head) == 40 and about['dirty'] in (True, False)


def test_a_long_epoch_gives_signs_of_life(tmp_path):
    """Where SLURM cannot be asked, an owner on another host counts as gone after an hour without one."""
    folder = run_folder(Run(), tmp_path)
    acquire(folder.path, 'a run')
    (folder / 'lock').unlink()
    back = WayBack(folder)
    back.look()  # it is too early
    back.looked.since -= LONG_EPOCH + 1
    with pytest.raises(Owned, match='was taken over by another process'):
        back.look()


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
