"""What odd numbers give, and how often the verdicts on the claims are wrong; the chapter compares with scipy and
statsmodels."""

import math

import numpy as np
import pytest

from binenc.claims import CLAIMS, judge
from binenc.statistics import CONTRADICTED, LEVEL, SUPPORTED, UNDECIDED, compare, verdicts

pytestmark = [
    pytest.mark.filterwarnings('error'),
    pytest.mark.filterwarnings('ignore::ResourceWarning'),  # of tests before, when statsmodels collects garbage
]
EXPERIMENTS = 1000
ERROR = 3 * math.sqrt(LEVEL * (1 - LEVEL) / EXPERIMENTS)  # of a share of that many, three deviations


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
