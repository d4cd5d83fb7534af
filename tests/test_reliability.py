"""The Mahalanobis AUROC where the chapter's examples do not go: many nodes, rare classes, latents as small as
compression makes them."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from binenc.reliability import fit_class_gaussians, mahalanobis_auroc, mahalanobis_distance


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


@pytest.mark.parametrize('factor', [1e-6, 1e6])
@pytest.mark.parametrize('width', [0.3, 1e-3, 1e-6])
def test_scale_free(width, factor):
    train, test = latents(1000, width, seed=1), latents(1000, width, seed=2)
    auroc = mahalanobis_auroc(*train, *test)
    assert 0.7 < auroc <= 1
    assert math.isclose(
        auroc, mahalanobis_auroc(train[0] * factor, *train[1:], test[0] * factor, *test[1:]), abs_tol=2e-3
    )


def test_same_as_explicit_inverse_covariances():
    (z, y, pred), (z_test, y_test, pred_test) = latents(2000, 0.2, seed=1), latents(500, 0.2, seed=2)
    squared = torch.zeros(500).double()
    for c in range(4):
        own = z[(y == c) & (pred == c)].double()
        r = z_test[pred_test == c].double() - own.mean(0)
        squared[pred_test == c] = (r @ torch.linalg.inv(torch.cov(own.T, correction=0)) * r).sum(1)
    distance = mahalanobis_distance(fit_class_gaussians(z, y, pred), z_test, pred_test)
    torch.testing.assert_close(distance, squared.sqrt(), rtol=1e-6, atol=0)
    assert math.isclose(
        mahalanobis_auroc(z, y, pred, z_test, y_test, pred_test), roc_auc_score(y_test != pred_test, squared)
    )


def test_predicted_class_without_correct_train_sample_is_infinitely_far():
    train, (z, y, pred) = latents(1000, 0.2, seed=1), latents(200, 0.2, seed=2)
    pred = pred.clone()
    pred[0] = 7
    distance = mahalanobis_distance(fit_class_gaussians(*train), z, pred)
    assert distance[0] == math.inf and distance[1:].isfinite().all()
    assert 0.5 < mahalanobis_auroc(*train, z, y, pred) <= 1


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


def test_fewer_samples_than_nodes():
    train, test = latents(200, 0.2, nodes=300, seed=1), latents(200, 0.2, nodes=300, seed=2)
    auroc = mahalanobis_auroc(*train, *test)
    assert 0.7 < auroc <= 1


def test_no_mistakes_is_nan():
    z, y, _ = latents(100, 0.2)
    assert math.isnan(mahalanobis_auroc(z, y, y, z, y, y))


def test_labels_of_any_integer_type():
    train, test = latents(500, 0.2, seed=1), latents(500, 0.2, seed=2)
    small = [[z, y.to(torch.uint8), pred.numpy().astype('int32')] for z, y, pred in (train, test)]
    assert mahalanobis_auroc(*small[0], *small[1]) == mahalanobis_auroc(*train, *test)
