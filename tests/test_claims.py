"""Verdicts on synthetic results with known truth, from stored runs to the two files, and how often they are wrong."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from binenc import claims, figures, tables
from binenc.claims import CLAIMS, METHOD, claims_bytes, compared, judge
from binenc.errors import UserError
from binenc.experiment import EXPERIMENTS, expand
from binenc.files import write_json, write_stored
from binenc.statistics import CONTRADICTED, EQUIVALENT, LEVEL, SUPPORTED, UNDECIDED, compare
from binenc.store import ATTACKS, ROW, keep_experiment, run_folder
from helpers import REPO

RESULTS = REPO / 'results'
STORED = sorted(path.parents[1].name for path in RESULTS.glob('*/tables/claims.csv'))
pytestmark = [
    pytest.mark.filterwarnings('error'),
    pytest.mark.filterwarnings('ignore::ResourceWarning'),  # of tests before, when statsmodels collects garbage
]
EXPERIMENTS_WITHOUT_EFFECT = 1000
ERROR = 3 * math.sqrt(LEVEL * (1 - LEVEL) / EXPERIMENTS_WITHOUT_EFFECT)  # of a share of that many, three deviations
NO_EFFECT = {  # column -> mean of every arm, deviation, which sign is better
    'train_peaks_distance_mean': (2.1, 0.1, 1),
    'train_within_class_variation': (0.1, 0.01, -1),
    'train_same_encoding_fraction': (0.96, 0.005, 1),
    'train_vertex_cosine': (0.9, 0.01, 1),
    'train_distinct_codes': (8, 1, 1),
    'mahalanobis_auroc': (0.8, 0.01, 1),
    'mahalanobis_augrc': (0.02, 0.001, -1),
    'chosen_auroc': (0.9, 0.01, 1),
    'chosen_augrc': (0.01, 0.001, -1),
    'perturbation_score': (0.1, 0.01, 1),
    'test_accuracy': (0.9, 0.003, 1),
}


def planned(replicates=5, **settings):
    """An experiment of the paper's four arms with two learning rates; the second has the better validation."""
    return EXPERIMENTS['demo'].override(
        experiment='made-up', replicate=list(range(replicates)), lr=[1e-3, 2e-3], **settings
    )


def make_up(folder, gain=0.0, change=lambda run, numbers: None, missing=(), e=None, seed=0):
    """Stored runs in which BinEnc is better in every measure by so many deviations. Returns the experiment."""
    rng, e = np.random.default_rng(seed), e or planned()
    for i, run in enumerate(expand(e)):
        ours = gain * (run.model == METHOD)
        numbers = {c: mean + std * (sign * ours + rng.normal()) for c, (mean, std, sign) in NO_EFFECT.items()}
        numbers |= {'val_accuracy': run.lr, 'train_accuracy': 1 - run.lr, 'perturbation_score_all': 0.1}
        change(run, numbers)
        if i not in missing:
            write_json(run_folder(run, folder) / 'metrics.json', numbers)
    keep_experiment(e, folder)
    return e


def attacked(folder, gain):
    """Smallest perturbations of the selected runs, as attacks store them."""
    selected = compared('made-up', folder).selected
    rng = np.random.default_rng(9)
    rows = []
    for run_id, model in zip(selected.id, selected.model, strict=True):
        least = 0.2 + 0.01 * (gain * (model == METHOD) + rng.normal())
        for image in range(3):
            found = {'deepfool': least * (1 + image), 'transfer': 9.0}
            rows += [(run_id, image, 1, 1, name, found.get(name, np.inf), 0.0, 0.0, 'abc') for name in ATTACKS]
    table = pd.DataFrame(rows, columns=['id', *ROW])
    write_stored(folder / 'made-up', {'attacks.csv': table.to_csv(index=False).encode()})


def report_of(folder, partial=False):
    return claims.judged_claims(compared('made-up', folder, partial))


@pytest.mark.parametrize('gain, verdict', [(15, SUPPORTED), (-15, CONTRADICTED), (0, UNDECIDED)])
def test_effects_in_either_direction_and_none(tmp_path, gain, verdict):
    """A large effect decides every claim, with five replicates and attacks stored. Without one nothing is claimed but
    that the accuracies, which vary little, are equivalent; an undecided claim says what would decide it."""
    make_up(tmp_path, gain)
    attacked(tmp_path, gain)
    claims = report_of(tmp_path)['claims']
    verdicts = {name: claim['verdict'] for name, claim in claims.items()}
    assert verdicts == {claim.name: verdict for claim in CLAIMS} | ({} if gain else {'accurate': EQUIVALENT})
    assert claims['robust']['parts'][0]['measure'] == 'smallest_perturbation_median'
    assert not any(claim['not_measured'] for claim in claims.values())
    assert gain or all(claim['to_decide'] > 5 for name, claim in claims.items() if name != 'accurate')


def test_families_pairs_and_both_groupings(tmp_path):
    """Replicates that share no split are compared by Welch's test. Claims about test images stand beside those about
    training images. Holm's correction is for four claims about the classifier, though one of them is not measured."""

    def change(run, numbers):
        numbers['test_same_encoding_fraction_true'] = numbers['train_same_encoding_fraction'] - 0.2
        numbers['test_vertex_cosine_true'] = numbers['train_vertex_cosine']

    make_up(tmp_path / 'paired', 15, change)
    make_up(tmp_path / 'welch', 15, change, e=planned(val_fraction=0.0, selection='train'))
    claims = {folder: report_of(tmp_path / folder)['claims'] for folder in ('paired', 'welch')}
    tests = {
        name: {c['test'] for c in each['accurate']['parts'][0]['comparisons']} for name, each in claims.items()
    }
    assert tests == {'paired': {'paired t'}, 'welch': {'Welch'}}
    vertices = claims['paired']['vertices']
    assert vertices['verdict'] == SUPPORTED and vertices['on_test']['verdict'] == CONTRADICTED
    family = [c for c in claims['paired'].values() if c['family'] == 'classifier']
    assert len(family) == 4 and claims['paired']['accurate']['on_test'] is None
    measured = [c for c in family if not math.isnan(c['p'])]
    assert len(measured) == 3 and min(c['p_holm'] for c in measured) == pytest.approx(4 * min(c['p'] for c in measured))


def test_one_missing_run(tmp_path, command):
    """Refused, naming the run and the option; with it, compared on the learning rate that all have, and marked."""
    e = make_up(tmp_path / 'results', 15, missing=[39])
    last, folder = expand(e)[39], tmp_path / 'results' / 'made-up'
    refused = command('claims', 'made-up', cwd=tmp_path)
    assert refused.returncode == 1 and last.id in refused.stderr and '--partial' in refused.stderr
    assert not (folder / 'claims.md').exists()
    done = command('claims', 'made-up', '--partial', cwd=tmp_path)
    assert done.returncode == 0 and 'partial' in done.stdout
    report = json.loads((folder / 'claims.json').read_text(encoding='utf-8'))
    assert report['partial'] and last.id in report['missing'] and report['learning_rates'] == [1e-3]
    assert report['replicates'] == [0, 1, 2, 3, 4] and report['claims']['accurate']['verdict'] == SUPPORTED


def test_what_a_part_can_compare(tmp_path):
    """The replicates that all models have; where there is none, that is said."""
    e = make_up(tmp_path / 'some', 15, missing=[i for i, run in enumerate(expand(planned())) if run.replicate == 4])
    common = compared(e, tmp_path / 'some', partial=True).common
    assert set(common.replicate) == {0, 1, 2, 3} and set(common.lr) == {1e-3, 2e-3}
    e = make_up(tmp_path / 'none', missing=set(range(40)) - {0, 5, 6, 7})
    with pytest.raises(UserError, match='no learning rate has the runs of all models'):
        compared(e, tmp_path / 'none', partial=True)


def test_the_rule_of_selection_can_change_a_verdict(tmp_path):
    """BinEnc is better with the learning rate that validation prefers, and worse with the other one."""

    def change(run, numbers):
        if run.model == METHOD:
            numbers['train_within_class_variation'] += -0.2 if run.lr == 2e-3 else 0.2

    make_up(tmp_path, change=change)
    rules = report_of(tmp_path)['verdicts_by_selection']
    assert rules['val']['collapse'] == SUPPORTED and rules['train']['collapse'] == CONTRADICTED


def test_published_numbers(tmp_path):
    """Beside ours for the same images, with their source and every setting that differs."""
    e = planned(dataset='cifar10')
    make_up(tmp_path, e=e)
    about = claims.judged_claims(compared(e, tmp_path))['published']
    rows = {(row['arm'], row['measure']): row for row in about['rows']}
    assert rows['bin_enc', 'test_accuracy']['theirs'] == pytest.approx(0.9486)
    assert rows['no_pen', 'mahalanobis_auroc']['source'] == 'ICLR 2025 submission p.9 Table 2'
    assert any(line.startswith('backbone mlp instead of resnet18') for line in about['differs'])


@pytest.mark.parametrize('name', STORED)
def test_committed_claims_follow_from_the_runs(name):
    """To the byte: claims.json and claims.md where the grid is complete, and the tables of verdicts and selection."""
    results = figures.StoredResults([name], RESULTS)
    reports, refused = claims.judged_experiments(results.experiments, RESULTS)
    assert bool(refused) == (not results.runs[name].finished.all()) != bool(reports)
    for report in reports.values():
        for file, content in claims_bytes(report).items():
            assert (RESULTS / name / file).read_bytes() == content, file
    table = tables.selection_table(results)
    drawn = {
        'claims.md': claims.verdict_markdown(reports, refused),
        'claims.csv': claims.verdict_table(reports).to_csv(index=False),
        'selection.md': tables.selection_markdown(table, results.captions()),
        'selection.csv': table.to_csv(index=False),
    }
    for file, text in drawn.items():
        assert (RESULTS / name / 'tables' / file).read_text(encoding='utf-8') == text, file


def test_pairs_must_match():
    """Different numbers of replicates are an error, not a silent cut."""
    with pytest.raises(ValueError):
        compare([1.0, 2.0], [1.0])


def without_effect(rng, n):
    """Numbers of one experiment in which no arm and no bound differs from another."""
    bounds = {column: part.bound for claim in CLAIMS for part in claim.parts for column in part.columns if part.bound}
    table = {}

    def values(arm, column):
        if (arm, column) not in table:
            table[arm, column] = (bounds.get(column, 0.5) + 0.1 * rng.normal(size=n)).tolist()
        return table[arm, column]

    return values


def test_false_positives_are_nominal(n=5):
    """A thousand experiments without any effect: single tests are significant in 5%, no claim's verdict in more, and
    any of the six claims is falsely supported in no more than 5%."""
    rng = np.random.default_rng(n)
    judged = [judge(without_effect(rng, n)) for _ in range(EXPERIMENTS_WITHOUT_EFFECT)]
    single = [
        np.mean([experiment[claim.name]['parts'][i]['comparisons'][0]['p'] <= LEVEL for experiment in judged])
        for claim in CLAIMS
        for i in range(len(claim.parts))
    ]
    assert single == pytest.approx([LEVEL] * len(single), abs=ERROR)
    for name in judged[0]:
        assert np.mean([experiment[name]['verdict'] != UNDECIDED for experiment in judged]) < LEVEL + ERROR
    for kind in SUPPORTED, CONTRADICTED:
        assert np.mean([any(c['verdict'] == kind for c in e.values()) for e in judged]) < LEVEL + ERROR
