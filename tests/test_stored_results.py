"""The results in the repository: complete, small, and what their commands give again."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from binenc import figures
from binenc import tables as tables_of
from binenc.experiment import EXPERIMENTS, expand, part_line
from binenc.files import package_version
from binenc.measures import MEASURES
from binenc.results import select
from binenc.run import DEFAULTS
from binenc.store import is_measured, run_folder, runs_with_weights, stored_experiment, stored_numbers
from binenc.training import device_name, train
from helpers import REPO, tracked

RESULTS = REPO / 'results'
KEPT = sorted(path.parent.name for path in RESULTS.glob('*/experiment.json') if (path.parent / 'runs.csv').exists())
NO_POINTS = ['cifar10-jpeg-cpu'] # its tables and figures are kept, which were drawn while its points were; no overview
WITHDRAWN = ['mnist-small-imbalanced'] # only its numbers are kept, to say what was taken back
STORED = [name for name in KEPT if stored_experiment(name, RESULTS).settings.get('store_latents', True)
          and name not in WITHDRAWN] # without latents they only pick learning rates, or change one thing
SUMMARIES = {
    'overview_code': tables_of.code_summary,
    'overview_performance': tables_of.performance_summary,
    'table1_accuracy': tables_of.accuracy_table,
    'table2_auroc': tables_of.auroc_table,
    'table3_perturbation': tables_of.perturbation_table,
}


RATES = [name for name in KEPT if name.endswith('-rates')]


def files(experiment, pattern):
    return sorted((RESULTS / experiment).glob(pattern))


def test_origin_is_known():
    """Every finished run has its commit and versions, and its code was committed; selected.csv is what the
    experiment's rule selects from runs.csv."""
    for experiment in KEPT:
        runs, selected = (pd.read_csv(RESULTS / experiment / f'{name}.csv') for name in ('runs', 'selected'))
        done = runs[runs.finished]
        assert len(done) and done[['commit', 'torch', 'device']].notna().all().all() and not done.dirty.any()
        assert set(select(runs, stored_experiment(experiment, RESULTS).selection).id) == set(selected.id)


@pytest.mark.parametrize('experiment', STORED)
def test_complete(experiment):
    """Each model has five replicates or more (`demo` three), or tables say that more are to come; what is missing is
    named below the tables; nothing is large."""
    stored = stored_experiment(experiment, RESULTS)
    runs = pd.read_csv(RESULTS / experiment / 'runs.csv')
    done = runs[runs.finished]
    assert {run.id for run in expand(stored)} == set(runs.id) and set(done.model) == set(stored.models)
    assert set(done.groupby('model').replicate.nunique()) == {len(stored.replicates)}
    named = (RESULTS / experiment / 'tables' / 'table1_accuracy.md').read_text(encoding='utf-8')
    enough = len(stored.replicates) >= (3 if experiment == 'demo' else 5)
    assert enough or part_line(stored) and part_line(stored) in named
    latents = files(experiment, 'latents/*.npz')
    assert [path.stem for path in latents] == (sorted(stored.models) if experiment not in NO_POINTS else [])
    names = {path.stem for path in files(experiment, 'figures/*.png')}
    assert names == {path.stem for path in files(experiment, 'figures/*.pdf')}
    assert {'codes', 'figure1_binarity', 'figure5_accuracy'} <= names
    assert ('overview' in names) == (experiment not in NO_POINTS)


def test_small():
    """All that is kept of results takes less than 40 MB, and no file more than 3 MB."""
    sizes = [Path(REPO, name).stat().st_size for name in tracked('results')]
    assert sizes and sum(sizes) < 40e6 and max(sizes) < 3e6


@pytest.mark.parametrize('experiment, accuracy', [('fashion', 0.925), ('cifar10-jpeg-cpu-32', 0.80)])
def test_networks_for_all_images_are_worth_a_verdict(experiment, accuracy):
    """They learn their training images, NoPen tests well, and BinEnc's codes are distinct and nearly complete; the
    weights of its first selected run are kept."""
    runs = pd.read_csv(RESULTS / experiment / 'selected.csv')
    ours = runs[runs.model == 'bin_enc'].sort_values('replicate')
    assert runs.train_accuracy.min() > 0.98 and runs.test_accuracy[runs.model == 'no_pen'].mean() >= accuracy
    assert ours.train_distinct_codes.eq(10).all() and ours.train_same_encoding_fraction.mean() >= 0.985
    assert (RESULTS / experiment / 'weights' / f'{ours.id.iloc[0]}.safetensors').stat().st_size < 2e6


# What runs of a model must have reached before validation accuracy picks one, where the chapter says that they must.
CODES = 'train_distinct_codes == 10 and train_same_encoding_fraction >= 0.985'
REACHED = {'cifar10-jpeg-cpu-rates': f'model != "bin_enc" or ({CODES})'}


def test_replicates_have_the_rates_that_were_best():
    """Every rate was tried, and each model of the preset has its best one."""
    for name in RATES:
        runs = pd.read_csv(RESULTS / name / 'runs.csv')
        preset = EXPERIMENTS[name.removesuffix('-rates')]
        assert runs.finished.all() and len(runs) == len(expand(name)), 'the preset has rates that were not all tried'
        picked = select(runs.query(REACHED.get(name, 'finished')), stored_experiment(name, RESULTS).selection)
        assert {(run.model, run.lr) for run in expand(preset)} == set(zip(picked.model, picked.lr, strict=True))


def test_tables_follow_from_the_runs():
    """Of the demo, drawn again to the byte, with pictures that are not empty; `make figures` draws all of them."""
    results, tables = figures.StoredResults(['demo'], RESULTS), RESULTS / 'demo' / 'tables'
    for name, summary in SUMMARIES.items():
        table = summary(results)
        text = tables_of.as_markdown(table, results.captions())
        assert (tables / f'{name}.md').read_text(encoding='utf-8') == text, name
        assert (tables / f'{name}.csv').read_text(encoding='utf-8') == table.to_csv(index=False), name
    for path in files('demo', 'figures/*.png'):
        assert np.ptp(figures.plt.imread(path)) > 0.5, path


def made_here(row):
    """Whether torch and the CPU are those of a stored run. Runs that name no maker of the CPU were made on AMD's."""
    device = row.device if len(row.device.split()) > 2 else f'{row.device} AuthenticAMD'
    return (row.torch, device) == (package_version('torch'), device_name(torch.device('cpu')))


def test_stored_run_comes_out_again(tmp_path):
    """One run of the demo, trained anew: every number to the bit where torch and the CPU's instructions are those
    of the stored run. SciPy's BLAS has kernels for each generation of CPUs, so that what comes from it may be rounded
    otherwise."""
    row = pd.read_csv(RESULTS / 'demo' / 'selected.csv').query('model == "bin_enc"').iloc[0]
    run = next(run for run in expand(stored_experiment('demo', RESULTS)) if run.id == row.id)
    metrics = train(run, tmp_path)
    torch.set_num_threads(1)
    if not made_here(row):
        assert metrics['test_accuracy'] == pytest.approx(row.test_accuracy, abs=0.03)
        return
    stored = row.drop([*DEFAULTS, 'id', 'finished', 'device', 'commit', 'dirty', 'torch'], errors='ignore').to_dict()
    shared = sorted(stored.keys() & metrics.keys())
    assert len(shared) > 150
    for name in shared:
        rounding = 1e-12 if name == 'one_vs_rest' else 0
        assert metrics[name] == pytest.approx(stored[name], rel=rounding, abs=0, nan_ok=True), name
    new = np.load(next(tmp_path.glob('demo/runs/*/latents.npz')))
    kept = np.load(RESULTS / 'demo' / 'latents' / 'bin_enc.npz')
    assert all(np.array_equal(kept[name], new[f'{name}_train']) for name in ('z', 'y', 'pred'))


# Of these views a measure may jump where one image changes sides.
COUNTED = 'predictions', 'errors', 'confidence', 'temperature', 'decoding'


def tolerance(column, same_cpu):
    """Relative and absolute: on the CPU of the stored results 1e-6; elsewhere sums are made in another order, which
    decides ties and images at a boundary: 5%, or one of the 360 test images where images are counted."""
    if same_cpu:
        return {'rel': 1e-6, 'abs': 1e-6}
    counted = (m.name for m in MEASURES.values() if m.of in COUNTED)
    return {'rel': 0.05, 'abs': 1 / 360 if column.endswith(tuple(counted)) else 1e-9}


def test_committed_weights_give_the_stored_numbers(tmp_path, command, draw_here):
    """As in a clone, without any run's folder: `binenc measure` takes every measure of every run with committed
    weights again."""
    shutil.copytree(RESULTS / 'demo', tmp_path / 'demo', ignore=shutil.ignore_patterns('runs', 'notebooks', '.*'))
    runs = runs_with_weights(expand(stored_experiment('demo', tmp_path)), tmp_path)
    assert len(runs) == 12 and {run.model for run in runs} == {'bin_enc', 'lin_pen', 'nonlin_pen', 'no_pen'}
    before = {run: stored_numbers(run, tmp_path) for run in runs}
    done = command('measure', 'demo', '--jobs', 1, '--results', tmp_path, cwd=tmp_path)
    torch.set_num_threads(1)
    assert done.returncode == 0, done.stdout + done.stderr
    same_cpu = made_here(pd.read_csv(RESULTS / 'demo' / 'selected.csv').iloc[0])
    for run in runs:
        assert is_measured(run, MEASURES.values(), tmp_path)
        taken = run_folder(run, tmp_path).metrics
        both = before[run].keys() & taken.keys()
        assert len(both) > 150
        for column in both:
            wanted = pytest.approx(before[run][column], nan_ok=True, **tolerance(column, same_cpu))
            assert taken[column] == wanted, f'{column} of {run.id}'
