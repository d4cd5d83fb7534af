"""Where compressed latents live: classes a millionth of their distance wide, classes that are points, ties."""

import numpy as np
import pytest
import torch

from binenc.collapse import collapse_metrics
from binenc.errors import UserError
from binenc.figures import StoredResults, latents_of
from binenc.models import build_classifier
from binenc.reliability import mahalanobis_auroc
from binenc.robustness import linearise
from binenc.run import Run
from binenc.schedules import gamma_at
from helpers import REPO
from test_reference_values import explicit_collapse

CLASSES, NODES, EACH = 10, 4, 200


def stored_latents(width, offset=0.):
    """float32 latents: corners of a cube of side 2, and classes of that width around them."""
    draw = np.random.default_rng(0)
    corners = np.array([[1 if c >> bit & 1 else -1 for bit in range(NODES)] for c in range(CLASSES)])
    y = np.arange(CLASSES).repeat(EACH)
    z = corners[y] + offset + width * draw.standard_normal((len(y), NODES))
    return z.astype(np.float32), y


@pytest.mark.parametrize('offset', [0., 3.])
@pytest.mark.parametrize('width', [1e-1, 1e-3, 1e-5, 1e-6, 1e-7])
def test_within_class_variation_is_that_of_float64(width, offset):
    """Of what is stored, to 1e-3, however narrow the classes are."""
    z, y = stored_latents(width, offset)
    found, wanted = collapse_metrics(torch.from_numpy(z), torch.from_numpy(y)), explicit_collapse(z, y)
    for name in 'sigma_w_trace', 'within_class_variation':
        assert found[name] == pytest.approx(wanted[name], rel=1e-3, abs=0)


@pytest.mark.parametrize('offset', [0., 0.1, 1e4])
def test_classes_that_are_points(offset):
    """Exactly zero, also where a mean of equal numbers would be rounded."""
    z, y = stored_latents(0., offset)
    found = collapse_metrics(torch.from_numpy(z), torch.from_numpy(y))
    assert found['sigma_w_trace'] == 0 and found['within_class_variation'] == 0


@pytest.mark.parametrize('copies', [1, 3, 7])
def test_equal_distances_are_ties(copies):
    """Each right test sample has a wrong twin of the same latents: an AUROC of 0.5, whatever rounding does."""
    draw = torch.Generator().manual_seed(copies)
    z, y = torch.randn(300, NODES, generator=draw), torch.arange(300) % 3
    at = torch.randn(40, NODES, generator=draw).repeat(2 * copies, 1)
    pred = (torch.arange(40) % 3).repeat(2 * copies)
    true = torch.cat([pred[:40 * copies], (pred[40 * copies:] + 1) % 3])
    order = torch.randperm(len(at), generator=draw)
    assert mahalanobis_auroc(z, y, y, at[order], true[order], pred[order]) == pytest.approx(0.5, abs=1e-12)


def test_mirrored_samples_tie():
    """Samples at the same distance on two sides of a class, by symmetry and not by equality: 0.5."""
    draw = torch.Generator().manual_seed(0)
    half = (torch.randn(100, NODES, generator=draw) * 16).round() / 16  # so that 8 + x and 8 - x are exact
    z, y = torch.cat([half, -half, half + 8, 8 - half]), torch.arange(2).repeat_interleave(200)
    away = (torch.randn(50, NODES, generator=draw) * 16).round() / 16
    at, pred = torch.cat([8 + away, 8 - away]), torch.ones(100, dtype=torch.long)
    true = torch.cat([torch.ones(50, dtype=torch.long), torch.zeros(50, dtype=torch.long)])
    assert mahalanobis_auroc(z, y, y, at, true, pred) == pytest.approx(0.5, abs=1e-12)


def test_equal_means_are_no_scatter_between_classes():
    """What rounding leaves between two equal means is not what the scatter within classes is divided by."""
    z = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])[:, None]
    assert np.isnan(collapse_metrics(z, torch.tensor([0, 0, 0, 1, 1, 1]))['within_class_variation'])


def test_gradients_of_a_cosine_head():
    """With fewer features than classes too they are those of the logits."""
    torch.manual_seed(0)
    model = build_classifier(Run(model='no_pen_arcface', width=2), (1, 8, 8), 10).eval()
    x, classes = torch.rand(3, 1, 8, 8), torch.arange(10).repeat(3, 1)
    _, found = linearise(model, x, classes)
    inputs = x.requires_grad_()
    logits = model(inputs)[0]
    wanted = torch.autograd.grad((logits[:, 4] - logits[:, 0]).sum(), inputs)[0].flatten(1)
    assert torch.allclose(found[:, 3], wanted, rtol=1e-4, atol=1e-5)


def test_knee_that_is_a_power():
    """gamma reaches 125 in three steps of 5, and grows more slowly from there."""
    fields = dict(gamma=1., gamma_factor=5., gamma_knee=125., gamma_factor_late=1.25)
    run = Run(**fields, gamma_schedule='two_regimes', epochs=5)
    assert [gamma_at(run, epoch) for epoch in range(5)] == [1, 5, 25, 125, 156.25]
    with pytest.raises(UserError, match='of at least gamma'):
        Run(gamma_schedule='linear', gamma=1., gamma_max=0.1)


def test_latents_of_a_part():
    """Stored latents of a run that is not drawn are not shown in its place."""
    whole, part = (StoredResults(['digits'], REPO / 'results', some) for some in ((), ['replicate=3,4']))
    assert latents_of(whole, 'digits', 'bin_enc') is not None
    shown = [arm for arm in part.arms if latents_of(part, 'digits', arm)]
    for arm in shown:
        assert str(latents_of(part, 'digits', arm)['run']) in set(part.selected['digits'].id)
    assert len(shown) < len(part.arms)
