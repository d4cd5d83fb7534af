"""Where compressed latents live: classes a millionth of their distance wide, classes that are points, ties."""

import numpy as np
import pandas as pd
import pytest
import torch

from binenc.collapse import collapse_metrics
from binenc.reliability import mahalanobis_auroc
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


@pytest.mark.filterwarnings('error')
def test_tables_of_pandas():
    """The same numbers as from their arrays, which pandas hands out read-only, and no warning."""
    z, y = stored_latents(0.1, 0.)
    assert collapse_metrics(pd.DataFrame(z), pd.Series(y)) == collapse_metrics(z, y)


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
