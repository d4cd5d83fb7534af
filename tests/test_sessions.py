"""One experiment in several sessions, on machines whose disk is wiped between them: nothing is lost or mixed."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from binenc.claims import claims_markdown, compared, judged_claims
from binenc.experiment import EXPERIMENTS, expand, part_line
from binenc.figures import StoredResults
from binenc.files import json_bytes, write_stored
from binenc.results import collect, keep_attacks, keep_results, merge
from binenc.store import (
    ATTACKS,
    ROW,
    RUN_FILES,
    TABLE,
    attack_files,
    compared_attacks,
    gathered,
    keep_experiment,
    kept_attacks,
    kept_rows,
    run_folder,
    stored_rows,
    unattacked_lines,
    weights_digest,
)
from binenc.training import train
from helpers import TINY


def planned(*replicates):
    return EXPERIMENTS['demo'].override(
        experiment='sessions', model=['bin_enc', 'no_pen'], replicate=list(replicates), lr=1e-3, **TINY)


def computed(e, folder):
    """The experiment's runs, trained."""
    keep_experiment(e, folder)
    for run in expand(e):
        train(run, folder)
    return folder


def attack(run, folder, images, names=tuple(ATTACKS), size=0.1):
    """Rows in the run's folder, as if attacks had found them; DeepFool's are the smallest."""
    rows = [(i, 3, 3, name, size * (i + 1) if name == 'deepfool' else 9., 1., 1., weights_digest(run, folder))
            for name in names for i in range(images)]
    content = pd.DataFrame(rows, columns=ROW).to_csv(index=False).encode()
    write_stored(run_folder(run, folder).path, {TABLE: content}, adopt=RUN_FILES)


@pytest.fixture(scope='module')
def session(tmp_path_factory):
    """Replicates 0 and 1, trained; not to be changed."""
    return computed(planned(0, 1), tmp_path_factory.mktemp('session'))


@pytest.fixture
def first(session, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(session, tmp_path / 'first')


@pytest.fixture
def home(tmp_path):
    return tmp_path / 'home'


def without_runs(folder):
    """As in a commit."""
    shutil.rmtree(folder / 'sessions' / 'runs')
    return folder


def test_the_first_merge_keeps_tables(first, home):
    """Numbers and histories are in the tables, though no figure was drawn on either side."""
    assert merge(first, home) == {'sessions': (4, 0)}
    assert set(kept_rows('sessions', without_runs(home))) == {run.id for run in expand(planned(0, 1))}
    assert set(StoredResults(['sessions'], home).history['sessions'].replicate) == {0, 1}


def test_three_sessions(first, home, tmp_path):
    """Each on a copy of what was committed; at its end, all runs have training and attacks."""
    for run in expand(planned(0, 1)):
        attack(run, first, 4)
    merge(first, home)
    before = gathered('sessions', without_runs(home))
    second = computed(planned(2), shutil.copytree(home, tmp_path / 'second'))
    for run in expand(planned(2)):
        attack(run, second, 4)
    merge(second, home)
    runs, rows = collect('sessions', without_runs(home)), kept_attacks('sessions', home)
    assert runs.finished.all() and len(runs) == 6 and set(rows.id) == set(runs.id)
    assert rows[rows.id.isin(before.id)].reset_index(drop=True).equals(before)
    report = judged_claims(compared('sessions', home))
    part = report['claims']['robust']['parts'][0]
    assert part['measure'] == 'smallest_perturbation_median' and report['n'] == 3
    assert [line.partition(':')[0] for line in report['lacking']] == ['sessions has no runs of LinPen, NonlinPen']
    assert {c['with']: c['difference']['n'] for c in part['comparisons']}['no_pen'] == 3


def test_finished_attacks_are_kept_when_the_command_was_stopped(first):
    """Whoever writes the tables next gathers what is complete; what is not stays in its run's folder."""
    a, b, c, d = expand(planned(0, 1))
    attack(a, first, 4)
    attack(b, first, 4, [*ATTACKS][:3])
    keep_results(planned(0, 1), first)
    assert set(kept_attacks('sessions', first).id) == {a.id} and len(stored_rows(b, first)) == 12
    attack(b, first, 4)
    keep_attacks('sessions', first)
    assert set(kept_attacks('sessions', first).id) == {a.id, b.id}
    assert attack_files('sessions', first) == {}, 'there is nothing new'


def test_attacked_runs_without_weights_are_drawn(first, command, tables_here):
    """As in a clone, where the weights are not; a run that has neither is named."""
    for run in expand(planned(0, 1)):
        attack(run, first, 3)
    keep_results(planned(0, 1), first)
    shutil.rmtree(without_runs(first) / 'sessions' / 'weights')
    done = command('attack', 'sessions', '--results', first, cwd=first)
    assert done.returncode == 0 and '0 of 4 selected runs have stored weights' in done.stdout, done.stderr
    assert 'smallest perturbation, mean' in (first / 'sessions' / 'tables' / 'attacks.md').read_text(encoding='utf-8')
    path = first / 'sessions' / 'attacks.csv.gz'
    rows = pd.read_csv(path)
    rows[rows.id != rows.id[0]].to_csv(path, index=False)
    (first / 'sessions' / 'SHA256SUMS').unlink()
    done = command('attack', 'sessions', '--again', '--results', first, cwd=first)
    assert done.returncode == 0 and '1 of 4 selected runs is not attacked' in done.stdout, done.stdout


def test_different_numbers_of_images(first):
    """Compared are the images that all runs have; which runs have no attacks is said."""
    a, b, c, d = expand(planned(0, 1))
    attack(a, first, 6)
    attack(b, first, 3)
    selected = keep_results(planned(0, 1), first)[1]
    rows = compared_attacks(selected, first)
    assert set(rows.image) == {0, 1, 2} and set(rows.id) == {a.id, b.id}
    line, = unattacked_lines(selected, first)
    assert line.startswith('sessions: 2 of 4 selected runs are not attacked') and c.id in line and d.id in line
    assert line in claims_markdown(judged_claims(compared('sessions', first)))


def test_a_run_without_transfer_is_named(first):
    a, b, *others = expand(planned(0, 1))
    attack(a, first, 3, [name for name in ATTACKS if name != 'transfer'])
    for run in (b, *others):
        attack(run, first, 3)
    selected = keep_results(planned(0, 1), first)[1]
    line, = unattacked_lines(selected, first)
    assert '1 of 4 selected runs was attacked without transfer' in line and a.id in line and b.id not in line


def test_more_images_come_with_a_merge(first, home, tmp_path):
    """The rows that are here stay, those for other images are added."""
    run = expand(planned(0, 1))[0]
    attack(run, first, 2)
    merge(first, home)
    attack(run, first, 5, size=0.2)
    merge(first, without_runs(home))
    rows = kept_attacks('sessions', home).query('attack == "deepfool"').set_index('image').relative
    assert list(rows.index) == [0, 1, 2, 3, 4] and rows[1] == 0.2 and rows[4] == 1.0


def test_attacks_of_another_training_are_left_out(first, home):
    """A run that was trained again with other numbers is not mixed with the one here, nor are its weights."""
    run = expand(planned(0, 1))[0]
    merge(first, home)
    kept = without_runs(home) / 'sessions' / 'weights' / f'{run.id}.safetensors'
    kept.unlink()
    folder = run_folder(run, first)
    write_stored(folder.path, {'metrics.json': json_bytes(folder.metrics | {'train_loss': 0.5})})
    attack(run, first, 3)
    keep_results(planned(0, 1), first)
    assert merge(first, home) == {'sessions': (0, 4)}
    assert kept_attacks('sessions', home).empty and not kept.exists()


def test_attacks_on_earlier_weights_go(first):
    """A run that is trained again, with other weights, is not shown with what was found on the earlier ones."""
    run = expand(planned(0, 1))[0]
    attack(run, first, 3)
    keep_results(planned(0, 1), first)
    weights = run_folder(run, first) / 'weights.safetensors'
    other = run_folder(expand(planned(0, 1))[1], first) / 'weights.safetensors'
    write_stored(weights.parent, {weights.name: other.read_bytes()})
    (weights.parent / TABLE).unlink()
    assert gathered('sessions', first).empty and stored_rows(run, first).empty


def test_a_part_of_a_preset_says_so(tmp_path):
    """In captions: status and figures know only what was asked for."""
    part = replace(EXPERIMENTS['fashion'], replicates=(0, 1))
    assert part_line(part) == "fashion: 12 of the preset's 20 runs have not been planned yet: replicates 2, 3, 4"
    assert part_line(EXPERIMENTS['fashion']) == part_line(planned(0)) == ''
