"""From the sweep to the figures, as someone who uses the command sees it."""
import re
import shutil
import signal
from dataclasses import replace

import pandas as pd
import pytest

from binenc.experiment import EXPERIMENTS, expand
from binenc.store import run_folder, store_experiment, stored_experiment
from helpers import TINY, contents, settings, start, stored, wait_for

FIGURES = ['codes', 'figure1_binarity', 'figure2_histograms', 'figure3_encoding', 'figure4_within_class', 'figure5_accuracy', 'overview']
TABLES = ['overview_code', 'overview_performance', 'table1_accuracy', 'table2_auroc', 'table3_perturbation']


def runs_of(folder): return expand(stored_experiment('tiny', folder / 'results'))


def test_sweep_says_what_it_does(finished):
    """The sweep counts what is to do and what became of it."""
    said = (finished / 'sweep.txt').read_text()
    assert '2 of 8 runs to do' in said and said.count(': finished in ') == 2 and '8 finished of 8 runs' in said


def test_a_run_leaves_what_the_design_promises(finished):
    """Configuration with provenance, history, numbers and latents of each run; no checkpoint, lock or failure."""
    for run in runs_of(finished):
        names = {path.name for path in run_folder(run, finished / 'results').path.iterdir()}
        assert {'run.json', 'history.csv', 'metrics.json', 'latents.npz', 'progress.json'} <= names
        assert not [n for n in names if n.startswith(('checkpoint', 'lock', 'stop', 'failed'))], names


def test_the_notebook_computes_what_the_library_does(finished, tmp_path):
    """A run through papermill stores the bytes of `binenc.training.train`."""
    from binenc.training import train
    for run in [run for run in runs_of(finished) if (run_folder(run, finished / 'results') / 'train-1.ipynb').exists()]:
        train(run, tmp_path)
        assert stored(run, finished / 'results') == stored(run, tmp_path)


def test_sweep_again_does_nothing(command, copy):
    """All is finished: no file of a run is written again."""
    before = contents(copy / 'results' / 'tiny' / 'runs')
    done = command('sweep', 'tiny', cwd=copy)
    assert done.returncode == 0 and '8 finished of 8 runs' in done.stdout and 'to do' not in done.stdout
    assert contents(copy / 'results' / 'tiny' / 'runs') == before


def test_finished_sweep_is_remembered(command, copy):
    """A sweep that finds nothing to do, say with its runs copied here, still tells `figures` which experiment there is."""
    (copy / 'results' / 'tiny' / 'experiment.json').unlink()
    assert command('sweep', 'demo', *settings(experiment='tiny', replicate='0,1', lr='1e-3', **TINY), cwd=copy).returncode == 0
    assert command('status', 'tiny', cwd=copy).returncode == 0


def test_status(command, finished):
    """All runs are counted as finished."""
    done = command('status', 'tiny', cwd=finished)
    assert done.returncode == 0 and 'tiny: 8 runs' in done.stdout and re.search(r'finished +8\b', done.stdout), done.stdout
    assert not re.search(r'failed|damaged|running|new', done.stdout), done.stdout


def test_every_figure_and_table_is_there(finished):
    """All figures as PDF and PNG, all tables as CSV and Markdown; `figures` prints the tables."""
    folder, said = finished / 'results' / 'tiny', (finished / 'figures.txt').read_text()
    for name in FIGURES:
        assert (folder / 'figures' / f'{name}.pdf').read_bytes().startswith(b'%PDF')
        assert (folder / 'figures' / f'{name}.png').read_bytes().startswith(b'\x89PNG')
    for name in TABLES:
        table, text = pd.read_csv(folder / 'tables' / f'{name}.csv'), (folder / 'tables' / f'{name}.md').read_text()
        assert list(table.model.unique()) == ['BinEnc', 'LinPen', 'NonlinPen', 'NoPen'] and (table.n[table.metric != 'distance of peaks'] == 2).all()
        assert 'best validation accuracy' in text and 'missing' not in text
        assert name in said and text.splitlines()[2] in said
    codes = pd.read_csv(folder / 'tables' / 'codes_tiny.csv')
    assert list(codes) == ['class', 'bit 1', 'bit 2', 'bit 3', 'bit 4', 'share'] and len(codes) == 10


def test_table_is_the_mean_of_the_runs(finished):
    """Table 1, computed here from the runs' own files."""
    table = pd.read_csv(finished / 'results' / 'tiny' / 'tables' / 'table1_accuracy.csv')
    shown = table[(table.model == 'NoPen') & (table.metric == 'test accuracy')].iloc[0]
    values = pd.Series([run_folder(r, finished / 'results').metrics['test_accuracy'] for r in runs_of(finished) if r.model == 'no_pen'])
    assert shown['mean'] == pytest.approx(values.mean()) and shown['std'] == pytest.approx(values.std())


def pictures_and_tables(folder):
    """Bytes of all figures and tables."""
    return {path.relative_to(folder): path.read_bytes() for part in ('figures', 'tables') for path in sorted((folder / part).iterdir())}


def test_figures_without_the_runs(binenc, copy):
    """What is committed is enough to draw everything again, to the byte."""
    folder = copy / 'results' / 'tiny'
    before = pictures_and_tables(folder)
    for part in 'runs', 'figures', 'tables', 'notebooks': shutil.rmtree(folder / part)
    done = binenc('figures', 'tiny', cwd=copy)
    assert done.returncode == 0, done.stderr
    assert pictures_and_tables(folder) == before


def test_missing_run_is_named(command, draw_here, copy):
    """A run that was deleted is not in the tables, and both they and the command say so."""
    gone = runs_of(copy)[-1]
    shutil.rmtree(run_folder(gone, copy / 'results').path)
    (copy / 'results' / 'tiny' / 'runs.csv').unlink() # in which its numbers are kept
    done = command('figures', 'tiny', cwd=copy)
    assert done.returncode == 0 and 'tiny: 1 of 8 runs are missing' in done.stdout, done.stderr
    for name in TABLES: assert f'1 of 8 runs are missing: {gone.id}' in (copy / 'results' / 'tiny' / 'tables' / f'{name}.md').read_text()
    table = pd.read_csv(copy / 'results' / 'tiny' / 'tables' / 'table1_accuracy.csv')
    assert table[table.model == 'NoPen'].n.eq(1).all() and table[table.model == 'BinEnc'].n.eq(2).all()


def add_experiment(folder):
    """A second experiment, `other`, of two models, selected by the test images. Returns it."""
    from binenc.training import train
    other = EXPERIMENTS['demo'].override(experiment='other', model=['bin_enc', 'no_pen'], lr=1e-2, replicate=0, **{**TINY, 'nodes': 6})
    other = replace(other, title='Other', selection='test')
    for run in expand(other): train(run, folder / 'results')
    store_experiment(other, folder / 'results')


def test_two_experiments_as_columns(command, draw_here, copy):
    """The tables hold both, in the order given; each keeps its own rule of selection."""
    add_experiment(copy)
    done = command('figures', 'tiny', 'other', cwd=copy)
    assert done.returncode == 0, done.stderr
    folder = copy / 'results' / 'tiny+other'
    assert sorted(path.stem for path in (folder / 'figures').glob('*.png')) == FIGURES
    table = pd.read_csv(folder / 'tables' / 'table1_accuracy.csv')
    assert list(table.experiment.unique()) == ['Digits', 'Other']
    assert list(table[table.experiment == 'Other'].model.unique()) == ['BinEnc', 'NoPen']
    text = (folder / 'tables' / 'table1_accuracy.md').read_text()
    assert 'Digits: learning rate with the best validation accuracy' in text and 'Other: learning rate with the best test accuracy' in text
    assert len(pd.read_csv(folder / 'tables' / 'codes_other.csv').filter(like='bit ').columns) == 6


def test_experiments_of_one_title_stay_apart(copy):
    """The same data set twice: each has rows, a column and a title of its own."""
    from binenc import figures
    add_experiment(copy)
    path = copy / 'results' / 'other' / 'experiment.json'
    path.write_text(path.read_text().replace('"Other"', '"Digits"'))
    results = figures.Results(['tiny', 'other'], copy / 'results')
    assert list(figures.claims_table(results))[1:] == ['Digits (tiny)', 'Digits (other)']
    assert figures.as_markdown(figures.accuracy_table(results), []).count('| NoPen |') == 2


def test_number_of_fewer_runs_says_so():
    """A metric that one replicate does not have is a mean over the others, and not passed off as one over all."""
    from binenc.figures import as_markdown
    table = pd.DataFrame([('Digits', 'BinEnc', 'accuracy', 0.5, 0.1, 3), ('Digits', 'BinEnc', 'AUROC', 0.7, 0.1, 2)],
                         columns=['experiment', 'model', 'metric', 'mean', 'std', 'n'])
    assert '| Digits | BinEnc | 3 | 0.50 ± 0.10 | 0.70 ± 0.10 (n = 2) |' in as_markdown(table, [])


def test_preset_is_not_changed_by_a_trial(command, tmp_path):
    """After a trial with other settings, the preset's name means the preset; only `status` and `figures` speak of what was run."""
    assert command('sweep', 'demo', *settings(**TINY, model='no_pen', lr='1e-3,1e-3', replicate='0'), cwd=tmp_path).returncode == 0
    assert 'demo: 1 runs' in command('status', 'demo', cwd=tmp_path).stdout
    assert 'demo: 24 runs' in command('plan', 'demo', cwd=tmp_path).stdout


def test_diverged_run_through_the_notebook(command, tmp_path):
    """Nothing to draw and little to say of it, but it is finished, and executing it again finds it so."""
    words = 'run', *settings(**{**TINY, 'epochs': 2, 'lr': 1e30, 'optimizer': 'sgd'})
    for _ in range(2):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0 and 'finished: ' in done.stdout, done.stdout + done.stderr
    assert not list(tmp_path.rglob('failed.json'))


def test_sweep_interrupted_and_continued(binenc, tmp_path):
    """Ctrl-C in the middle of a sweep; the same command computes the rest, to the bytes of undisturbed runs."""
    from binenc.training import train
    values = dict(experiment='tiny', model='bin_enc,no_pen', replicate=0, lr='1e-3', **{**TINY, 'epochs': 150, 'log_every': 5})
    words = 'sweep', 'demo', '--jobs', 2, *settings(**values)
    process, results = start(*words, cwd=tmp_path), tmp_path / 'results'
    wait_for(lambda: len(list(results.glob('tiny/runs/*/checkpoint.pt'))) == 2, what='a checkpoint of both runs')
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and 'the same command continues' in out and 'Traceback' not in errors, out + errors
    runs = runs_of(tmp_path)
    assert all(run_folder(run, results).metrics is None for run in runs), 'the runs are too short for this test'
    assert '2 interrupted of 2 runs' in out
    done = binenc(*words, cwd=tmp_path)
    assert done.returncode == 0 and '2 finished of 2 runs' in done.stdout, done.stdout + done.stderr
    for run in runs:
        train(run, tmp_path / 'whole')
        assert stored(run, results) == stored(run, tmp_path / 'whole')


def test_interrupted_at_once(binenc, tmp_path):
    """Ctrl-C while kernels still start is not forgotten."""
    run_words = 'run', *settings(**{**TINY, 'epochs': 100_000})
    process = start(*run_words, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob('results/scratch/runs/*')), what='the folder of the run')
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and 'Traceback' not in errors, out + errors
