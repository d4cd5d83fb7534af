"""Intervals, paired differences and verdicts against scipy and statsmodels, and how often they are wrong."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from binenc.claims import CLAIMS, METHOD, judge
from binenc.statistics import CONTRADICTED, LEVEL, SUPPORTED, UNDECIDED, compare, holm, summarise, verdicts

pytestmark = [
    pytest.mark.filterwarnings('error'),
    pytest.mark.filterwarnings('ignore::ResourceWarning'),  # of tests before, when statsmodels collects garbage
]
EXPERIMENTS = 1000
ERROR = 3 * math.sqrt(LEVEL * (1 - LEVEL) / EXPERIMENTS)  # of a share of that many, three deviations


@pytest.mark.parametrize('n', [3, 5, 20])
def test_against_scipy(n):
    """Interval and p of a paired difference are those of `scipy.stats.ttest_rel`."""
    a, b = np.random.default_rng(n).normal(size=(2, n))
    ours, theirs = compare(a, b), stats.ttest_rel(a, b)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (ours.difference.low, ours.difference.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert (ours.p <= LEVEL) == (not ours.difference.low <= 0 <= ours.difference.high)
    assert summarise(a).std == pytest.approx(np.std(a, ddof=1))


def test_effect_size_is_unbiased():
    """Hedges' correction: the mean effect of many small samples is the true one, without it 25% more for n = 5."""
    differences = np.random.default_rng(0).normal(1, 1, (20_000, 5))
    effects = [compare(d, [0.0] * 5).effect for d in differences.tolist()]
    uncorrected = differences.mean(1) / differences.std(1, ddof=1)
    assert np.mean(effects) == pytest.approx(1, abs=0.02) and uncorrected.mean() > 1.2


def test_interval_covers_the_mean():
    """95% of the intervals of many samples hold the true mean."""
    x = np.random.default_rng(1).normal(7, 2, (EXPERIMENTS, 4))
    covered = [s.low <= 7 <= s.high for s in map(summarise, x.tolist())]
    assert np.mean(covered) == pytest.approx(1 - LEVEL, abs=ERROR)


@pytest.mark.parametrize(
    'ours, others, n, p',
    [
        ([], [], 0, math.nan),
        ([1.0], [0.0], 1, math.nan),
        ([1.0, 2.0], [0.0, 0.0], 2, math.nan),
        ([math.nan] * 5, [0.0] * 5, 0, math.nan),
        ([1.0, math.inf, math.nan, 2.0], [0.0, 0.0, 0.0, 0.0], 2, math.nan),
        ([0.5] * 5, [0.5] * 5, 5, 1.0),
        ([0.9] * 5, [0.8] * 5, 5, 2 / 2**5),
        ([0.3, 0.6, 0.9], [0.2, 0.5, 0.8], 3, 2 / 2**3),
    ],
)
def test_odd_cases_are_defined(ours, others, n, p):
    """Too few, missing, tied and equal numbers give what the chapter says, without a warning."""
    c = compare(ours, others)
    assert c.difference.n == n and c.p == pytest.approx(p, nan_ok=True)
    assert verdicts([[c]])[0].verdict == UNDECIDED


def test_pairs_must_match():
    """Different numbers of replicates are an error, not a silent cut."""
    with pytest.raises(ValueError):
        compare([1.0, 2.0], [1.0])


def test_holm_is_that_of_statsmodels():
    """With ties, ones and p that are not there."""
    for ps in np.random.default_rng(2).uniform(0, 0.2, (50, 6)).round(2):
        assert holm(list(ps)) == pytest.approx(list(multipletests(ps, method='holm')[1]))
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.03, math.nan, 0.08], nan_ok=True)


def test_a_claim_is_as_strong_as_its_weakest_comparison():
    """Two comparisons that hold do not carry a third one; one that contradicts is enough."""
    base = [0.9, 0.91, 0.92, 0.9, 0.93]
    better, worse, same = (compare([x + d for x in base], [*base[1:], base[0]]) for d in (0.1, -0.1, 0.0))
    assert [v.verdict for v in verdicts([[better] * 3, [better, better, same], [better, better, worse]])] == [
        SUPPORTED,
        UNDECIDED,
        CONTRADICTED,
    ]


def without_effect(rng, n):
    """Numbers of one experiment in which no arm and no bound differs from another."""
    bounds = {column: part.bound for claim in CLAIMS for part in claim.parts for column in part.columns if part.bound}
    table = {}

    def values(arm, column):
        if (arm, column) not in table:
            table[arm, column] = (bounds.get(column, 0.5) + 0.1 * rng.normal(size=n)).tolist()
        return table[arm, column]

    return values


@pytest.mark.parametrize('n', [3, 5])
def test_false_positives_are_nominal(n):
    """A thousand experiments without any effect: single tests are significant in 5%, no claim's verdict in more, and
    any of the six claims is falsely supported in no more than 5%."""
    rng = np.random.default_rng(n)
    judged = [judge(without_effect(rng, n)) for _ in range(EXPERIMENTS)]
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


def test_power():
    """A difference of four deviations is found in nearly all experiments of five replicates."""
    rng = np.random.default_rng(0)
    found = [
        verdicts([[compare(4 + a, b) for b in others]])[0].verdict == SUPPORTED
        for a, *others in rng.normal(size=(200, 4, 5))
    ]
    assert np.mean(found) > 0.9 and METHOD == 'bin_enc'
