"""What is stored stays what it is: beside other processes, after kills, in clones, and when folders are merged; ids and
defaults, once released, never change, and what was stored before a field existed stays usable."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, field, make_dataclass
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest

import binenc.experiment as experiment
from binenc.commands import wait_for_others
from binenc.errors import UserError
from binenc.execute import pending, states
from binenc.experiment import EXPERIMENTS, expand
from binenc.files import (
    NEXT_SUMS,
    SUMS,
    check_stored,
    digest,
    read_csv,
    read_stored,
    settle,
    write_bytes,
    write_stored,
)
from binenc.restored import measure_run
from binenc.results import collect, keep_results, merge, select
from binenc.run import CHOICES, DEFAULTS, Run, settings_of, stored_run
from binenc.store import (
    ROW,
    TABLE,
    keep_experiment,
    kept_rows,
    resolve_experiment,
    run_folder,
    stored_experiment,
    stored_rows,
)
from binenc.training import CHECKPOINT, PREVIOUS, find_checkpoint
from helpers import REPO, TINY


@pytest.fixture
def clone(tmp_path):
    """The demo's tables and weights, as in a clone: no run has a folder."""
    shutil.copytree(REPO / 'results' / 'demo', tmp_path / 'clone' / 'demo', ignore=shutil.ignore_patterns('runs'))
    return tmp_path / 'clone'


def test_a_failed_measurement_unfinishes_no_run(clone):
    """A folder that only a measurement made does not make a finished run unfinished."""
    run = expand(stored_experiment('demo', clone))[0]
    folder = run_folder(run, clone)
    folder.path.mkdir(parents=True)
    assert states([run], clone) == [('finished', '')] and not pending([run], clone)
    (folder / 'progress.json').write_text('{}', encoding='utf-8')  # a training began: the run is to be repeated
    assert pending([run], clone) == [run]


def test_merge_adds_what_is_planned_here(clone, tmp_path):
    """A run that the table here lists as unfinished comes from the other folder."""
    table = clone / 'demo' / 'runs.csv'
    runs = pd.read_csv(table)
    gone = runs.id[runs.model == 'lin_pen']
    here = tmp_path / 'here'
    shutil.copytree(clone, here)
    numbers = list(runs.columns[runs.columns.get_loc('finished') + 1:])
    unfinished = runs.assign(finished=~runs.id.isin(gone))
    unfinished[numbers] = runs[numbers].where(unfinished.finished)
    write_stored(here / 'demo', {'runs.csv': unfinished.to_csv(index=False).encode()})
    assert merge(clone, here)['demo'] == (len(gone), len(runs) - len(gone))
    assert pd.read_csv(here / 'demo' / 'runs.csv').finished.all()
    assert merge(clone, here)['demo'] == (0, len(runs))


def test_a_run_that_is_just_being_stored_is_not_measured(trained, tmp_path):
    """With weights but no numbers yet it has not finished; measuring it would make it look so."""
    run = Run(**TINY)
    shutil.copytree(run_folder(run, trained).path, run_folder(run, tmp_path).path)
    (run_folder(run, tmp_path) / 'metrics.json').unlink()
    with pytest.raises(UserError, match='train it first'):
        measure_run(run, ('accuracy',), tmp_path)
    assert not run_folder(run, tmp_path).finished


@pytest.mark.parametrize('name', ['53563e72', '00123456'])
def test_digest_that_looks_like_a_number(name, tmp_path, monkeypatch):
    """Rows of attacks belong to weights by the text of their digest."""
    run = Run(**TINY)
    monkeypatch.setattr('binenc.store.weights_digest', lambda run, results_dir: name)
    folder = run_folder(run, tmp_path)
    rows = pd.DataFrame([[1, 2, 2, 'deepfool', 0.1, 0.2, 0.3, name]], columns=ROW)
    write_bytes(folder / TABLE, rows.to_csv(index=False).encode())
    write_bytes(folder / 'metrics.json', b'{}')
    assert len(stored_rows(run, tmp_path)) == 1


def test_name_that_looks_like_a_number(clone):
    """An experiment may be named by a date."""
    shutil.move(clone / 'demo', clone / '20240611')
    folder = clone / '20240611'
    for name in 'runs.csv', 'selected.csv':
        table = pd.read_csv(folder / name).assign(experiment=20240611)
        write_stored(folder, {name: table.to_csv(index=False).encode()})
    about = (folder / 'experiment.json').read_bytes().replace(b'"demo"', b'"20240611"')
    write_stored(folder, {'experiment.json': about})
    runs, _ = keep_results(stored_experiment('20240611', clone), clone)
    assert runs.finished.all()


def test_former_histories_are_kept(clone):
    """A run that is no longer selected keeps the history that is stored nowhere else."""
    folder = clone / 'demo'
    chosen = pd.read_csv(folder / 'selected.csv').id
    runs = pd.read_csv(folder / 'runs.csv')
    best = runs.id.isin(chosen)
    runs.loc[~best, 'val_accuracy'] = 2.0
    write_stored(folder, {'runs.csv': runs.to_csv(index=False).encode()})
    with pytest.raises(UserError, match='select the same runs'):  # of the others there is no history at all
        keep_results(stored_experiment('demo', clone), clone)
    runs.loc[~best, 'val_accuracy'] = 0.0
    runs.loc[runs.model == 'no_pen', 'finished'] = False
    write_stored(folder, {'runs.csv': runs.to_csv(index=False).encode()})
    keep_results(stored_experiment('demo', clone), clone)
    assert set(chosen) <= set(read_csv(folder / 'history.csv.gz').id)


def test_reading_beside_a_writer(tmp_path):
    """A file that is stored again and again by another process is never called damaged."""
    contents = [f'{i}'.encode() * 2000 for i in range(2)]
    write_stored(tmp_path, {'a.csv': contents[0]}, adopt=('*.csv',))
    with ThreadPoolExecutor(1) as writer:
        writing = [writer.submit(write_stored, tmp_path, {'a.csv': contents[i % 2]}) for i in range(50)]
        while not writing[-1].done():
            assert read_stored(tmp_path / 'a.csv') in contents


def test_list_after_a_kill(tmp_path):
    """A file that was announced and never written is not listed; one that was written is. Killed before the first
    file, nothing was stored, and nothing is listed."""
    write_stored(tmp_path, {'a': b'1', 'b': b'1'})
    listed = (tmp_path / SUMS).read_text(encoding='utf-8')
    later = ''.join(f'{digest(b"2")}  {name}\n' for name in 'abc')
    for folder in tmp_path, tmp_path / 'new':
        folder.mkdir(exist_ok=True)
        (folder / NEXT_SUMS).write_text(later, encoding='utf-8')
    (tmp_path / 'a').write_bytes(b'2')
    for folder in tmp_path, tmp_path / 'new':
        settle(folder)
    assert not check_stored(tmp_path) and (tmp_path / SUMS).read_text('utf-8') != listed
    assert not list((tmp_path / 'new').iterdir())
    (tmp_path / SUMS).write_text('', encoding='utf-8')
    with pytest.raises(UserError, match='SHA256SUMS is damaged'):
        check_stored(tmp_path)


def test_checkpoint_that_cannot_be_read(trained, tmp_path):
    """It may be whole: nothing is started again over it."""
    folder = run_folder(Run(**TINY), tmp_path)
    folder.path.mkdir(parents=True)
    (folder / PREVIOUS).write_bytes(b'')
    (folder / CHECKPOINT).mkdir()  # reading it fails, as on a disk that does not answer
    with pytest.raises(UserError, match='checkpoint.pt cannot be read'):
        find_checkpoint(folder)


def test_waiting_ends_with_a_signal(monkeypatch):
    """`sweep --wait` waits for other processes, but not after a signal."""
    monkeypatch.setattr('binenc.commands.states', lambda runs, results_dir: [('running', '')] * len(runs))
    assert not wait_for_others([Run()], Path('results'), lambda: True)


GOLDEN = Path(__file__).parent / 'golden'
RELEASED = json.loads((GOLDEN / 'runs.json').read_text(encoding='utf-8'))


def test_defaults_never_change():
    """A field that was released keeps its default for ever: ids are made of what differs from it."""
    assert {name: DEFAULTS[name] for name in RELEASED['defaults']} == RELEASED['defaults']


def test_ids_never_change():
    """First and last run of each preset: one that is added is added to golden/runs.json too."""
    assert {name: [expand(name)[0].id, expand(name)[-1].id] for name in EXPERIMENTS} == RELEASED['ids']


def test_two_runs_never_share_an_id():
    """All runs of all presets, and runs that differ in one field."""
    every = {settings_text(run): run.id for run in chain.from_iterable(map(expand, EXPERIMENTS))}
    assert len(set(every.values())) == len(every) > 700
    assert set(OTHER) < set(DEFAULTS)
    others = [Run(), *(Run(**{name: another(name)}) for name in DEFAULTS if name != 'experiment')]
    assert len(others) == len(DEFAULTS)
    assert len({run.id for run in others}) == len(others)


def settings_text(run):
    """What the run is, as text."""
    return json.dumps(settings_of(run), sort_keys=True)


OTHER = dict(dataset='mnist-small', output_lr=2., gamma_max=10., gamma_schedule='two_regimes', dropout=0.75,
             gamma_factor=1.03, lr_factor=0.75, val_fraction=0.25, train_images=1000, image_size=16,
             known_classes=5)


def another(name):
    """A value of a field that is not its default; those of which one more is not possible are in `OTHER`."""
    default = DEFAULTS[name]
    if name in OTHER:
        return OTHER[name]
    if name in CHOICES:
        return next(value for value in CHOICES[name] if value != default)
    return not default if isinstance(default, bool) else default + 1


def test_a_new_field_changes_no_id(monkeypatch):
    """With one more field at its default, every run has the id that it had."""
    before = [run.id for run in expand('demo')]
    later = make_dataclass('Later', [('surprise', int, field(default=7))], bases=(Run,), frozen=True)
    monkeypatch.setitem(experiment.TYPES, 'surprise', (int,))
    monkeypatch.setitem(experiment.DEFAULTS, 'surprise', 7)
    assert [later(**asdict(run)).id for run in expand('demo')] == before
    assert later(surprise=8).id != later().id == Run().id


def test_a_field_of_a_later_version_is_refused():
    """What this version does not know may change the result."""
    with pytest.raises(UserError, match="'surprise'.*update binenc"):
        stored_run({'lr': 1e-3, 'surprise': 1})


def test_table_of_the_first_version_is_read(tmp_path):
    """Its ids were made otherwise and it lacks newer fields; all 24 runs are finished, with their numbers."""
    folder = tmp_path / 'demo'
    folder.mkdir()
    (folder / 'runs.csv').write_bytes((GOLDEN / 'v1' / 'runs.csv').read_bytes())
    stored = pd.read_csv(folder / 'runs.csv')
    runs = collect('demo', tmp_path)
    assert runs.finished.all() and list(runs.id) == [run.id for run in expand('demo')]
    assert list(runs.test_accuracy) == list(stored.test_accuracy) and (runs.lr_schedule == 'constant').all()
    assert len(select(runs, 'val')) == 12 and set(kept_rows('demo', tmp_path)) == set(runs.id)


def test_a_table_loses_no_run(tmp_path):
    """A plan that has become smaller, or another file in its place, removes no finished run from runs.csv."""
    folder = tmp_path / 'demo'
    folder.mkdir()
    (folder / 'runs.csv').write_bytes((GOLDEN / 'v1' / 'runs.csv').read_bytes())
    part = resolve_experiment('demo', tmp_path, model=['bin_enc'])
    keep_experiment(part, tmp_path)
    with pytest.raises(UserError, match='the history of run'): # the table has no histories: nothing is written
        keep_results(part, tmp_path)
    assert len(kept_rows('demo', tmp_path)) == 24
