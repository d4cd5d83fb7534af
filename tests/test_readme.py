"""README.md is nbs/index.ipynb, its numbers are the stored ones, and what it points to is there."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest

from binenc.claims import claims_report, compared, verdict_markdown
from binenc.files import read_json
from binenc.statistics import compare
from binenc.store import stored_experiment
from binenc.tables import by_replicate, in_print, with_attacks
from helpers import REPO, definitions_of
from lint import source
from readme import render

RESULTS = REPO / 'results'
EXPERIMENTS = ['fashion', 'demo', 'digits']
BASE, CIFAR = 'cifar10-jpeg-cpu', 'cifar10-jpeg-cpu-32' # of the page of changes, and in README's table
CLAIMS = ['fashion', CIFAR]
BENCH = definitions_of('bench.ipynb')
README = (REPO / 'README.md').read_text(encoding='utf-8')


def test_in_step_with_the_notebook():
    """After editing nbs/index.ipynb: make readme."""
    assert README == render()


METRICS = {
    'distinct codes': 'train_distinct_codes',
    'same-encoding fraction': 'train_same_encoding_fraction',
    'distance of peaks': 'train_peaks_distance_mean',
    'NC1': 'train_within_class_variation',
    'sigma_w': 'train_sigma_w',
    'train accuracy': 'train_accuracy',
    'test accuracy': 'test_accuracy',
    'Mahalanobis AUROC': 'mahalanobis_auroc',
    'perturbation score': 'perturbation_score',
}
LABELS = {'BinEnc': 'bin_enc', 'LinPen': 'lin_pen', 'NonlinPen': 'nonlin_pen', 'NoPen': 'no_pen'}
SELECTED = pd.concat(pd.read_csv(RESULTS / name / 'selected.csv') for name in EXPERIMENTS)
TITLES = {name: stored_experiment(name, RESULTS).title for name in EXPERIMENTS}


def read_cells(notebook):
    """The cells of a notebook in nbs/."""
    return read_json(REPO / 'nbs' / notebook)['cells']


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def number_rows():
    """(experiment, model, n, heading, shown) of every number in the overview tables of each experiment."""
    for name in EXPERIMENTS:
        for path in sorted((RESULTS / name / 'tables').glob('overview_*.md')):
            header, _, *rows = [cells(line) for line in path.read_text('utf-8').splitlines() if line.startswith('|')]
            for title, model, n, *values in rows:
                assert TITLES[name] == title
                yield from ((name, LABELS[model], int(n), *pair) for pair in zip(header[3:], values))


def test_every_number_is_the_stored_one():
    """Each `mean ± std` and n in these tables, worked out anew from selected.csv; and none is missing."""
    rows = list(number_rows())
    assert len(rows) == len(EXPERIMENTS) * len(LABELS) * len(METRICS)
    for experiment, model, n, heading, shown in rows:
        runs = SELECTED[(SELECTED.experiment == experiment) & (SELECTED.model == model)]
        values = runs[METRICS[heading]].dropna()
        assert shown == in_print(values.mean(), values.std(), len(values)), (experiment, model, heading)
        assert n == len(runs) >= 3


def test_every_claim_is_the_stored_one():
    """The table of the paper's claims, and its verdicts, follow from the stored runs; a partial one is marked."""
    reports = [claims_report(compared(name, RESULTS, partial=True)) for name in CLAIMS]
    table = verdict_markdown({report['title']: report for report in reports})
    assert table.strip() in README
    assert all(f'{report["title"]} (partial)' in table for report in reports if report['partial'])


SAID = (  # experiment, column, and how many digits README gives of the means of BinEnc and NoPen
    ('fashion', 'test_accuracy', 3),
    ('fashion', 'mahalanobis_auroc', 3),
    (CIFAR, 'mahalanobis_auroc', 3),
    ('family', 'mahalanobis_auroc', 3),
    ('family-mnist-small', 'mahalanobis_auroc', 3),
    ('family-mnist-small', 'test_accuracy', 3),
    ('mnist-small-imbalanced', 'test_accuracy', 2),
)


def test_what_is_said_of_arms_is_stored():
    """Means over replicates in the text, worked out anew; the loss raises a layer's accuracy and AUROC, as it says."""
    numbers = re.findall(r'\d\.\d+', README)
    for experiment, column, digits in SAID:
        means = pd.read_csv(RESULTS / experiment / 'selected.csv').groupby('model')[column].mean()
        said = [f'{mean:.{digits}f}' for mean in means[['bin_enc', 'no_pen']]]
        assert said in [numbers[i:i + 2] for i in range(len(numbers))], (experiment, column) # one after the other
    tail = pd.read_csv(RESULTS / 'mnist-small-imbalanced' / 'selected.csv').query('model == "bin_enc"')
    assert 'BinEnc gives up the rare ones' in README and (tail.test_worst_class_accuracy == 0).all()
    for experiment in 'family', 'family-mnist-small':
        table = pd.read_csv(RESULTS / experiment / 'tables' / 'arms.csv').set_index(['model', 'metric'])
        for measure in 'test accuracy', 'Mahalanobis AUROC':
            row = table.loc[('BinEnc', measure)]
            assert row.baseline == 'LinPen' and row.difference_low > 0, (experiment, measure)
        assert verdicts(experiment)['vertices'] == 'supported'


def verdicts(experiment):
    """The stored verdict on each claim."""
    claims = read_json(RESULTS / experiment / 'claims.json')['claims']
    return {claim: about['verdict'] for claim, about in claims.items()}


def test_what_is_said_of_claims_is_stored():
    """Which claims are supported, as the text and the table have it."""
    supported = {name: {claim for claim, verdict in verdicts(name).items() if verdict == 'supported'}
                 for name in (*CLAIMS, 'digits')}
    assert not any(read_json(RESULTS / name / 'claims.json')['lacking'] for name in CLAIMS)
    assert supported['fashion'] == {'binary', 'collapse', 'vertices', 'reliable'}
    assert supported[CIFAR] == {'binary', 'collapse', 'vertices', 'reliable'}
    assert supported['digits'] == {'binary', 'collapse'}
    accuracy = [pd.read_csv(RESULTS / name / 'selected.csv').train_accuracy.min() for name in CLAIMS]
    assert '(accuracy above 0.98)' in README and min(accuracy) > 0.98
    accurate = read_json(RESULTS / CIFAR / 'claims.json')['claims']['accurate']
    [against] = [comparison for part in accurate['parts'] for comparison in part['comparisons']
                 if comparison['with'] == 'no_pen']
    assert against['difference']['high'] < 0 and accurate['verdict'] == 'undecided'
    said = f'lead has p = {against["p"]:.3f}, corrected {accurate["p_against_holm"]:.3f}'
    assert said in README.replace('\n', ' ')
    assert verdicts(BASE) == verdicts(CIFAR) # after 20 epochs as after 32


def test_what_is_said_of_attacks_is_stored():
    """On Fashion-MNIST most of what DeepFool shows is gone once other attacks are made; LinPen is as robust."""
    table = pd.read_csv(RESULTS / 'fashion' / 'tables' / 'attacks.csv').set_index(['metric', 'model'])['mean']
    alone, smallest = table['DeepFool alone, mean of fooled'], table['smallest perturbation, mean']
    for number in alone['BinEnc'], alone['NoPen'], smallest['BinEnc'], smallest['NoPen'], smallest['LinPen']:
        assert f'{number:.4f}' in README
    assert smallest['BinEnc'] - smallest['NoPen'] < (alone['BinEnc'] - alone['NoPen']) / 4
    robust = read_json(RESULTS / 'fashion' / 'claims.json')['claims']['robust']
    [difference] = [comparison['difference'] for part in robust['parts'] for comparison in part['comparisons']
                    if comparison['with'] == 'lin_pen']
    assert difference['low'] < 0 < difference['high'] and robust['verdict'] == 'undecided'
    for name in CLAIMS:
        assert (pd.read_csv(RESULTS / name / 'attacks.csv.gz').groupby('id').image.nunique() == 40).all()
    assert 'on 40\nimages)' in README
    digits = pd.read_csv(RESULTS / 'digits' / 'tables' / 'attacks.csv').query('metric == "smallest perturbation, mean"')
    assert digits.set_index('model')['mean'].idxmax() == 'NoPen'


def test_what_is_said_of_reliability_is_stored():
    """NoPen's confidence detects errors better than BinEnc's distance on all images, not on digits."""
    section = README.partition('**Reliability**')[2].partition('\n\n')[0]
    for name, better in ('fashion', True), (CIFAR, True), ('digits', False):
        mean = pd.read_csv(RESULTS / name / 'selected.csv').groupby('model').mean(numeric_only=True)
        confidence, distance = mean.confidence_auroc['no_pen'], mean.mahalanobis_auroc['bin_enc']
        assert f'{confidence:.3f} against {distance:.3f}' in section and (confidence > distance) == better
        assert mean.test_ece.idxmax() == 'bin_enc'
    errors = [pd.read_csv(RESULTS / name / 'selected.csv').groupby('model').test_ece.mean() for name in
              ('fashion', 'fashion-weaker')]
    said = errors[0]['bin_enc'], errors[1]['bin_enc'], errors[0]['no_pen']
    assert 'is {:.2f}, with gamma up to 50 still {:.2f}, NoPen\'s {:.2f}'.format(*said) in section


def test_what_is_said_of_cifar_is_stored():
    """Of CIFAR-10 (JPEG) at full size: what five replicates show."""
    runs = pd.read_csv(RESULTS / CIFAR / 'selected.csv')
    assert set(runs.groupby('model').replicate.nunique()) == {5} and runs.train_accuracy.min() > 0.98
    mean = runs.groupby('model')[['test_accuracy', 'mahalanobis_auroc', 'train_distinct_codes']].mean()
    assert mean.test_accuracy.idxmax() == 'no_pen' and mean.mahalanobis_auroc.idxmax() == 'bin_enc'
    assert mean.train_distinct_codes['bin_enc'] == 10
    lost = mean.test_accuracy['no_pen'] - mean.test_accuracy # by the four nodes, which LinPen has too
    assert lost['lin_pen'] > 0.8 * lost['bin_enc']
    attacks = pd.read_csv(RESULTS / CIFAR / 'tables' / 'attacks.csv')
    smallest, alone = (attacks[attacks.metric == metric].set_index('model')['mean']
                       for metric in ('smallest perturbation, mean', 'DeepFool alone, mean of fooled'))
    assert alone['BinEnc'] == alone.max()
    assert smallest['NoPen'] == smallest.max() and smallest['BinEnc'] == smallest.min()
    section = README.partition('**CIFAR-10 (JPEG).**')[2].replace('\n', ' ')
    before = pd.read_csv(RESULTS / BASE / 'selected.csv').query('model == "bin_enc"')
    fractions = (table[table.model == 'bin_enc'].train_same_encoding_fraction.mean() for table in (before, runs))
    assert 'the same-encoding fraction is {:.3f} instead of {:.3f}'.format(*fractions) in section
    best = pd.read_csv(RESULTS / f'{BASE}-rates' / 'selected.csv').set_index('model').lr
    assert (runs.lr == runs.model.map(best)).all() and (before.lr == best['bin_enc'] / 2).all()
    for number in (*mean.test_accuracy.drop('nonlin_pen'), *mean.mahalanobis_auroc[['bin_enc', 'no_pen']]):
        assert f'{number:.3f}' in section
    assert all(f'{number:.4f}' in section for number in smallest[['BinEnc', 'NoPen']])


def selected(name):
    """The selected runs of an experiment, with their attacks."""
    return with_attacks(pd.read_csv(RESULTS / name / 'selected.csv'), RESULTS)


def one_change(change=''):
    """Three replicates of `BASE` with one change."""
    runs = selected(f'{BASE}{change}').query('replicate < 3')
    assert (runs.groupby('model').replicate.nunique() == 3).all()
    return runs


def paired(one, other, column, arm='bin_enc', than=None):
    """The mean difference of two tables of runs, by replicate, with its interval."""
    return compare(by_replicate(one, arm, column), by_replicate(other, than or arm, column)).difference


def page_of_changes():
    return next(text for text in map(source, read_cells('ablation.ipynb')) if text.startswith('## What it says'))


def test_what_is_said_of_one_change_at_a_time_is_stored():
    """On CIFAR-10 (JPEG) four nodes cost accuracy, with the loss and without; 16 do not, but detect fewer errors."""
    base, wide = one_change(), one_change('-nodes')
    assert (wide.nodes == 16).all()
    four, sixteen = (runs.groupby('model')[list(METRICS.values())].mean() for runs in (base, wide))
    section, page = README.partition('**CIFAR-10 (JPEG).**')[2], page_of_changes()
    auroc, fraction = 'mahalanobis_auroc', 'train_same_encoding_fraction'
    for number in (*sixteen.test_accuracy, sixteen[auroc]['bin_enc'], four.test_accuracy['no_pen']):
        assert f'{number:.3f}' in section and f'{number:.3f}' in page
    for number in (four[auroc]['bin_enc'], sixteen[auroc]['lin_pen'], four[fraction]['bin_enc'],
                   sixteen[fraction]['bin_enc']):
        assert f'{number:.3f}' in page
    for arm in 'bin_enc', 'lin_pen':
        lost = four.test_accuracy['no_pen'] - pd.Series([four.test_accuracy[arm], sixteen.test_accuracy[arm]])
        assert 0.015 < lost[0] < 0.025 and 0 < lost[1] < 0.005


def test_what_is_said_of_epochs_and_gamma_is_stored():
    """More epochs nearly complete the code, not the accuracy; a smaller gamma only takes DeepFool's advantage away."""
    base, longer, gamma = one_change(), one_change('-longer'), one_change('-gamma')
    assert (longer.epochs == 32).all() and (gamma.gamma_max == 0.5).all()
    section, page = README.partition('**CIFAR-10 (JPEG).**')[2], page_of_changes()
    columns = ['test_accuracy', 'mahalanobis_auroc', 'train_same_encoding_fraction', 'train_accuracy']
    after, small, before = (runs[runs.model == 'bin_enc'][columns].mean() for runs in (longer, gamma, base))
    for number in (*after[:3], *small[['test_accuracy', 'mahalanobis_auroc', 'train_accuracy']], before.train_accuracy):
        assert f'{number:.3f}' in page
    completed = paired(longer, base, 'train_same_encoding_fraction')
    assert completed.low < 0 < completed.mean
    assert after.train_same_encoding_fraction > 0.985 and longer.train_distinct_codes.eq(10).all()
    assert f'smaller end of gamma ({small.test_accuracy:.3f})' in section.replace('\n', ' ')
    assert paired(longer, base, 'test_accuracy', than='no_pen').high < 0
    for column in 'test_accuracy', 'mahalanobis_auroc':
        d = paired(gamma, base, column)
        assert d.low < 0 < d.high
    scores = [base[base.model == 'bin_enc'], base[base.model == 'no_pen'], gamma]
    assert all(f'{runs.perturbation_score.mean():.4f}' in page for runs in scores)
    assert paired(gamma, base, 'perturbation_score').high < 0
    assert paired(base, base, 'perturbation_score', than='no_pen').low > 0
    assert paired(gamma, base, 'perturbation_score', than='no_pen').mean < 0


def test_what_is_said_of_fewer_images_is_stored():
    """With 5,000 images BinEnc stays behind, detects errors better, and DeepFool's verdict turns round."""
    base, few = one_change(), one_change('-images')
    assert (few.train_images == 5000).all()
    section, page = README.partition('**CIFAR-10 (JPEG).**')[2], page_of_changes()
    mean = few.groupby('model')[['test_accuracy', 'mahalanobis_auroc', 'perturbation_score']].mean()
    assert all(f'{number:.3f}' in section for number in mean.test_accuracy)
    assert all(f'{number:.3f}' in page for number in (*mean.test_accuracy, *mean.mahalanobis_auroc))
    assert all(f'{number:.4f}' in page for number in mean.perturbation_score)
    assert paired(few, few, 'test_accuracy', than='no_pen').high < 0
    assert paired(few, few, 'mahalanobis_auroc', than='no_pen').low > 0
    assert paired(few, few, 'perturbation_score', than='no_pen').high < 0
    assert paired(base, base, 'perturbation_score', than='no_pen').low > 0


def test_what_is_said_of_the_learning_rate_is_stored():
    """With NoPen's rate BinEnc is not seen to be better or worse, nor to reach NoPen; NoPen is ahead at every rate."""
    base, same = one_change(), one_change('-rate')
    assert (same.lr == base[base.model == 'no_pen'].lr.iloc[0]).all()
    section, page = README.partition('**CIFAR-10 (JPEG).**')[2], page_of_changes()
    mean = same[['test_accuracy', 'train_same_encoding_fraction', 'mahalanobis_auroc']].mean()
    assert f'{mean.test_accuracy:.3f}' in section and all(f'{number:.3f}' in page for number in mean)
    for column in mean.index:
        d = paired(same, base, column)
        assert d.low < 0 < d.high
    d = paired(same, base, 'test_accuracy', than='no_pen')
    assert d.mean < 0 < d.high
    rates = pd.read_csv(RESULTS / f'{BASE}-rates' / 'runs.csv')
    rates = rates.pivot(index='lr', columns='model', values='val_accuracy')
    assert len(rates) == 4 and (rates.bin_enc < rates.no_pen).all() and rates.bin_enc.idxmax() == same.lr.iloc[0]
    assert all(f'{rates[arm].max():.3f}' in page for arm in ('bin_enc', 'no_pen'))


def test_what_is_said_of_more_epochs_with_a_higher_rate_is_stored():
    """With 32 epochs and NoPen's rate all codes are there and nearly complete; the test accuracies are as before."""
    base, both = one_change(), one_change('-32')
    page = page_of_changes()
    every = both.groupby('model')[['test_accuracy', 'train_same_encoding_fraction', 'mahalanobis_auroc']].mean()
    mean = every.loc['bin_enc']
    assert all(f'{number:.3f}' in page for number in (*mean, *every.test_accuracy[['no_pen', 'lin_pen']]))
    completed, better = (paired(both, base, column) for column in ('train_same_encoding_fraction', 'test_accuracy'))
    assert -0.002 < completed.low < 0 < completed.mean and better.low < 0 < better.high
    assert paired(both, base, 'mahalanobis_auroc').low > 0 and both.train_accuracy.min() > 0.999
    assert all(paired(both, base, 'test_accuracy', arm=arm).low < 0 for arm in LABELS.values())
    assert all(paired(runs, both, 'test_accuracy', arm='no_pen', than='bin_enc').mean > 0 for runs in (base, both))
    five = selected(CIFAR).query('model == "bin_enc"')
    assert len(five) == 5 and (five.lr == 0.002).all() and (five.epochs == 32).all()
    assert five.train_distinct_codes.eq(10).all() and five.train_same_encoding_fraction.mean() > 0.985
    assert f'{five.train_same_encoding_fraction.mean():.3f} over five replicates' in page


def test_what_is_said_of_images_as_they_are_is_stored():
    """Without mirroring BinEnc stays behind too, and fooling it takes smaller perturbations."""
    base, plain = one_change(), one_change('-plain')
    assert set(plain.augment.astype(str)) == {'False'} and '(accuracy 0.9998 and\n1)' in page_of_changes()
    section, page = README.partition('**CIFAR-10 (JPEG).**')[2], page_of_changes()
    mean = plain.groupby('model')[list(METRICS.values())].mean()
    assert [f'{number:.4f}' for number in mean.train_accuracy] == ['0.9998', '1.0000']
    assert all(f'{number:.3f}' in section and f'{number:.3f}' in page for number in mean.test_accuracy)
    for number in (*mean.mahalanobis_auroc, mean.train_same_encoding_fraction['bin_enc']):
        assert f'{number:.3f}' in page
    assert all(f'{number:.4f}' in page for number in mean.perturbation_score)
    assert paired(plain, plain, 'test_accuracy', than='no_pen').high < 0
    assert paired(plain, plain, 'mahalanobis_auroc', than='no_pen').low > 0
    assert paired(plain, plain, 'perturbation_score', than='no_pen').high < 0
    assert paired(plain, base, 'train_same_encoding_fraction').mean > 0
    assert paired(plain, plain, 'smallest_perturbation_median', than='no_pen').high < 0
    medians = plain.groupby('model').smallest_perturbation_median.mean()
    assert all(f'{median:.4f}' in page for median in medians)


def between_corners(experiment):
    """Of the run whose points are stored: the classes that are between two corners, and whether the other is free."""
    with np.load(RESULTS / experiment / 'latents' / 'bin_enc.npz') as stored:
        z, y, classes = (stored[name] for name in ('z', 'y', 'classes'))
    codes = np.stack([(z[y == k] > 0).mean(0) > 0.5 for k in range(len(classes))])
    middle = np.stack([abs(z[y == k].mean(0)) for k in range(len(classes))]) < abs(z).mean(0) / 2
    other = codes[:, None] ^ np.eye(z.shape[1], dtype=bool)
    free = (other[:, :, None] != codes).any(-1).all(-1)
    return {name for name, row in zip(classes, middle, strict=True) if row.any()}, free[middle], free


def test_what_is_said_of_classes_between_two_corners_is_stored():
    """They are where the other corner is no class's code."""
    page = source(read_cells('edges.ipynb')[-1])
    names, free, every = zip(*map(between_corners, TEN_CODES), strict=True)
    free, every = np.concatenate(free), np.stack(every)
    assert free.all() and f'in all {len(free)} pairs' in page
    assert f'{every.sum()} of all {every.size} pairs' in page and every.mean() < 0.6
    assert 'Dress' in names[TEN_CODES.index('fashion-weaker')] and '(nbs/edges.ipynb)' in README


def test_what_is_said_of_stronger_compression_is_stored():
    """With gamma to 1,000 peaks are further apart and classes smaller, at the same accuracy and AUROC."""
    strong, usual = selected('fashion'), selected('fashion-weaker')
    assert (strong[strong.model == 'bin_enc'].gamma_max == 1000).all() and (usual.gamma_max == 50).all()
    page = source(read_cells('edges.ipynb')[-1])
    for column, digits in STRONGER.items():
        means = (runs[runs.model == 'bin_enc'][column].mean() for runs in (strong, usual))
        assert all(f'{mean:.{digits}f}' in page for mean in means), column
    assert paired(strong, usual, 'train_peaks_distance_mean').low > 0
    assert paired(strong, usual, 'train_within_class_variation').high < 0
    for column in 'train_accuracy', 'confidence_auroc', 'test_worst_class_accuracy':
        assert paired(strong, usual, column).high < 0
    for column in 'train_same_encoding_fraction', 'test_accuracy', 'mahalanobis_auroc':
        d = paired(strong, usual, column)
        assert d.n == 5 and d.low < 0 < d.high
    smallest = (runs[runs.model == 'bin_enc'].smallest_perturbation_mean.mean() for runs in (strong, usual))
    assert '({:.4f} and {:.4f})'.format(*smallest) in page.replace('\n', ' ')
    d = paired(strong, usual, 'smallest_perturbation_mean')
    assert d.low < 0 < d.high and paired(strong, usual, 'perturbation_score').low > 0
    assert len(between_corners('fashion')[1]) == 1 and len(between_corners('fashion-weaker')[1]) == 4
    assert all(paired(usual, strong, 'test_accuracy', than=arm).low > 0 for arm in LABELS.values() if arm != 'bin_enc')
    assert paired(strong, strong, 'test_accuracy', than='no_pen').low < 0


STRONGER = {'train_peaks_distance_mean': 1, 'train_within_class_variation': 4, 'train_same_encoding_fraction': 3,
            'test_accuracy': 3, 'mahalanobis_auroc': 3, 'train_accuracy': 3, 'test_ece': 3, 'confidence_auroc': 3,
            'test_worst_class_accuracy': 3, 'perturbation_score': 4}
TEN_CODES = ['demo', 'digits', 'fashion', 'fashion-weaker', CIFAR, 'family', 'family-mnist-small']
OWN_NO_PEN = '-images', '-plain', '-32' # these concern NoPen too
CHANGES = '-nodes', '-gamma', '-longer', '-rate', *OWN_NO_PEN


@pytest.mark.parametrize('change, than', [('', 'no_pen'), *product(CHANGES, ('no_pen', 'bin_enc'))])
def test_no_change_makes_it_more_robust(change, than):
    """Over all attacks BinEnc is not seen to be more robust than NoPen, nor than itself without the change."""
    runs = one_change(change)
    beside = runs if change in OWN_NO_PEN and than == 'no_pen' else one_change()
    d = paired(runs, beside, 'smallest_perturbation_median', than=than)
    assert d.n == 3 and d.low < 0 and (d.high > 0 or (change, than) == ('-plain', 'no_pen'))


def test_bench_is_the_stored_one():
    """The benchmark's table is results/bench/cpu.json, and every row of it reached its goal with the same answer."""
    result = read_json(RESULTS / 'bench' / 'cpu.json')
    table = (RESULTS / 'bench' / 'cpu.md').read_text(encoding='utf-8')
    assert table == BENCH['bench_table'](result) and 'results/bench/cpu.md' in README
    assert all(row['reached'] and row['same'] is not False for row in result['rows'].values())
    assert set(result['rows']) == set(BENCH['ROWS'])


def test_what_it_points_to_is_there():
    """Links and paths of README exist."""
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', README):
        assert (REPO / target).exists(), target
    for path in re.findall(r'`((?:nbs|slurm|results|tests)/[\w./-]+)`', README):
        assert (REPO / path).exists(), path
