"""The animation in a file: what it shows, how large it is, and that the same snapshots give the same bytes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binenc.animation import course, frame, png_bytes, positions, stored_courses
from binenc.errors import UserError
from binenc.figures import StoredResults

RESULTS = Path(__file__).parents[1] / 'results'
LIMIT = 1_500_000  # bytes, so that a front page loads quickly


@pytest.fixture(scope='module')
def courses():
    return stored_courses(StoredResults(['demo'], RESULTS), 'demo')


def made_up(nodes=4, classes=10, snapshots=2):
    """Points that begin anywhere and end on the vertices of their class."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % classes
    ends = np.sign(rng.standard_normal((classes, nodes)))[y]
    z = np.stack([rng.standard_normal((60, nodes)), *[ends] * (snapshots - 1)]).astype('f4')
    names = np.array([f'class {k}' for k in range(classes)])
    return {'epochs': np.arange(1, snapshots + 1), 'z': z, 'y': y, 'classes': names}


def test_on_the_front_page(courses):
    """The committed one is below the limit and has every frame, with steps between the snapshots."""
    path = RESULTS / 'demo' / 'figures' / 'emergence.gif'
    assert path.stat().st_size < LIMIT
    with Image.open(path) as picture:
        assert picture.n_frames == len(positions(len(courses[0].epochs))) and picture.width == 540


@pytest.mark.parametrize('nodes, classes', [(1, 2), (2, 30), (3, 2), (5, 30), (36, 30)])
def test_any_layer_can_be_drawn(nodes, classes):
    """Few or many nodes and classes, also a single snapshot."""
    some = [course('bin_enc', made_up(nodes, classes, snapshots=1))]
    picture = Image.open(io.BytesIO(png_bytes(frame(some, 0)))).convert('L')
    assert np.asarray(picture).std() > 10


def test_points_end_on_vertices():
    """Latents on vertices are drawn where the vertices are drawn, whatever their scale."""
    arrays = made_up()
    arrays['z'][1] *= 1e-6
    shown = course('bin_enc', arrays)
    apart = np.abs(shown.points[1][:, None] - shown.vertices[None]).sum(-1).min(1)
    assert apart.max() < 1e-6 and shown.fraction[1] == 1 > shown.fraction[0]


def test_diverged_runs_are_refused():
    arrays = made_up()
    arrays['z'][1, 0, 0] = np.inf
    with pytest.raises(UserError, match='lin_pen diverged'):
        course('lin_pen', arrays)
