"""The Mahalanobis AUROC where the chapter's examples do not go: dead nodes, rare classes.
Selective risk and calibration against independent libraries."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from binenc.evaluation import errors_view
from binenc.reliability import (
    ErrorScores,
    adaptive_calibration_error,
    augrc,
    aurc,
    calibration_error,
    fit_class_gaussians,
    fpr_at_95,
    mahalanobis_auroc,
    mahalanobis_distance,
    risk_at_80,
    softmax_errors,
)


def latents(n, width, classes=4, nodes=6, seed=0):
    """Points around random corners of a cube; every fourth is pushed from its own corner towards another, and is
    often misclassified."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.randn(classes, nodes, generator=torch.Generator().manual_seed(99)).sign()
    y = torch.randint(classes, (n,), generator=g)
    other = (y + torch.randint(1, classes, (n,), generator=g)) % classes
    way = torch.where(torch.rand(n, 1, generator=g) < 0.25, torch.rand(n, 1, generator=g), 0.0)
    z = corners[y] * (1 - way) + corners[other] * way + width * torch.randn(n, nodes, generator=g)
    return z, y, torch.cdist(z, corners).argmin(1)


def test_dead_node_changes_nothing():
    train, test = latents(1000, 0.2, seed=1), latents(500, 0.2, seed=2)
    dead = [(torch.cat([z, torch.full((len(z), 1), 0.1)], 1), y, pred) for z, y, pred in (train, test)]
    dead[1][0][:, -1] += torch.randn(500)
    assert math.isclose(mahalanobis_auroc(*dead[0], *dead[1]), mahalanobis_auroc(*train, *test), abs_tol=1e-9)


def test_one_train_sample_in_a_class():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    y = torch.tensor([0, 0, 0, 1])
    distance = mahalanobis_distance(
        fit_class_gaussians(z, y, y), torch.tensor([[5.0, 5.0], [5.0, 4.0]]), torch.tensor([1, 1])
    )
    assert distance[0] == 0 and 1e3 < distance[1] < math.inf


def scored(seed, n, classes, sharp):
    "Logits whose softmax is the true distribution of the class."
    r = np.random.default_rng(seed)
    logits = sharp * r.standard_normal((n, classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return torch.tensor(logits), torch.tensor([r.choice(classes, p=q) for q in p])


# (seed, samples, classes, sharpness): AURC, AUGRC and FPR95 (right samples positive) of torch-uncertainty 0.13.0, ECE
# with 15 bins of torchmetrics 1.9.0, adaptive ECE with 15 bins of torch-uncertainty 0.13.0, from `logits.softmax(1)`
GOLDEN = {
    (0, 1000, 5, 2.0): (0.173120796, 0.116532532, 0.859281421, 0.0379325971, 0.0357412249),
    (1, 777, 10, 4.0): (0.0908668916, 0.067736735, 0.769607842, 0.0390815251, 0.0405378528),
}


@pytest.mark.parametrize('case', GOLDEN)
def test_equal_to_independent_libraries(case):
    """torch-uncertainty sums trapezoids from coverage 1/n to 1 and divides by 1 - 1/n; ours begin at zero."""
    logits, y = scored(*case)
    scores, n = softmax_errors(logits, y), len(y)
    theirs_aurc, theirs_augrc, theirs_fpr, theirs_ece, theirs_adaptive = GOLDEN[case]
    first, last = scores.wrong[scores.distance.argmin()].double().item(), scores.wrong.double().mean().item()
    assert aurc(scores) == pytest.approx(theirs_aurc * (1 - 1 / n) + (first + last) / 2 / n, rel=1e-6)
    assert augrc(scores) == pytest.approx(theirs_augrc * (1 - 1 / n) + first / 2 / n**2, rel=1e-6)
    assert fpr_at_95(scores) == pytest.approx(theirs_fpr, rel=1e-6)
    confidence = logits.softmax(1).amax(1)
    assert calibration_error(confidence, ~scores.wrong) == pytest.approx(theirs_ece, rel=1e-5)
    assert adaptive_calibration_error(confidence, ~scores.wrong) == pytest.approx(theirs_adaptive, rel=1e-5)


@pytest.mark.parametrize('levels', [1, 2, 7, 10**9])
@pytest.mark.parametrize('mistakes', [0.02, 0.3, 1.0])
def test_ties_are_drawn_by_lot(levels, mistakes):
    """AURC, AUGRC and the risk at 80% are the means over random orders of equal distances."""
    r = np.random.default_rng(levels)
    wrong = r.random(50) < mistakes
    wrong[0] = True
    distance = r.integers(levels, size=50) + wrong * (r.random(50) < 0.3)
    scores = ErrorScores(torch.tensor(distance, dtype=torch.float64), torch.tensor(wrong))
    curves = np.array([wrong[np.lexsort((r.random(50), distance))].cumsum() for _ in range(4000)])
    risk, spread = curves / np.arange(1, 51), 5 / 4000**0.5
    assert aurc(scores) == pytest.approx(risk.mean(), abs=0.3 * spread)
    assert risk_at_80(scores) == pytest.approx(risk[:, 39].mean(), abs=0.3 * spread)
    assert augrc(scores) == pytest.approx((curves / 50).mean() - wrong.mean() / 100, abs=0.3 * spread)


def test_scores_of_a_diverged_network_stay_on_its_device():
    """`meta` stands for a GPU: measures select from the distances by what is wrong, which one device must hold."""
    y = torch.zeros(20, dtype=torch.int64, device='meta')
    diverged = SimpleNamespace(finite=False, pred=y, y=y)
    scores = errors_view(diverged, diverged)
    assert scores.distance.device == scores.wrong.device == y.device and scores.distance.dtype == torch.float64
