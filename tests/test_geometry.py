"""Geometry, codes and their bounds against independent computations: NumPy's explicit sums over pairs, a solver of
quadratic programmes, brute force over all codes. Codes as a tool: the class of a new image by its bits."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from binenc.binarity import (
    UNKNOWN,
    bits,
    class_codes,
    code_distances,
    code_score,
    hamming,
    packed_bits,
    predict_by_code,
    unpacked_bits,
)
from binenc.geometry import (
    Layer,
    cdnv,
    class_geometry,
    distance_margin,
    distance_margin_median,
    distance_margins,
    entropy,
    nc4_test,
    nc4_train,
    one_vs_rest,
    self_duality,
    vertex_cosine,
    vertex_spread,
)
from binenc.measures import MEASURES, best_maxangle, best_min_hamming, best_one_vs_rest


def clouds(seed, classes, nodes, samples, noise=0.5):
    r = np.random.default_rng(seed)
    y = np.r_[np.arange(classes).repeat(2), r.integers(0, classes, samples - 2 * classes)]
    return np.float32(r.standard_normal((classes, nodes))[y] + noise * r.standard_normal((samples, nodes))), 2 * y + 1


@pytest.mark.parametrize('shape', [(3, 2, 200), (10, 4, 3000), (20, 70, 9000)])
def test_class_geometry_equals_explicit_sums(shape):
    z, y = clouds(0, *shape)
    classes, x = np.unique(y), z.astype(float)
    means = np.stack([x[y == c].mean(0) for c in classes])
    variances = np.array([((x[y == c] - m) ** 2).sum(1).mean() for c, m in zip(classes, means)])
    geometry = class_geometry(z, y)
    np.testing.assert_allclose(geometry.means, means, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(geometry.variances, variances, rtol=1e-10)
    pairs = [(variances[a] + variances[b]) / 2 / ((means[a] - means[b]) ** 2).sum()
             for a, b in combinations(range(len(classes)), 2)]
    assert cdnv(geometry) == pytest.approx(np.mean(pairs), rel=1e-9)
    corners = np.stack([c for c in np.sign(means)])
    cosines = (means * corners).sum(1) / np.linalg.norm(means, axis=1) / np.linalg.norm(corners, axis=1)
    assert vertex_cosine(geometry) == pytest.approx(cosines.mean(), rel=1e-9)
    assert vertex_spread(geometry) == pytest.approx(np.abs(means).std() / np.abs(means).mean(), rel=1e-9)


def layer_of(z, y, z_test, y_test, weight):
    z, y, z_test, y_test, weight = map(torch.as_tensor, (z, y, z_test, y_test, weight))
    predicted = [(part @ weight.T).argmax(1) for part in (z, z_test)]
    return Layer(class_geometry(z, y), weight, z, predicted[0], z_test, y_test, predicted[1])


@pytest.fixture
def layer():
    z, y = clouds(2, 6, 5, 900, noise=1.0)
    y = (y - 1) // 2
    weight = np.float32(np.random.default_rng(0).standard_normal((6, 5)))
    return layer_of(z[:600], y[:600], z[600:], y[600:], weight)


def test_layer_equals_explicit_distances(layer):
    means = layer.train.means.numpy()

    def apart(z):
        return np.linalg.norm(z.numpy()[:, None].astype(float) - means, axis=2)

    assert nc4_train(layer) == (apart(layer.z_train).argmin(1) != layer.pred_train.numpy()).mean()
    assert nc4_test(layer) == (apart(layer.z).argmin(1) != layer.pred.numpy()).mean()
    ratios = [min(np.delete(row, c)) / row[c] for row, c in zip(apart(layer.z), layer.y)]
    np.testing.assert_allclose(distance_margins(layer), ratios, rtol=1e-9)
    assert distance_margin(layer) == pytest.approx(np.mean(ratios)) and distance_margin_median(layer) in ratios
    w, m = (a - a.mean(0) for a in (layer.weight.numpy().astype(float), means))
    assert self_duality(layer) == pytest.approx(np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m)), rel=1e-6)


def test_scale_of_the_latents_changes_no_measure_of_the_layer(layer):
    small = layer_of(1e-6 * layer.z_train, torch.arange(600) % 6, 1e-6 * layer.z, layer.y, layer.weight)
    large = layer_of(1e6 * layer.z_train, torch.arange(600) % 6, 1e6 * layer.z, layer.y, layer.weight)
    for measure in (m for m in MEASURES.values() if m.of == 'layer'):
        assert measure.scale_free
        assert measure.compute(small) == pytest.approx(measure.compute(large), rel=1e-4), measure.name


def hull_distance(point, others):
    """By a general solver, from several starts."""
    k, best = len(others), math.inf
    for seed in range(2):
        start = np.random.default_rng(seed).dirichlet(np.ones(k))
        found = minimize(lambda a: ((a @ others - point) ** 2).sum(), start, bounds=[(0, 1)] * k, method='SLSQP',
                         constraints={'type': 'eq', 'fun': lambda a: a.sum() - 1},
                         options={'maxiter': 500, 'ftol': 1e-14})
        best = min(best, found.fun**0.5)
    return best


@pytest.mark.parametrize('classes, nodes', [(3, 2), (5, 4), (6, 3), (10, 4), (8, 20)])
def test_one_vs_rest_equals_a_general_solver(classes, nodes):
    means = np.random.default_rng(classes).standard_normal((classes, nodes))
    unit = means - means.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = min(hull_distance(unit[c], np.delete(unit, c, axis=0)) for c in range(classes))
    assert one_vs_rest(torch.tensor(means)) == pytest.approx(expected, abs=2e-5)


def pair_angles(means):
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    i, j = np.triu_indices(len(unit), 1)
    return np.abs((unit @ unit.T)[i, j] + 1 / (len(unit) - 1)).mean()


@pytest.mark.parametrize('classes, nodes', [(2, 1), (3, 2), (5, 2), (6, 3), (10, 4)])
def test_no_arrangement_passes_the_bounds(classes, nodes):
    """Random ones, and ones improved by a search; a simplex reaches both bounds."""
    r = np.random.default_rng(0)
    for trial in range(20):
        means = r.standard_normal((classes, nodes))
        if trial < 2:
            found = minimize(lambda m: pair_angles(m.reshape(classes, nodes)), means.ravel(), method='Powell',
                             options={'maxiter': 5})
            means = found.x.reshape(classes, nodes)
        assert pair_angles(means) >= best_maxangle(classes, nodes) - 1e-9
        assert one_vs_rest(torch.tensor(means)) <= best_one_vs_rest(classes, nodes) + 1e-9
    simplex = np.eye(classes) - 1 / classes
    assert pair_angles(simplex) == pytest.approx(best_maxangle(classes, classes - 1), abs=1e-12)
    assert one_vs_rest(torch.tensor(simplex)) == pytest.approx(best_one_vs_rest(classes, classes - 1))


@pytest.mark.parametrize('nodes', [1, 2, 3, 4])
def test_no_code_passes_the_bound_of_hamming_distances(nodes):
    """All sets of codes: the bound is true, and for so few bits nearly always reached."""
    words, best = range(2**nodes), {1: 0}
    for size in range(2, 2**nodes + 1):
        best[size] = max(min((a ^ b).bit_count() for a, b in combinations(code, 2))
                         for code in combinations(words, size))
    gaps = [best_min_hamming(size, nodes) - distance for size, distance in best.items()]
    assert min(gaps) == 0 and sum(gaps) <= 1


# Largest numbers of codes A(d, h), from Brouwer's table
@pytest.mark.parametrize('nodes, distance, most', [(5, 3, 4), (6, 3, 8), (7, 3, 16), (8, 3, 20), (8, 4, 16), (9, 3, 40),
                                                   (10, 5, 12), (11, 5, 24), (15, 7, 32), (16, 8, 32), (24, 8, 4096)])
def test_known_codes_do_not_pass_the_bound(nodes, distance, most):
    assert best_min_hamming(most, nodes) >= distance


@pytest.mark.parametrize('nodes, samples', [(1, 500), (4, 2000), (12, 1500)])
def test_entropy_equals_a_tree_of_neighbours(nodes, samples):
    z = np.random.default_rng(3).standard_normal((samples, nodes)) @ np.diag(np.geomspace(1e-6, 1e6, nodes)) + 5
    x = (z - z.mean(0)) / z.std(0)
    nearest = cKDTree(x).query(x, 21)[0][:, -1]
    ball = nodes / 2 * math.log(math.pi) - gammaln(nodes / 2 + 1)
    expected = digamma(samples) - digamma(20) + ball + nodes * np.log(nearest).mean()
    assert entropy(z) == pytest.approx(expected / nodes, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize('z', [np.zeros((60, 3)), np.ones((60, 3)), np.tile([[1.0, -1.0, 0.0]], (60, 1))])
@pytest.mark.parametrize('y', [np.zeros(60, int), np.arange(60) % 4])
def test_degenerate_latents_give_numbers_or_nan(z, y):
    """Constant latents, one class: every measure of every view answers."""
    from binenc.arms import ARMS
    from binenc.evaluation import Predictions, decoding_view, split_numbers

    z, y = torch.tensor(z, dtype=torch.float32), torch.tensor(y)
    out = Predictions(z, torch.eye(4)[y], y)
    numbers = split_numbers(out, ARMS['bin_enc'])
    layer = layer_of(z, y, z, y, torch.ones(4, 3))
    for subject, view in ((layer, 'layer'), (decoding_view(out, out), 'decoding')):
        numbers |= {m.name: m.compute(subject) for m in MEASURES.values() if m.of == view}
    assert all(isinstance(value, float) for value in numbers.values())
    assert numbers['code_entropy'] == numbers['bit_balance'] == 0 and math.isnan(numbers['bit_correlation'])
    assert math.isnan(numbers['latent_entropy']) and math.isnan(numbers['one_vs_rest'])


def test_bounds_are_of_measures_and_need_no_torch():
    bounded = {m.name: m.bound for m in MEASURES.values() if m.bound}
    wanted = {'maxangle': pytest.approx(1 / 4 - 1 / 9), 'distinct_codes': 10, 'min_hamming': 1, 'one_vs_rest': 1}
    assert {name: bounded[name](10, 4) for name in wanted} == wanted


CUBE = torch.cartesian_prod(*[torch.tensor([-1., 1.])] * 4)


@pytest.mark.parametrize('nodes', [1, 4, 8, 9, 64, 2048])
def test_packing(nodes):
    """As few bytes as hold them, the same bits again."""
    z = torch.randn(7, nodes, generator=torch.Generator().manual_seed(0))
    packed = packed_bits(z)
    assert packed.shape == (7, -(-nodes // 8)) and packed.dtype == np.uint8
    assert unpacked_bits(packed, nodes).equal(bits(z))
    with pytest.raises(ValueError, match='uint8'):
        unpacked_bits(packed, nodes + 8)


def test_classes_that_are_on_their_code():
    """Every sample that is on its code, and only its class has it, gets its class; the rest by hand."""
    codes = class_codes(CUBE[:10], torch.arange(10))
    assert predict_by_code(3 * CUBE[:10], codes).tolist() == list(range(10))
    assert predict_by_code(CUBE, codes, within=0).tolist() == [*range(10), *[UNKNOWN] * 6]
    known = predict_by_code(CUBE, codes, within=1)
    distance = hamming(bits(CUBE), codes.bits)
    assert ((known == UNKNOWN) == (distance.amin(1) > 1)).all()
    assert distance[torch.arange(16), predict_by_code(CUBE, codes)].equal(distance.amin(1))


def test_ties():
    """The bit that is least certain decides; classes of one code are the smaller label's; or there is no answer."""
    codes = class_codes(CUBE[[0, 3]], torch.tensor([7, 2]))  # ---- and --++, the first of class 7
    z = torch.tensor([[-1., -1., -2., 1.], [-1., -1., 2., -1.], [-1., -1., -1., 1.]])
    assert code_distances(z, codes).tolist() == [[1, 1]] * 3
    assert predict_by_code(z, codes).tolist() == [7, 2, 2]
    assert predict_by_code(z, codes, ties=False).tolist() == [UNKNOWN] * 3
    same = class_codes(CUBE[[5, 5]], torch.tensor([4, 1]))
    assert predict_by_code(CUBE[[5]], same).tolist() == [1]
    assert predict_by_code(CUBE[[5]], same, ties=False).tolist() == [UNKNOWN]


def test_soft_distance_is_the_cosine():
    """Whatever the size of the latents, those of zero included."""
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    codes = class_codes(CUBE, torch.arange(16))
    wanted = 1 - torch.nn.functional.cosine_similarity(z[:, None].double(), CUBE[None].double(), dim=2)
    for size in 1., 1e-300, 1e300:
        torch.testing.assert_close(code_distances(z.double() * size, codes, soft=True), wanted)
    assert code_distances(torch.zeros(1, 4), codes, soft=True).eq(1).all()
    assert code_score(z, codes).equal(code_distances(z, codes, soft=True).amin(1))
    own = torch.arange(30) % 16
    assert code_score(z, codes, own, soft=False).equal(hamming(bits(z), codes.bits)[torch.arange(30), own])
