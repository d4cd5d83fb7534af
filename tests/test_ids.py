"""Ids and defaults, once released, never change; what was stored before a field existed stays usable."""
import json
from dataclasses import asdict, field, make_dataclass
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest

import binenc.experiment as experiment
from binenc.errors import UserError
from binenc.experiment import EXPERIMENTS, expand
from binenc.results import collect, keep_results, select
from binenc.run import CHOICES, DEFAULTS, Run, settings_of, stored_run
from binenc.store import keep_experiment, kept_rows, resolve_experiment

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
