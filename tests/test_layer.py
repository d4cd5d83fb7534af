"""The layer in other people's tools: what finds, replaces, traces, exports or converts layers works on its layers too.

Needs nothing but the core (torch, numpy, scipy, scikit-learn), so that it also runs with an old torch.
"""

import copy
import io
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from binenc.head import BinaryEncodingHead, CosineHead, DirectHead, compression_loss
from binenc.schedules import GammaSchedule, gamma_schedule

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 4


class Taken(nn.Module):
    """Somebody's network, of which the head is the last layer."""

    def __init__(self, head):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), head

    def forward(self, x):
        return self.head(self.body(x))


def head(kind=BinaryEncodingHead, width=6, **options):
    torch.manual_seed(1)
    return kind(width, **(dict(nodes=2) if kind is BinaryEncodingHead else {}), num_classes=4, **options)


HEADS = pytest.mark.parametrize('kind', [BinaryEncodingHead, DirectHead, CosineHead])


def step(model, x=X):
    """One step of a training loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits, z = model(x)
    (F.cross_entropy(logits, Y) + compression_loss(z)).backward()
    optimizer.step()


def saved(what, save, load):
    """What is read again after it was written."""
    file = io.BytesIO()
    save(what, file)
    file.seek(0)
    return load(file)


def same(results, expected):
    torch.testing.assert_close([*results], [*expected])


@HEADS
def test_hooks_on_every_inner_layer_are_called(kind):
    """Forward hooks, forward pre-hooks and full backward hooks."""
    model, seen = head(kind), []
    for name, layer in model.named_modules():
        layer.register_forward_pre_hook(lambda *_, name=name: seen.append(('before', name)))
        layer.register_forward_hook(lambda *_, name=name: seen.append(('after', name)))
        if isinstance(layer, nn.Linear):
            layer.register_full_backward_hook(lambda *_, name=name: seen.append(('back', name)))
    step(model, X.clone().requires_grad_())
    names = [(name, 2 + isinstance(layer, nn.Linear)) for name, layer in model.named_modules()]
    assert set(seen) == {(when, name) for name, calls in names for when in ('before', 'after', 'back')[:calls]}


@pytest.mark.parametrize('name', ['penultimate.0', 'output'])
def test_pruning_and_training_after_it(name):
    """What is pruned stays zero in training, and the logits know about it."""
    model = head()
    before, layer = model(X)[0], model.get_submodule(name)
    prune.random_unstructured(layer, 'weight', 0.5)
    zero, old = layer.weight == 0, layer.weight_orig.detach().clone()
    assert zero.any() and not torch.allclose(model(X)[0], before)
    for _ in range(3):
        step(model)
    model(X)
    assert (layer.weight[zero] == 0).all() and not torch.equal(layer.weight_orig, old)


def test_a_replaced_layer_is_used():
    """Of another class, which is not a linear layer."""
    model = head()
    model.penultimate[0] = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2))
    model.output = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4))
    step(model)
    assert all(p.grad is not None for p in model.parameters())


@HEADS
@pytest.mark.parametrize('training', [True, False])
def test_torch_fx_traces_it_without_options(kind, training):
    """Also with dropout; the traced network takes any batch and stays exact in mixed precision."""
    model = Taken(head(kind, 8)).train(training)
    traced = torch.fx.symbolic_trace(model)
    same(traced(X[:5]), model(X[:5]))
    with torch.autocast('cpu', torch.bfloat16):
        assert [out.dtype for out in traced(X)] == [torch.float32] * 2
        same(traced(X), model(X))
    same(torch.fx.symbolic_trace(model.double())(X.double()), model(X.double()))


def test_meta_device():
    """Shapes without data; then weights are given."""
    model = head(device='meta')
    assert {p.device.type for p in model.parameters()} == {'meta'}
    assert [tuple(out.shape) for out in model(X.to('meta'))] == [(12, 4), (12, 2)]
    filled = model.to_empty(device='cpu')
    filled.load_state_dict(head().state_dict())
    same(filled(X), head()(X))
    with torch.device('meta'):
        assert head().output.weight.is_meta


@HEADS
def test_compile_whole(kind):
    """One graph, forward and backward, equal gradients; also inside mixed precision."""
    model, plain = Taken(head(kind, 8)), Taken(head(kind, 8))
    plain.load_state_dict(model.state_dict())
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    step(compiled)
    step(plain)
    same(model.state_dict().values(), plain.state_dict().values())
    with torch.autocast('cpu', torch.bfloat16):
        same(compiled(X), plain(X))
        assert compiled(X)[0].dtype == torch.float32


@HEADS
def test_export(kind):
    """torch.export, with a batch of any size, and after saving and loading."""
    model = Taken(head(kind, 8)).eval()
    size = torch.export.Dim('n')
    exported = torch.export.export(model, (X,), dynamic_shapes={'x': {0: size}})
    module = saved(exported, torch.export.save, torch.export.load).module()
    same(module(X), model(X))
    same(module(X[:3]), model(X[:3]))


def test_vmap_over_networks_and_images():
    """Ensembles with stacked weights, and one gradient per image."""
    model = head()
    weights = dict(model.named_parameters())
    stacked = {name: torch.stack([p, 2 * p]) for name, p in weights.items()}
    each = torch.vmap(lambda w: torch.func.functional_call(model, w, (X,)))(stacked)
    same([out[0] for out in each], model(X))

    def loss(w, x, y):
        logits, z = torch.func.functional_call(model, w, (x[None],))
        return F.cross_entropy(logits, y[None]) + compression_loss(z)
    grads = torch.vmap(torch.func.grad(loss), (None, 0, 0))(weights, X, Y)
    logits, z = model(X)
    (F.cross_entropy(logits, Y) + compression_loss(z)).backward()
    same([grads[name].mean(0) for name, _ in model.named_parameters()], [p.grad for p in model.parameters()])


@HEADS
def test_dynamic_quantisation_leaves_the_head(kind):
    """It converts `nn.Linear` itself, not its subclasses: the head stays exact, the body is quantised."""
    model = Taken(head(kind, 8)).eval()
    converted = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert 'quantized' in type(converted.body[0]).__module__
    assert {p.dtype for p in converted.head.parameters()} == {torch.float32}
    same(converted.head(X @ torch.ones(6, 8)), model.head(X @ torch.ones(6, 8)))


@HEADS
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_weights_of_low_precision_compute_in_float32(kind, dtype):
    """Outside of mixed precision too: as float32 weights of the same values would."""
    model = head(kind).to(dtype)
    assert [out.dtype for out in model(X.to(dtype))] == [torch.float32] * 2
    same(model(X.to(dtype)), copy.deepcopy(model).float()(X.to(dtype).float()))
    step(model)


def test_old_checkpoints_load():
    """The names of the weights are those of version 0.2, and so is how they start."""
    torch.manual_seed(3)
    first, last = nn.Linear(6, 2), nn.Linear(2, 4)
    torch.manual_seed(3)
    model = BinaryEncodingHead(6, 2, 4)
    old = {'penultimate.0.weight': first.weight, 'penultimate.0.bias': first.bias,
           'output.weight': last.weight, 'output.bias': last.bias}
    assert list(model.state_dict()) == list(old)
    assert all(torch.equal(value, old[name]) for name, value in model.state_dict().items())
    model.load_state_dict(old)
    z = F.linear(X, first.weight, first.bias)
    assert torch.equal(model(X)[0], F.linear(z, last.weight, last.bias))


def test_constructors():
    """Sizes of numpy and torch, device and dtype; attributes; a warning where codes do not suffice."""
    made = BinaryEncodingHead(np.int64(6), torch.tensor(2), np.uint8(4), dtype=torch.float64)
    assert (made.in_features, made.nodes, made.num_classes) == (6, 2, 4)
    assert {type(size) for size in (made.in_features, made.nodes, made.num_classes)} == {int}
    assert made(X)[1].dtype == torch.float64
    with pytest.raises(ValueError, match=r'a tensor \(n, 6\) of real numbers is needed, not \(12, 5\)'):
        made(X[:, :5])
    assert DirectHead(6, 4, dtype=torch.float64).output.weight.dtype == torch.float64
    assert CosineHead(6, 4, device='meta').output.weight.is_meta
    with pytest.warns(UserWarning, match='nodes=1 has 2 codes for 4 classes.*nodes=2 or more'):
        BinaryEncodingHead(6, 1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        BinaryEncodingHead(6, 2, 4)
        BinaryEncodingHead(6, 4096, 4)


# Gamma

@pytest.mark.parametrize('every', [1, 50])
def test_gamma_goes_on_where_a_checkpoint_was(every):
    """As a schedule of torch's does, per step or per epoch, through torch's safe loader."""
    whole, stopped, resumed = (GammaSchedule(1e-3, 4000, every=every) for _ in range(3))
    for number in range(4000 // every):
        if number == 1000 // every:
            load = partial(torch.load, weights_only=True)
            resumed.load_state_dict(saved(stopped.state_dict(), torch.save, load))
        going = stopped if number < 1000 // every else resumed
        going.step()
        whole.step()
        assert going.gamma == whole.gamma
    assert resumed.gamma == whole.gamma == whole.at(whole.last_step) == pytest.approx(16)
    assert whole.at(2000 // every) == pytest.approx(0.01 * 1600**(2 / 3), rel=1e-6)


def test_gamma_by_hand_and_wrong_numbers():
    schedule = GammaSchedule.by_hand(0.5, 2., cap=5.)
    assert [schedule.at(step) for step in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert GammaSchedule.by_hand(1., 10.).at(10**6) == float('inf')
    for wrong in dict(start=0, factor=2.), dict(start=2., factor=1., cap=1.), dict(start=1., factor=-1.):
        with pytest.raises(ValueError, match='start=.*must be positive'):
            GammaSchedule.by_hand(**wrong)
    with pytest.raises(ValueError, match="not .'last_epoch': 3.: save schedule.state_dict"):
        schedule.load_state_dict({'last_epoch': 3})
    with pytest.raises(ValueError, match='lr=1e-05.*train longer'):
        gamma_schedule(1e-5, 100, start=0.01)
    for wrong in dict(lr='1e-3', steps=10), dict(lr=1e-3, steps=None), dict(lr=[1e-3], steps=10, every=2):
        with pytest.raises(ValueError, match='(lr|steps)=.*: it must be a number'):
            GammaSchedule(**wrong)
