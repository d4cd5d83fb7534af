"""Metrics against independent computations: the reference table of the paper's code, and explicit matrices."""


import numpy as np
import pytest

from binenc.binarity import binarity_metrics, encoding_fraction
from binenc.collapse import collapse_metrics

COLLAPSE = ('within_class_variation', 'equiangular', 'maxangle', 'equinorm', 'sigma_w')
BINARITY = ('score', 'stds', 'peaks_distance_mean')

# (seed, classes, nodes, samples, noise, share of labels drawn anew): values that the paper's code gave on these inputs
REFERENCE = {
    (0, 10, 4, 3000, 0.3, 0.05): (
        0.104629, 0.491542, 0.408615, 0.176334, 0.0395204, -0.864647, 0.311606, 6.64265, 0.980296),
    (1, 100, 36, 8000, 0.2, 0.1): (
        0.105999, 0.166224, 0.133114, 0.0417664, 0.00495434, -0.481228, 0.196858, 10.0185, 0.954204),
}


def seeded(seed, classes, nodes, samples, noise, flip):
    r = np.random.default_rng(seed)
    mu = np.sign(r.standard_normal((classes, nodes)))
    y = r.integers(0, classes, samples)
    z = np.float32(mu[y] + noise * r.standard_normal((samples, nodes)))
    return z, np.where(r.random(samples) < flip, r.integers(0, classes, samples), y)


@pytest.mark.parametrize('case', REFERENCE)
def test_reference_table(case):
    z, y = seeded(*case)
    *closed_form, score, stds, distance, fraction = REFERENCE[case]
    collapse, binarity = collapse_metrics(z, y), binarity_metrics(z)
    assert [collapse[name] for name in COLLAPSE] == pytest.approx(closed_form, rel=1e-4)
    assert [binarity[name] for name in BINARITY] == pytest.approx([score, stds, distance], rel=2e-3)
    assert encoding_fraction(z, y) == pytest.approx(fraction, rel=1e-4)


def explicit_collapse(z, y):
    "The definitions word by word, with d x d matrices in double precision."
    z, classes = z.astype(float), np.unique(y)
    k = len(classes)
    means = np.stack([z[y == c].mean(0) for c in classes]) - z.mean(0)
    within = sum(np.cov(z[y == c].T) for c in classes) / k
    # K centred means have rank K-1: NumPy's default cut-off of 1e-15 can keep a rounding error
    between = np.linalg.pinv(means.T @ means / k, rcond=1e-10, hermitian=True)
    lengths = np.linalg.norm(means, axis=1)
    cosines = (means @ means.T / np.outer(lengths, lengths))[np.triu_indices(k, 1)]
    return dict(
        within_class_variation=np.trace(within @ between) / k,
        equiangular=cosines.std(),
        maxangle=np.abs(cosines + 1 / (k - 1)).mean(),
        equinorm=lengths.std() / lengths.mean(),
        sigma_w=within.mean(),
        sigma_w_trace=np.trace(within) / z.shape[1],
    )


def clouds(seed, classes, nodes, samples):
    "Unbalanced classes, correlated nodes, labels with gaps, every class with at least two samples."
    r = np.random.default_rng(seed)
    share = r.dirichlet(np.ones(classes))
    y = np.concatenate([np.arange(classes).repeat(2), r.choice(classes, samples - 2 * classes, p=share)])
    mixing = r.standard_normal((nodes, nodes)) / nodes**0.5
    z = r.standard_normal((classes, nodes))[y] + 0.5 * r.standard_normal((samples, nodes)) @ mixing + 3
    return np.float32(z), y * 3 - 1


@pytest.mark.parametrize('shape', [(2, 3, 100), (7, 50, 900), (30, 5, 3000), (10, 64, 5000), (40, 40, 2500)])
@pytest.mark.parametrize('seed', [0, 1])
def test_collapse_equals_explicit_matrices(seed, shape):
    z, y = clouds(seed, *shape)
    assert collapse_metrics(z, y) == pytest.approx(explicit_collapse(z, y), rel=1e-4, abs=1e-7)


def test_a_class_of_a_single_sample():
    """It counts, with no scatter of its own."""
    z = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    found = collapse_metrics(z, np.r_[np.zeros(39, int), 1])
    assert found['sigma_w_trace'] == pytest.approx(np.trace(np.cov(z[:39].T)) / 3 / 2, rel=1e-4)
