"""Verdicts on synthetic results with known truth, from stored runs to the two files."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

import binenc
from binenc import claims, figures, tables
from binenc.claims import CLAIMS, METHOD, OTHERS, claims_bytes, claims_markdown, compared, judged_runs, keep_report
from binenc.errors import UserError
from binenc.experiment import EXPERIMENTS, expand
from binenc.files import check_stored, write_json, write_stored
from binenc.statistics import CONTRADICTED, EQUIVALENT, SUPPORTED, UNDECIDED
from binenc.store import ATTACKS, ROW, keep_experiment, run_folder
from helpers import REPO

RESULTS = REPO / 'results'
STORED = sorted(path.parents[1].name for path in RESULTS.glob('*/tables/claims.csv'))
pytestmark = [
    pytest.mark.filterwarnings('error'),
    pytest.mark.filterwarnings('ignore::ResourceWarning'),  # of tests before, when statsmodels collects garbage
]
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
    return claims.claims_report(compared('made-up', folder, partial))


def verdicts_of(report):
    return {name: claim['verdict'] for name, claim in report['claims'].items()}


def test_no_effect_is_undecided(tmp_path):
    """Nothing differs: nothing is claimed but that the accuracies, which vary little, are equivalent, and each
    comparison names its comparator. An undecided claim says what would decide it."""
    make_up(tmp_path)
    report = report_of(tmp_path)
    accurate = report['claims'].pop('accurate')
    assert accurate['verdict'] == EQUIVALENT and accurate['other_bounds'] == {'0.5': UNDECIDED, '2': EQUIVALENT}
    assert set(verdicts_of(report).values()) == {UNDECIDED}
    assert all(claim['to_decide'] > 5 for claim in report['claims'].values())
    report['claims']['accurate'] = accurate
    named = [c['with'] for c in report['claims']['accurate']['parts'][0]['comparisons']]
    assert named == list(OTHERS) == ['lin_pen', 'nonlin_pen', 'no_pen']


@pytest.mark.parametrize('gain, verdict', [(15, SUPPORTED), (-15, CONTRADICTED)])
def test_large_effects_are_found(tmp_path, gain, verdict):
    """A large effect in either direction decides every claim, with five replicates and attacks stored."""
    make_up(tmp_path, gain)
    attacked(tmp_path, gain)
    report = report_of(tmp_path)
    assert set(verdicts_of(report).values()) == {verdict} and set(report['claims']) == {c.name for c in CLAIMS}
    assert report['claims']['robust']['parts'][0]['measure'] == 'smallest_perturbation_median'
    assert not any(claim['not_measured'] for claim in report['claims'].values())


def test_deepfool_alone_does_not_support_robustness(tmp_path):
    """Without other attacks the claim stays undecided however large its number is, and the report says why."""
    make_up(tmp_path, 15)
    claim = report_of(tmp_path)['claims']['robust']
    assert claim['verdict'] == UNDECIDED and claim['parts'][0]['measure'] == 'perturbation_score'
    assert all(c['p'] < 0.05 for c in claim['parts'][0]['comparisons'])
    assert 'DeepFool alone' in claim['parts'][0]['note']


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


def augrc(accuracy, auroc):
    return (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2


def test_unequal_accuracies(tmp_path):
    """A less accurate classifier with the larger AUROC is not more reliable: AUGRC decides."""

    def change(run, numbers):
        ours, noise = run.model == METHOD, numbers['perturbation_score'] / 10
        accuracy, auroc = (0.7, 0.85) if ours else (0.9, 0.8)
        numbers |= {'test_accuracy': accuracy + noise, 'mahalanobis_auroc': auroc + noise}
        numbers['mahalanobis_augrc'] = augrc(numbers['test_accuracy'], numbers['mahalanobis_auroc'])

    make_up(tmp_path, change=change)
    claim = report_of(tmp_path)['claims']['reliable']
    auroc, augrc_part = claim['parts']
    assert all(c['agrees'] and c['p'] < 0.05 for c in auroc['comparisons'])
    assert not any(c['agrees'] for c in augrc_part['comparisons']) and claim['verdict'] == CONTRADICTED


def test_a_measure_that_nobody_took(tmp_path):
    """Its part is `not measured`, the claim has no support, and nothing else changes."""
    make_up(tmp_path, 15, change=lambda run, numbers: numbers.pop('mahalanobis_augrc'))
    claims = report_of(tmp_path)['claims']
    assert claims['reliable']['verdict'] == UNDECIDED and claims['reliable']['not_measured']
    assert claims['accurate']['verdict'] == claims['collapse']['verdict'] == SUPPORTED
    assert '| not measured |' in claims_markdown(report_of(tmp_path))


@pytest.mark.parametrize('arm', [METHOD, 'no_pen'])
def test_nan(tmp_path, arm):
    """A number that is missing in one replicate leaves four pairs; in all of them, nothing to compare."""

    def change(run, numbers):
        if run.model == arm:
            numbers['mahalanobis_auroc'] = math.nan if run.replicate == 2 else numbers['mahalanobis_auroc']
            numbers['train_within_class_variation'] = math.nan

    make_up(tmp_path, 15, change)
    claims = report_of(tmp_path)['claims']
    pairs = {c['with']: c['difference']['n'] for c in claims['reliable']['parts'][0]['comparisons']}
    assert pairs['no_pen'] == 4 and pairs['lin_pen'] == (4 if arm == METHOD else 5)
    assert claims['reliable']['verdict'] == SUPPORTED and claims['collapse']['verdict'] == UNDECIDED
    assert claims['accurate']['verdict'] == SUPPORTED


def test_ties(tmp_path):
    """All numbers the same: no difference, p = 1. One and the same difference five times: not enough for 5%."""

    def change(run, numbers):
        numbers |= {'test_accuracy': 0.9, 'train_within_class_variation': 0.1 - 0.05 * (run.model == METHOD)}

    make_up(tmp_path, change=change)
    claims = report_of(tmp_path)['claims']
    assert [c['p'] for c in claims['accurate']['parts'][0]['comparisons']] == [1.0] * 3
    assert [c['p'] for c in claims['collapse']['parts'][0]['comparisons']] == [2 / 2**5] * 3
    assert claims['accurate']['verdict'] == claims['collapse']['verdict'] == UNDECIDED


def test_two_replicates_are_not_tested(tmp_path):
    """However large the effect is; and the report says that there is no test."""
    make_up(tmp_path, 50, e=planned(replicates=2))
    report = report_of(tmp_path)
    assert set(verdicts_of(report).values()) == {UNDECIDED}
    assert 'With n = 2 replicates there is no test' in claims_markdown(report)
    assert all(c['p_holm'] is None for c in json.loads(claims_bytes(report)['claims.json'])['claims'].values())


def test_one_missing_run(tmp_path, command):
    """Refused, naming the run and the option; with it, compared on the learning rate that all have, and marked."""
    e = make_up(tmp_path / 'results', 15, missing=[39])
    last = expand(e)[39]
    with pytest.raises(UserError, match=f'{last.id}.*--partial'):
        compared(e, tmp_path / 'results')
    refused = command('claims', 'made-up', cwd=tmp_path)
    assert refused.returncode == 1 and last.id in refused.stderr and '--partial' in refused.stderr
    assert not (tmp_path / 'results' / 'made-up' / 'claims.md').exists()
    done = command('claims', 'made-up', '--partial', cwd=tmp_path)
    assert done.returncode == 0 and 'partial' in done.stdout
    report = json.loads((tmp_path / 'results' / 'made-up' / 'claims.json').read_text(encoding='utf-8'))
    assert report['partial'] and last.id in report['missing'] and report['learning_rates'] == [1e-3]
    assert report['replicates'] == [0, 1, 2, 3, 4] and verdicts_of(report)['accurate'] == SUPPORTED
    assert '**Partial.**' in (tmp_path / 'results' / 'made-up' / 'claims.md').read_text(encoding='utf-8')


def test_a_replicate_without_any_run(tmp_path):
    """A sweep that has not come to the last replicate: the others are compared."""
    e = make_up(tmp_path, 15, missing=[i for i, run in enumerate(expand(planned())) if run.replicate == 4])
    c = compared(e, tmp_path, partial=True)
    assert set(c.common.replicate) == {0, 1, 2, 3} and set(c.common.lr) == {1e-3, 2e-3}


def test_nothing_in_common(tmp_path):
    """BinEnc has another replicate than all the others: there is nothing to compare, with --partial too."""
    e = make_up(tmp_path, missing=set(range(40)) - {0, 5, 6, 7})
    with pytest.raises(UserError, match='no learning rate has the runs of all models'):
        compared(e, tmp_path, partial=True)


def test_files_are_reproducible_and_listed(tmp_path):
    """The same bytes again, in the list of checksums, valid JSON with the runs that were compared."""
    make_up(tmp_path, 15)
    keep_report(report_of(tmp_path), tmp_path)
    folder = tmp_path / 'made-up'
    before = {name: (folder / name).read_bytes() for name in ('claims.json', 'claims.md')}
    assert claims_bytes(report_of(tmp_path)) == before and not check_stored(folder)
    assert all(name in (folder / 'SHA256SUMS').read_text(encoding='utf-8') for name in before)
    report = json.loads(before['claims.json'])
    assert report['n'] == 5 and report['selection'] == 'val' and not report['partial'] and report['format'] == 1
    assert {arm: len(ids) for arm, ids in report['runs'].items()} == dict.fromkeys((METHOD, *OTHERS), 5)
    assert all('lr0.002' in run_id for ids in report['runs'].values() for run_id in ids)
    (folder / 'claims.md').write_text('edited', encoding='utf-8')
    assert len(check_stored(folder)) == 1


def test_the_rule_of_selection_can_change_a_verdict(tmp_path):
    """BinEnc is better with the learning rate that validation prefers, and worse with the other one."""

    def change(run, numbers):
        if run.model == METHOD:
            numbers['train_within_class_variation'] += -0.2 if run.lr == 2e-3 else 0.2

    make_up(tmp_path, change=change)
    rules = report_of(tmp_path)['verdicts_by_selection']
    assert rules['val']['collapse'] == SUPPORTED and rules['train']['collapse'] == CONTRADICTED


def test_published_numbers(tmp_path):
    """Beside ours for the same images, with every setting that differs; for other images it says so."""
    make_up(tmp_path)
    assert report_of(tmp_path)['published']['rows'] == []
    e = planned(dataset='cifar10')
    make_up(tmp_path / 'other', e=e)
    about = claims.claims_report(compared(e, tmp_path / 'other'))['published']
    rows = {(row['arm'], row['measure']): row for row in about['rows']}
    assert rows['bin_enc', 'test_accuracy']['theirs'] == pytest.approx(0.9486)
    assert rows['no_pen', 'mahalanobis_auroc']['source'] == 'ICLR 2025 submission p.9 Table 2'
    assert any(line.startswith('backbone mlp instead of resnet18') for line in about['differs'])
    text = claims_markdown(claims.claims_report(compared(e, tmp_path / 'other')))
    assert '0.9486 ± 0.0009' in text and 'backbone mlp instead of resnet18' in text


def test_published_numbers_travel_with_the_package():
    """The table has its sources, and setup.py installs it."""
    table = pd.read_csv(REPO / 'binenc' / 'published_results.csv')
    assert table.source.notna().all() and len(table) > 100
    assert re.search(r"package_data=.*'published_results.csv'", (REPO / 'setup.py').read_text(encoding='utf-8'))
    assert binenc.__file__.endswith('binenc/__init__.py')


def test_arms_of_other_experiments_do_not_matter(tmp_path):
    """Without BinEnc, or with it alone, no claim is decided, and nothing fails."""
    for models in ['lin_pen', 'no_pen'], [METHOD]:
        folder = tmp_path / models[0]
        e = make_up(folder, 15, e=planned(model=models))
        judged = judged_runs(compared(e, folder).selected)
        assert judged['accurate']['verdict'] == judged['collapse']['verdict'] == UNDECIDED


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
