"""A sample of `make torture`, and a test for each kind of thing that it found."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from binenc.errors import UserError, shown, unknown
from binenc.experiment import EXPERIMENTS, expand
from binenc.figures import StoredResults
from binenc.files import SUMS, read_stored, write_stored
from binenc.head import BinaryEncodingHead
from binenc.results import diverged_line, keep_results, merge
from binenc.run import Run
from binenc.store import KEPT_FILES, default_place, keep_experiment, run_folder, tidy
from binenc.tables import accuracy_table, as_markdown, auroc_table, code_summary
from binenc.training import train
from helpers import REPO, TINY, environment, run_notebook_here, stored

COUNTS = {'kills': 6, 'damages': 5, 'inputs': 24, 'images': 2}


def test_sample():
    """Some trials of each part find nothing."""
    counts = ['--owners=0', '--surroundings=0', '--device=0', *(f'--{part}={count}' for part, count in COUNTS.items())]
    done = subprocess.run([sys.executable, REPO / '.ci' / 'torture.py', *counts], capture_output=True, text=True,
                          env={**environment(), 'PYTHONPATH': str(REPO)}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for part, count in COUNTS.items():
        assert f'{part}: {count} tried, 0 lost, 0 computed twice, 0 silently wrong' in done.stdout


@pytest.fixture
def results(trained, tmp_path):
    """A results folder with the finished run `tiny`."""
    shutil.copytree(trained, tmp_path / 'results')
    return tmp_path / 'results'


LEFT = ('checkpoint.pt', 'checkpoint-new.pt', '.checkpoint-new.pt.0123abcd', 'stop', '.history.csv.89abcdef')


def leave(folder):
    """What a process leaves that was killed after the run had finished."""
    for name in LEFT:
        (folder / name).write_bytes(b'left')
    (folder / 'lock').write_text(json.dumps({'host': 'gone', 'pid': 1, 'start': '1', 'job': None}), encoding='utf-8')
    (folder / SUMS).rename(folder / '.SHA256SUMS.next')


def test_leftovers_of_a_finished_run_are_removed(results, tiny, trained, monkeypatch):
    """By whoever asks for the run again; what it stored stays, and is listed."""
    for name in 'SILENT', 'WATCH':  # the lock's owner was on a host that is gone
        monkeypatch.setattr(f'binenc.locks.{name}', 0)
    folder = run_folder(tiny, results)
    before = {path.name for path in folder.path.iterdir()}
    leave(folder.path)
    train(tiny, results)
    assert {path.name for path in folder.path.iterdir()} == before and stored(tiny, results) == stored(tiny, trained)
    assert read_stored(folder / 'history.csv')


def test_leftovers_of_a_run_that_is_computed_stay(results, tiny):
    """They may be what another process works on; the same if its numbers are damaged."""
    folder = run_folder(tiny, results)
    leave(folder.path)
    tidy([tiny], results)
    assert (folder / 'checkpoint.pt').exists(), 'the lock names another host, and is not old'
    (folder / 'lock').unlink()
    (folder / 'metrics.json').write_text('{', encoding='utf-8')
    tidy([tiny], results)
    assert (folder / 'checkpoint.pt').exists()


def test_parts_of_tables_and_of_merges_are_removed(finished, copy):
    """What a killed `figures` or `merge` left in an experiment's folder goes with the next one."""
    tiny = copy / 'results' / 'tiny'
    (part := tiny / 'runs' / '.no_pen-lr0.001-r0.01234567').mkdir()
    left = [tiny / Path(pattern).with_name('.a.01234567') for pattern in KEPT_FILES] # in every folder that is kept
    for path in part / 'metrics.json', *left:
        path.parent.mkdir(exist_ok=True)
        path.write_text('half', encoding='utf-8')
    merge(finished / 'results', copy / 'results')
    assert not list(copy.rglob('.*.01234567'))


def test_the_list_does_not_depend_on_the_way(tmp_path):
    """Files that were written in another order, or again, are listed alike."""
    for name, order in ('a', 'xy'), ('b', 'yx'):
        for letter in order:
            write_stored(tmp_path / name, {letter: letter.encode()})
    assert (tmp_path / 'a' / SUMS).read_text(encoding='utf-8') == (tmp_path / 'b' / SUMS).read_text(encoding='utf-8')


def test_errors_show_a_value_on_one_line():
    """Also one that is written on many."""
    assert shown('a') == "'a'" and '\n' not in shown(torch.zeros(50, 4)) and len(shown('a' * 999)) == 80
    assert '\n' not in str(unknown('model', pd.Series(range(9)), ['bin_enc']))
    with pytest.raises(UserError, match='^nodes=.{1,80} is not possible: nodes must be a whole number of at least 1$'):
        Run(nodes=torch.zeros(50, 4))


@pytest.mark.parametrize('given', [None, 'text', [1., 2.], torch.zeros(3, 5), torch.zeros(()), torch.zeros(3, 8) + 1j])
def test_head_refuses_what_are_no_features(given):
    with pytest.raises(ValueError, match=r'a tensor \(n, 8\) of real numbers is needed'):
        BinaryEncodingHead(8, 4, 3)(given)


@pytest.mark.parametrize('wrong', [dict(nodes=0), dict(nodes=2.5), dict(nodes='4'), dict(activation=[]),
                                   dict(activation='tanh'), dict(dropout='x'), dict(dropout=1.), dict(in_features=-1)])
def test_head_refuses_wrong_sizes(wrong):
    with pytest.raises(ValueError, match=f'^{next(iter(wrong))}='):
        BinaryEncodingHead(**{**dict(in_features=8, nodes=4, num_classes=3), **wrong})


@pytest.mark.parametrize('lrs', [(1e-3, 1e15), (1e15,)], ids=['one of two', 'all'])
def test_diverged_runs_are_marked_listed_and_the_rest_is_drawn(lrs, tmp_path):
    """A learning rate of 1e15 gives numbers that are not finite; its accuracy still counts for the selection."""
    experiment = replace(EXPERIMENTS['demo'].override(experiment='small', model=['bin_enc', 'no_pen'], replicate=0,
                                                      **{**TINY, 'val_fraction': 0.1}), lrs=lrs)
    keep_experiment(experiment, tmp_path)
    for run in expand(experiment):
        train(run, tmp_path)
    runs, _ = keep_results(experiment, tmp_path)
    bad = set(runs.id[runs.lr == 1e15])
    assert runs.finished.all() and set(runs.id[runs.diverged == 1]) == bad
    line = diverged_line(runs)
    assert line.startswith(f'small: 2 of {len(runs)} runs diverged: ') and all(name in line for name in bad)
    results = StoredResults(['small'], tmp_path)
    for table in accuracy_table, auroc_table, code_summary:
        text = as_markdown(table(results), results.captions())
        assert '| BinEnc |' in text and line in text
    assert len(lrs) == 1 or not set(results.selected['small'].id) & bad


def test_the_notebook_stores_in_the_folder_where_it_is_executed(tmp_path, monkeypatch):
    """`papermill nbs/train.ipynb out.ipynb` from a repository's root, and the same opened in nbs/."""
    monkeypatch.chdir(tmp_path)
    run_notebook_here('4_training/train.ipynb', 'out.ipynb', dict(TINY, epochs=1, lr=1e-3))
    assert len(list((tmp_path / 'results' / 'scratch' / 'runs').glob('*/metrics.json'))) == 1
    monkeypatch.chdir(REPO / 'nbs' / '4_training')
    assert default_place('results').resolve() == REPO / 'results'
