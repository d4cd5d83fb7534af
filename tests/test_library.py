"""Parts of the library in somebody else's code, of which nothing changes, and at the edges of what numbers can say:
classes a millionth of their distance wide, classes that are points, ties."""

import math
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from binenc import attacks, datasets, gallery, retrieval
from binenc.arms import ARMS
from binenc.binarity import class_codes, code_agreement, predict_by_code
from binenc.collapse import collapse_metrics
from binenc.data import DeviceLoader, ImageData
from binenc.detectors import calibration, fit_scale
from binenc.errors import UserError
from binenc.evaluation import Predictions, split_numbers
from binenc.figures import StoredResults, latents_of, within_class_figure
from binenc.geometry import Layer, cdnv, class_geometry, decode
from binenc.head import BinaryEncodingHead
from binenc.measures import MEASURES
from binenc.models import build_classifier
from binenc.reliability import mahalanobis_auroc, softmax_errors
from binenc.restored import load_run
from binenc.robustness import deepfool, linearise
from binenc.run import Run
from binenc.schedules import gamma_at, gamma_schedule
from binenc.store import ATTACKS
from binenc.tables import budget_curve, run_summary
from helpers import REPO
from test_reference_values import explicit_collapse

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Tempered(nn.Module):
    """Somebody's own network: logits of the layer, divided by a temperature."""

    def __init__(self, temperature, latents):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.temperature, self.latents = BinaryEncodingHead(6, 2, 4), temperature, latents

    def forward(self, x):
        logits, z = self.head(x)
        return (logits / self.temperature, z) if self.latents else logits / self.temperature


@pytest.mark.parametrize('temperature', [0.1, 1., 10.])
def test_deepfool_sees_what_comes_after_the_output_layer(temperature):
    """Dividing logits moves no boundary, and whether latents are returned changes nothing."""
    found = [deepfool(Tempered(temperature, latents).eval(), X) for latents in (True, False)]
    assert found[0].fooled.all()
    torch.testing.assert_close(found[0].perturbation, found[1].perturbation, rtol=1e-3, atol=1e-5)


def toy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize('attack', [attacks.fmn, attacks.adaptive])
def test_attacks_whatever_the_mode_around_them(attack):
    """The same under `torch.inference_mode`, where there is no gradient."""
    model = toy().eval()
    y = model(X).argmax(1)
    starts = attacks.line_search(model, X, y, 3 * X.flip(0)[None] - X)
    outside = attack(model, X, y, starts, 20)
    with torch.inference_mode():
        inside = attack(model, X, y, starts, 20)
    torch.testing.assert_close(inside.clone(), outside)
    assert attacks.length(outside).isfinite().any()


@pytest.mark.parametrize('attack', [attacks.fmn, attacks.line_search, attacks.transfer])
def test_attacks_refuse_a_model_in_training(attack):
    """Its batch norm would be changed."""
    model = toy().train()
    before = model[1].running_mean.clone()
    with pytest.raises(ValueError, match='evaluation mode'):
        attack(model, X, torch.zeros(5, dtype=torch.int64), X if attack is attacks.transfer else X[None])
    assert model[1].running_mean.equal(before)


def attack_rows(predicted):
    row = {'id': 'a', 'true': 0, 'predicted': predicted, 'relative': 0., 'pixel': 0., 'pixel_relative': 0.}
    return pd.DataFrame([row | {'image': i, 'attack': name} for i in range(3) for name in ATTACKS])


def test_a_network_that_is_always_wrong_is_not_robust():
    """No image was attacked, so there is no number."""
    numbers = run_summary(attack_rows(predicted=1))
    assert numbers['attacked_images'] == 0 and numbers['misclassified_images'] == 3
    for name in 'deepfool_share', 'noise_fooled', 'smallest_by_fmn_100', 'smallest_perturbation_mean':
        assert math.isnan(numbers[name]), name
    assert budget_curve(attack_rows(predicted=1), [0., 1.])['mean'].isna().all()


# two pixels by two, of 8 and 16 bits in each channel: Pillow writes no 16-bit colour
COLOUR = {
    8: 'iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEUlEQVR4nGNgYGRiZmFlgFAAAL0AH9eVkEMAAAAASUVORK5CYII=',
    16: 'iVBORw0KGgoAAAANSUhEUgAAAAIAAAACEAIAAACtREYwAAAAGElEQVR4nGNgYGRiZmFlY+fg5OJmQOYAAAWwAIXFGPkFAAAAAElFTkSuQmCC',
}


def test_sixteen_bits_of_colour_are_refused(tmp_path):
    """Pillow would cut them to eight."""
    for bits, content in COLOUR.items():
        (tmp_path / f'{bits}.png').write_bytes(b64decode(content))
    assert datasets.decode(tmp_path / '8.png').shape == (2, 2, 3)
    with pytest.raises(UserError, match='16.png cannot be read as an image of 8 bits per channel'):
        datasets.decode(tmp_path / '16.png')


def loader(height, width, batch_size=200, n=200):
    images = torch.full((n, 1, height, width), 255, dtype=torch.uint8)
    data = ImageData(images, torch.arange(n) % 2, ('a', 'b'))
    return DeviceLoader(data, batch_size, torch.tensor([0.]), torch.tensor([1.]), 'cpu', True)


def test_wide_images_are_shifted_by_a_part_of_their_shorter_side():
    """No training image is empty."""
    [(x, _)] = loader(8, 128).shuffled(0)
    assert (x > 0).double().mean() > 0.9 and (x.flatten(1).amax(1) > 0).all()


def test_batches_of_one_image():
    """All of them come, if they are asked for."""
    assert len(list(loader(8, 8, batch_size=1, n=5).shuffled(0))) == 5
    assert len(list(loader(8, 8, batch_size=2, n=5).shuffled(0))) == 2


def test_no_gamma_stays_none():
    """Also where its factor to the power of the epoch is too large for a number."""
    run = Run(gamma=0., gamma_factor=2., epochs=2000, gamma_max=10.)
    assert {gamma_at(run, epoch) for epoch in (0, 1023, 1024, 1999)} == {0.}
    with pytest.raises(ValueError, match='every'):
        gamma_schedule(1e-3, 4000, every=10**6)


def test_whole_numbers_beyond_float32():
    """Their differences count."""
    draw = np.random.default_rng(0)
    z, y = draw.integers(0, 1000, (60, 3)), np.arange(60) % 3
    near, far = collapse_metrics(z, y), collapse_metrics(z + 2**30, y)
    assert far['within_class_variation'] == pytest.approx(near['within_class_variation'], rel=1e-5)


def test_geometry_of_classes_that_are_one_point():
    """Two classes at one point are at infinity, however narrow they are; codes of another length are refused."""
    z, y = torch.tensor([[1.], [1.], [1.], [1.], [2.], [2.]]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert cdnv(class_geometry(z, y)) == math.inf
    with pytest.raises(ValueError, match='1 bits'):
        decode(class_codes(z, y), torch.zeros(6, 2), y, y)


def test_measures_from_a_generator():
    """Given once, and read by every view."""
    z, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
    names = 'accuracy', 'sigma_w', 'same_encoding_fraction'
    out = Predictions(z, z, y)
    wanted = [m for m in MEASURES.values() if m.name in names]
    assert split_numbers(out, ARMS['bin_enc'], iter(wanted)) == split_numbers(out, ARMS['bin_enc'], wanted)


def test_loading_a_network_draws_no_random_number():
    """The seed and the threads of whoever loads it stay theirs."""
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    trained = load_run('demo', REPO / 'results', model='bin_enc')
    assert torch.rand(2).equal(expected) and torch.get_num_threads() == threads
    seen = gallery.look(trained, limit=100)
    assert len(gallery.fool(trained, seen, []).index) == 0


def test_curves_of_runs_that_all_diverged():
    """An empty axis is drawn, not refused."""
    results = StoredResults(['demo'], REPO / 'results')
    results.history['demo'] = results.history['demo'].assign(value=np.nan)
    fig = within_class_figure(results)
    fig.canvas.draw()
    plt.close(fig)


def test_the_smallest_images_of_fastconv():
    """Three times pooling needs 16 x 16; below that one sentence says so, whatever side is too short."""
    for shape in (3, 16, 15), (3, 15, 16), (1, 8, 8):
        with pytest.raises(UserError, match=f'at least 16 x 16, not {shape[1]} x {shape[2]}'):
            build_classifier(Run(backbone='fastconv'), shape, 10)


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


def test_labels_may_be_any_numbers():
    """Retrieval by bits and by cosine is the same whatever the classes are called."""
    z, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    for measure in lambda y: retrieval.retrieval_map(retrieval.rank_by_code(z, y, z, y)), (
            lambda y: retrieval.cosine_map(z, y, z, y)):
        assert len({measure(each) for each in (y, 2 * y - 1, 5 * y - 2, y * 10**12)}) == 1


def test_cosines_of_any_size_and_of_equal_features():
    """The size of the features does not matter; equal ones give what chance gives, however they are stored."""
    z, y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    found = [retrieval.cosine_map(z * size, y, z.double().numpy(), y) for size in (1., 1e20, 1e-20)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-9)
    equal, chance = torch.ones(60, 6), retrieval.retrieval_map(retrieval.rank_by_code(*[torch.ones(60, 6), y] * 2))
    assert retrieval.cosine_map(equal, y, equal, y.sort().values) == pytest.approx(chance)
    with pytest.raises(ValueError, match='queries have 6 features, but stored images 5'):
        retrieval.cosine_map(z, y, z[:, :5], y)


def test_classes_that_do_not_fit():
    """Labels without a logit, an unknown that is a class, codes of other classes, weights of other labels."""
    logits, z = torch.randn(60, 3), torch.randn(60, 4)
    y = torch.arange(60) % 3
    for judged in softmax_errors, calibration, fit_scale:
        with pytest.raises(ValueError, match='labels go from 1 to 3, but there are 3 logits: count classes from 0'):
            judged(logits, y + 1)
    with pytest.raises(ValueError, match='temperature=0: it must be above 0'):
        softmax_errors(logits, y, 0)
    with pytest.raises(ValueError, match='one of the classes is -1'):
        predict_by_code(z, class_codes(z, y - 1), within=0)
    one, other = (class_codes(z, [names[i] for i in y]) for names in ('abc', 'abd'))
    with pytest.raises(ValueError, match='codes of the same classes and nodes'):
        code_agreement(one, other)
    with pytest.raises(ValueError, match='one row for each class, counted from 0'):
        Layer(class_geometry(z, y - 1), torch.randn(3, 4), z, y - 1, z, y - 1, y - 1)
