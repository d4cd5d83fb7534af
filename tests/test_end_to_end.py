"""From the sweep to the figures, as someone who uses the command sees it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from binenc import claims, figures, tables
from binenc.experiment import EXPERIMENTS, expand
from binenc.files import write_stored
from binenc.store import keep_experiment, run_folder, stored_experiment
from binenc.training import train
from helpers import (
    FIGURES,
    STORED,
    TINY,
    contents,
    environment,
    run_notebook_here,
    settings,
    start,
    stored,
    wait_for,
)

TABLES = ['overview_code', 'overview_performance', 'table1_accuracy', 'table2_auroc', 'table3_perturbation']


def runs_of(folder):
    return expand(stored_experiment('tiny', folder / 'results'))


def test_sweep_says_what_it_does(finished):
    """The sweep counts what is to do and what became of it."""
    said = (finished / 'sweep.txt').read_text(encoding='utf-8')
    device = 'GPU' if torch.cuda.is_available() else 'CPU'
    assert '2 of 8 runs to do' in said and f' at a time on the {device}' in said
    assert said.count(': finished in ') == 2 and '8 finished of 8 runs' in said, said


def test_a_process_lost_after_its_run_was_stored(command, tmp_path, monkeypatch):
    """The run is finished, and said to be; what happened to the executed notebook is a note."""

    def lose(*words):
        run_notebook_here(*words)
        os._exit(9)

    monkeypatch.setattr('binenc.execute.execute_notebook', lose)
    one = settings(experiment='tiny', model='no_pen', replicate=0, lr='1e-3', **TINY)
    done = command('sweep', 'demo', *one, '--jobs', 1, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(': finished in ') == 1, done.stdout + done.stderr
    assert 'note: its process was killed' in done.stdout and not list(tmp_path.rglob('failed.json'))


def test_a_run_leaves_what_the_design_promises(finished):
    """Configuration with provenance, history, numbers and latents of each run; no checkpoint, lock or failure."""
    for run in runs_of(finished):
        names = {path.name for path in run_folder(run, finished / 'results').path.iterdir()}
        assert {'run.json', 'progress.json', *STORED} <= names
        assert not [n for n in names if n.startswith(('checkpoint', 'lock', 'stop', 'failed'))], names


def test_the_notebook_computes_what_the_library_does(finished, tmp_path):
    """A run through papermill stores the bytes of `binenc.training.train`."""
    for run in [run for run in runs_of(finished) if (run_folder(run, finished / 'results') / 'train-1.ipynb').exists()]:
        train(run, tmp_path)
        assert stored(run, finished / 'results') == stored(run, tmp_path)


def test_sweep_again_does_nothing(command, copy):
    """All is finished: no file of a run is written again. A clone, which has the tables alone, knows it too."""
    before = contents(copy / 'results' / 'tiny' / 'runs')
    for there in True, False:
        done = command('sweep', 'tiny', cwd=copy)
        assert done.returncode == 0 and '8 finished of 8 runs' in done.stdout and 'to do' not in done.stdout
        said = command('status', 'tiny', cwd=copy).stdout
        assert re.search(r'finished +8\b', said) and not re.search(r'failed|damaged|running|new', said), said
        if there:
            assert contents(copy / 'results' / 'tiny' / 'runs') == before
            shutil.rmtree(copy / 'results' / 'tiny' / 'runs')
    assert 'digits train: 1,437 images' in command('data', 'tiny', cwd=copy).stdout


def test_every_figure_and_table_is_there(finished):
    """All figures as PDF and PNG, all tables as CSV and Markdown; `figures` prints the tables. Table 1, computed here
    from the runs' own files."""
    folder, said = finished / 'results' / 'tiny', (finished / 'figures.txt').read_text(encoding='utf-8')
    for name in FIGURES:
        starts = [(folder / 'figures' / f'{name}.{ending}').read_bytes()[:4] for ending in ('pdf', 'png')]
        assert starts == [b'%PDF', b'\x89PNG']
    for name in TABLES:
        table = pd.read_csv(folder / 'tables' / f'{name}.csv')
        text = (folder / 'tables' / f'{name}.md').read_text('utf-8')
        assert list(table.model.unique()) == ['BinEnc', 'LinPen', 'NonlinPen', 'NoPen']
        assert (table.n[table.metric != 'distance of peaks'] == 2).all() and 'missing' not in text
        assert name in said and text.splitlines()[2] in said
    table = pd.read_csv(folder / 'tables' / 'table1_accuracy.csv')
    shown = table[(table.model == 'NoPen') & (table.metric == 'test accuracy')].iloc[0]
    of_runs = [run_folder(r, finished / 'results').metrics['test_accuracy'] for r in runs_of(finished)
               if r.model == 'no_pen']
    assert shown['mean'] == pytest.approx(np.mean(of_runs)) and shown['std'] == pytest.approx(np.std(of_runs, ddof=1))
    assert '| mAP of retrieval ' in (folder / 'tables' / 'measures.md').read_text(encoding='utf-8')  # as in the report


def test_figures_without_the_runs(command, draw_here, copy):
    """What is committed is enough to draw everything again, to the byte."""
    folder = copy / 'results' / 'tiny'
    shutil.rmtree(folder / 'runs')
    before = contents(folder)
    for part in 'figures', 'tables':
        shutil.rmtree(folder / part)
    done = command('figures', 'tiny', '--jobs', 1, cwd=copy)
    assert done.returncode == 0, done.stderr
    after = contents(folder)
    assert {path: after[path][0] for path in before} == {path: content for path, (content, _) in before.items()}


def test_figures_without_latents(command, tables_here, copy):
    """Where no latents are stored, everything else is drawn and tabled."""
    folder = copy / 'results' / 'tiny'
    tables = {path: path.read_bytes() for name in TABLES for path in folder.glob(f'tables/{name}.md')}
    for part in 'runs', 'figures', 'tables', 'latents':
        shutil.rmtree(folder / part)
    done = command('figures', 'tiny', cwd=copy)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in folder.glob('figures/*.pdf')} == set(FIGURES)
    assert {path: path.read_bytes() for path in tables} == tables and not list(folder.glob('tables/codes_*'))


def test_missing_run_is_named(command, tables_here, copy):
    """A run that was deleted is not in the tables, and both they and the command say so."""
    gone = runs_of(copy)[-1]
    shutil.rmtree(run_folder(gone, copy / 'results').path)
    (copy / 'results' / 'tiny' / 'runs.csv').unlink()  # in which its numbers are kept
    done = command('figures', 'tiny', cwd=copy)
    assert done.returncode == 0 and 'tiny: 1 of 8 runs are missing' in done.stdout, done.stderr
    for name in TABLES:
        text = (copy / 'results' / 'tiny' / 'tables' / f'{name}.md').read_text('utf-8')
        assert f'1 of 8 runs are missing: {gone.id}' in text
    table = pd.read_csv(copy / 'results' / 'tiny' / 'tables' / 'table1_accuracy.csv')
    assert table[table.model == 'NoPen'].n.eq(1).all() and table[table.model == 'BinEnc'].n.eq(2).all()


def add_experiment(folder):
    """A second experiment, `other`, of two models, selected by the test images. Returns it."""
    other = EXPERIMENTS['demo'].override(
        experiment='other', model=['bin_enc', 'no_pen'], lr=[1e-2, 2e-2], replicate=0, **{**TINY, 'nodes': 6}
    )
    other = replace(other, title='Other', selection='test')
    for run in expand(other):
        train(run, folder / 'results')
    keep_experiment(other, folder / 'results')


def test_two_experiments_as_columns(command, tables_here, copy):
    """The tables hold both, in the order given; each keeps its own rule of selection. Where both have one title, each
    has rows, a column and a title of its own."""
    add_experiment(copy)
    done = command('figures', 'tiny', 'other', cwd=copy)
    assert done.returncode == 0, done.stderr
    folder = copy / 'results' / 'tiny+other' / 'tables'
    table = pd.read_csv(folder / 'table1_accuracy.csv')
    assert list(table.experiment.unique()) == ['Digits', 'Other']
    assert list(table[table.experiment == 'Other'].model.unique()) == ['BinEnc', 'NoPen']
    assert len(pd.read_csv(folder / 'codes_other.csv').filter(like='bit ').columns) == 6
    path = copy / 'results' / 'other' / 'experiment.json'
    content = path.read_bytes().replace(b'"Other"', b'"Digits"')
    write_stored(path.parent, {path.name: content})
    results = figures.StoredResults(['tiny', 'other'], copy / 'results')
    reports, _ = claims.judged_experiments(results.experiments, copy / 'results')
    assert list(claims.verdict_table(reports))[1:] == ['Digits (tiny), n = 2', 'Digits (other), n = 1']
    assert tables.as_markdown(tables.accuracy_table(results), []).count('| NoPen |') == 2


def test_number_of_fewer_runs_says_so():
    """A metric that one replicate does not have is a mean over the others, and not passed off as one over all."""
    rows = [('Digits', 'BinEnc', 'accuracy', 0.5, 0.1, 3), ('Digits', 'BinEnc', 'AUROC', 0.7, 0.1, 2)]
    table = pd.DataFrame(rows, columns=['experiment', 'model', 'metric', 'mean', 'std', 'n'])
    assert '| 3 | 0.50 ± 0.10 | 0.70 ± 0.10 (n = 2) |' in tables.as_markdown(table, [])


def test_another_grid_under_a_name_with_results_is_refused(command, copy):
    """Other settings would mix two experiments; a part of the grid, or a larger one, is welcome."""
    table = copy / 'results' / 'tiny' / 'runs.csv'
    before = contents(copy / 'results')
    for words in ('sweep', 'tiny', '--set', 'epochs=2'), ('sweep', 'demo', '--set', 'experiment=tiny'):
        done = command(*words, cwd=copy)
        assert done.returncode == 1 and 'tiny has results with other settings' in done.stderr, done.stderr
    assert contents(copy / 'results') == before
    assert command('sweep', 'tiny', '--set', 'model=bin_enc', cwd=copy).returncode == 0
    assert len(runs_of(copy)) == 8 and table.read_bytes() == before[table.relative_to(copy / 'results')][0]


def test_a_part_is_drawn_beside_the_whole(command, tables_here, copy):
    """`figures --set` draws into a folder of its own and leaves tables and figures of the whole as they are."""
    folder = copy / 'results' / 'tiny'
    before = contents(folder)
    done = command('figures', 'tiny', '--set', 'model=bin_enc,lin_pen', cwd=copy)
    assert done.returncode == 0, done.stderr
    part = folder / 'parts' / 'model=bin_enc,lin_pen'
    assert list(pd.read_csv(part / 'tables' / 'table1_accuracy.csv').model.unique()) == ['BinEnc', 'LinPen']
    assert before.items() <= contents(folder).items()


COUNT_READS = """
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, args):
    if event == 'open' and str(args[0]).startswith(os.getcwd()) and args[1] in ('r', 'rb', None):
        os.write(log, f'{args[0]}\\n'.encode())
sys.addaudithook(note) # copies of this process have it too
from binenc.commands import main
main()
"""


def test_figures_read_each_file_once(copy):
    """The real notebooks, in processes of their own: what they draw from was read before they began."""
    words = ['figures', 'tiny', '--results', copy / 'results']
    command = [*map(str, [sys.executable, '-c', COUNT_READS, copy / 'log', *words])]
    done = subprocess.run(command, cwd=copy, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    opened = (copy / 'log').read_text(encoding='utf-8').splitlines()
    read = Counter(path for path in opened if Path(path).suffix in ('.csv', '.npz', '.json', '.gz')
                   and '/tables/' not in path)
    assert len(read) > 10 and set(read.values()) == {1}, read.most_common(5)


def test_measured_again_from_stored_weights(command, draw_here, copy):
    """As in a clone: weights and tables give every number again; what is measured is not measured twice."""
    runs, results = runs_of(copy), copy / 'results'
    before = {run: run_folder(run, results).metrics for run in runs}
    shutil.rmtree(results / 'tiny' / 'runs')
    done = command('measure', 'tiny', '--jobs', 1, cwd=copy)
    assert done.returncode == 0 and 'largest relative difference' in done.stdout, done.stdout + done.stderr
    for run in runs:
        now = run_folder(run, results).metrics
        numbers = {name: value for name, value in before[run].items() if value is not None}
        assert {name: now[name] for name in numbers} == pytest.approx(numbers, rel=1e-6)
    assert 'all of them are measured' in command('measure', 'tiny', cwd=copy).stdout
    again = command('measure', 'tiny', '--again', '--set', 'replicate=0', '--jobs', 1, cwd=copy)
    assert '4 of 4 runs to do' in again.stdout


def test_sweep_interrupted_and_continued(command, tmp_path):
    """Ctrl-C in the middle of a sweep; the same command computes the rest, to the bytes of undisturbed runs."""
    values = dict(
        experiment='tiny', model='bin_enc,no_pen', replicate=0, lr='1e-3', **{**TINY, 'epochs': 160, 'log_every': 10}
    )
    words = 'sweep', 'demo', '--jobs', 2, *settings(**values)
    process, results = start(*words, cwd=tmp_path), tmp_path / 'results'
    wait_for(lambda: len(list(results.glob('tiny/runs/*/checkpoint.pt'))) == 2, what='a checkpoint of both runs')
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and 'the same command continues' in out and 'Traceback' not in errors, out + errors
    runs = runs_of(tmp_path)
    assert all(run_folder(run, results).metrics is None for run in runs), 'the runs are too short for this test'
    assert '2 interrupted of 2 runs' in out
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0 and '2 finished of 2 runs' in done.stdout, done.stdout + done.stderr
    for run in runs:
        train(run, tmp_path / 'whole')
        assert stored(run, results) == stored(run, tmp_path / 'whole')
