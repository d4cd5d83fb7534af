"""DeepFool against two independent implementations: foolbox, and one image at a time as its authors describe it."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from binenc.robustness import deepfool, perturbation_score


def deepfool_one_image(
    model,  # x -> logits (1, K)
    image: torch.Tensor,  # (1, ...)
    candidates: int = 10,
    overshoot: float = 0.02,
    max_iter: int = 50,
) -> torch.Tensor:  # (1, ...)
    "The perturbation of one image, a backward pass for each candidate; the original algorithm without its speed-ups."
    order = model(image)[0].argsort(descending=True)[:candidates]
    total = torch.zeros_like(image)
    for _ in range(max_iter):
        x = (image + (1 + overshoot) * total).requires_grad_()
        logits = model(x)[0]
        if logits.argmax() != order[0]:
            break
        gradients = [torch.autograd.grad(logits[k], x, retain_graph=True)[0] for k in order]
        planes = [
            ((logits[k] - logits[order[0]]).detach().abs() / (g - gradients[0]).norm(), g - gradients[0])
            for k, g in zip(order[1:], gradients[1:])
        ]
        distance, w = min(planes, key=lambda plane: plane[0])
        total = total + (distance + 1e-4) * w / w.norm()
    return (1 + overshoot) * total


class ConvNet(nn.Module):
    """Ten classes of 8 x 8 images, through `nodes` latents."""

    def __init__(self, nodes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(512, nodes),
        )
        self.head = nn.Module()
        self.head.output = nn.Linear(nodes, 10)

    def forward(self, x):
        z = self.features(x)
        return self.head.output(z), z


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
    model = ConvNet(nodes=4)
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
    ours, theirs = result.perturbation.flatten(1).norm(dim=1), (adversarial - x).flatten(1).norm(dim=1)
    assert (result.fooled == success).all()
    assert ((ours / theirs - 1).abs() < 1e-3).float().mean() >= 0.95
    assert abs(ours.mean() / theirs.mean() - 1) < 1e-3


def test_agrees_with_one_image_at_a_time(digits):
    model, x = digits
    ours = deepfool(model, x[:20]).perturbation.flatten(1).norm(dim=1)
    theirs = torch.cat([deepfool_one_image(Logits(model), image) for image in x[:20].split(1)]).flatten(1).norm(dim=1)
    assert ((ours / theirs - 1).abs() < 1e-3).float().mean() >= 0.95


@pytest.mark.parametrize('candidates', [2, 4, 10, 100])
def test_latent_and_logit_routes_agree(digits, candidates):
    model, x = digits
    latent, logit = (deepfool(m, x[:30], candidates=candidates) for m in (model, Logits(model)))
    assert_close(latent.perturbation, logit.perturbation, rtol=1e-3, atol=1e-4)
    assert (latent.iterations == logit.iterations).all()


def test_backward_passes_are_as_many_as_latents(digits, monkeypatch):
    model, x = digits
    passes, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, 'grad', lambda *a, **k: passes.append(1) or grad(*a, **k))
    deepfool(model, x[:5], max_iter=1)
    assert len(passes) == 4
    deepfool(Logits(model), x[:5], max_iter=1)
    assert len(passes) == 4 + 10


def test_more_images_than_a_chunk_and_none(digits, monkeypatch):
    model, x = digits
    whole = deepfool(model, x)
    monkeypatch.setattr('binenc.robustness.IMAGES_AT_A_TIME', 7)
    assert_close(deepfool(model, x).perturbation, whole.perturbation, rtol=1e-3, atol=1e-4)
    assert deepfool(model, x[:0]).fooled.shape == (0,)


def test_x_plus_perturbation_fools(digits):
    model, x = digits
    result = deepfool(model, x)
    changed = model(x + result.perturbation)[0].argmax(1) != model(x)[0].argmax(1)
    assert (changed == result.fooled).all() and result.fooled.all()
    assert result.perturbation.dtype == torch.float32 and result.iterations.dtype == torch.int64
    score = perturbation_score(x, result)
    assert 0 < score['perturbation_median'] < 1 and score['perturbation_score'] == score['perturbation_score_all']


def test_parameters_and_input_are_left_alone(digits):
    model, x = digits
    before = x.clone()
    for p in model.parameters():
        p.grad = None
        p.requires_grad_(False)
    frozen = deepfool(model, x[:5]).perturbation
    for p in model.parameters():
        p.requires_grad_(True)
    assert_close(deepfool(model, x[:5]).perturbation, frozen)
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad and (x == before).all()


def test_constant_model_is_never_fooled_and_never_nan():
    result = deepfool(lambda x: 0 * x[:, :3] + torch.tensor([2.0, 1.0, 2.0]), torch.randn(4, 5))
    assert not result.fooled.any() and (result.iterations == 0).all() and (result.perturbation == 0).all()


def test_overflowing_logits_are_not_success():
    """A gradient of 1e-6 sends the image to 1e7, where the logits are NaN."""

    def model(x):
        return torch.stack([10 + 1e-6 * x[:, 0] + torch.where(x[:, 0].abs() > 1e3, torch.nan, 0.0), 0 * x[:, 0]], 1)

    x = torch.ones(3, 2)
    result = deepfool(model, x)
    assert not result.fooled.any() and result.perturbation.isfinite().all()
    assert perturbation_score(x, result)['deepfool_fooled'] == 0


def test_bad_input_is_refused(digits):
    model, x = digits
    with pytest.raises(ValueError, match='candidates'):
        deepfool(model, x, candidates=1)
    model.features[1].train()
    with pytest.raises(ValueError, match='eval'):
        deepfool(model, x)
    model.eval()
