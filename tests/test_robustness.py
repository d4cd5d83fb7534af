"""DeepFool against an independent implementation."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from binenc.head import BinaryEncodingHead
from binenc.robustness import deepfool, perturbation_score


class Digits(nn.Module):
    """Ten classes of 8 x 8 images, through four latents."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Flatten(), nn.Linear(1024, 32)]
        self.body, self.head = nn.Sequential(*layers, nn.SiLU()), BinaryEncodingHead(32, 4, 10)

    def forward(self, x):
        return self.head(self.body(x))


class Logits(nn.Module):
    """The same model, returning logits only."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x):
        return self.model(x)[0]


@pytest.fixture(scope='module')
def digits():
    """A trained network, and 100 standardised images it has not seen."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None]
    x, y = (x - x.mean()) / x.std(), torch.tensor(data.target)
    torch.manual_seed(0)
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        for batch in torch.randperm(1600).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch])[0], y[batch]).backward()
            optimizer.step()
    model.eval()
    assert (model(x[1600:])[0].argmax(1) == y[1600:]).float().mean() > 0.85
    return model, x[1600:1700]


def test_agrees_with_foolbox(digits):
    foolbox = pytest.importorskip('foolbox')
    model, x = digits
    labels = model(x)[0].argmax(1)
    attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02, loss='logits')
    _, adversarial, success = attack(
        foolbox.PyTorchModel(Logits(model), bounds=(-1e3, 1e3), device='cpu'), x, labels, epsilons=None
    )
    result = deepfool(model, x)
    assert result.fooled.all() and 0 < perturbation_score(x, result)['perturbation_median'] < 1
    ours, theirs = result.perturbation.flatten(1).norm(dim=1), (adversarial - x).flatten(1).norm(dim=1)
    assert (result.fooled == success).all()
    assert ((ours / theirs - 1).abs() < 1e-3).float().mean() >= 0.95
    assert abs(ours.mean() / theirs.mean() - 1) < 1e-3


def test_backward_passes_are_as_many_as_latents(digits, monkeypatch):
    model, x = digits
    passes, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, 'grad', lambda *a, **k: passes.append(1) or grad(*a, **k))
    deepfool(model, x[:5], max_iter=1)
    assert len(passes) == 4
    with pytest.raises(ValueError, match='candidates'):
        deepfool(model, x, candidates=1)
    deepfool(Logits(model), x[:5], max_iter=1)
    assert len(passes) == 4 + 10


def test_more_images_than_a_chunk_and_none(digits, monkeypatch):
    model, x = digits
    whole = deepfool(model, x)
    monkeypatch.setattr('binenc.robustness.IMAGES_AT_A_TIME', 7)
    assert_close(deepfool(model, x).perturbation, whole.perturbation, rtol=1e-3, atol=1e-4)
    assert deepfool(model, x[:0]).fooled.shape == (0,)


def test_a_frozen_network(digits):
    model, x = digits
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert_close(deepfool(frozen, x[:5]).perturbation, deepfool(model, x[:5]).perturbation)


def test_overflowing_logits_are_not_success():
    """A gradient of 1e-6 sends the image to 1e7, where the logits are NaN."""

    def model(x):
        return torch.stack([10 + 1e-6 * x[:, 0] + torch.where(x[:, 0].abs() > 1e3, torch.nan, 0.0), 0 * x[:, 0]], 1)

    x = torch.ones(3, 2)
    result = deepfool(model, x)
    assert not result.fooled.any() and result.perturbation.isfinite().all()
    assert perturbation_score(x, result)['deepfool_fooled'] == 0
