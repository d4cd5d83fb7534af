"""`attach`: where the head goes, what the model returns then, and what becomes of the latents.

Needs nothing but the core (torch, numpy, scipy, scikit-learn), so that it also runs with an old torch.
"""

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from binenc.attaching import attach, keep_latents, last_linear, latents
from binenc.errors import UserError
from binenc.head import BinaryEncodingHead, compression_loss

torch.set_num_threads(1)  # a process with threads may not be forked
X = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 4


def network(width=8):
    """A plain Sequential with batch norm, before its head is attached."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def attached():
    return attach(network(), nodes=2)


def loss(model, x=X, y=Y):
    return F.cross_entropy(model(x), y) + compression_loss(latents(model))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


# Where

class Parallel(nn.Module):
    """Two classifiers side by side; `same` registers one layer under two names."""

    def __init__(self, same=False):
        super().__init__()
        self.body, self.fc = nn.Linear(6, 8), nn.Linear(8, 4)
        self.head = self.fc if same else nn.Linear(8, 4)


class Announcing(nn.Sequential):
    """Says how many classes it has."""

    def __init__(self, num_classes):
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.num_classes = num_classes


@pytest.mark.parametrize('model, path', [
    (network(), '7'),
    (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4)), '2'),
    (nn.Sequential(nn.LayerNorm(6), nn.Sequential(nn.Dropout(), nn.Linear(6, 4))), '1.1'),
    (Announcing(4), '2'),
    (Parallel(same=True), 'fc'),
])
def test_the_last_layer_is_found(model, path):
    """And is replaced under every name that it has."""
    assert last_linear(model) == path
    old = model.get_submodule(path)
    attach(model, nodes=2)
    assert old not in list(model.modules())


@pytest.mark.parametrize('model, told', [
    (Parallel(), "not clear.*'body' (6 to 8), 'fc' (8 to 4), 'head' (8 to 4)"),
    (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "not clear.*where=, one of '0' (6 to 4)"),
    (nn.Sequential(nn.Conv2d(1, 4, 3)), 'no nn.Linear'),
    (nn.Sequential(), 'no nn.Linear'),
    (Announcing(5), "4 outputs, not as many as it says.*'2' (8 to 4)"),
    (nn.Linear(6, 4), 'use BinaryEncodingHead'),
    (nn.TransformerEncoderLayer(8, 2), 'not clear'),
])
def test_an_unclear_last_layer_is_asked_for(model, told):
    """Candidates with their sizes."""
    with pytest.raises(UserError, match=told.replace('(', r'\(').replace(')', r'\)')):
        attach(model)


@pytest.mark.parametrize('wrong, told', [
    (dict(where='fc'), "where='fc' is no linear layer of the model: name it with where=, one of '5'"),
    (dict(where=2), 'where=2 is no linear layer'),
    (dict(where=['2']), 'is no linear layer'),
    (dict(nodes=0), 'nodes=0: it must be a whole number'),
    (dict(num_classes=2.5), 'num_classes=2.5: it must be a whole number'),
    (dict(activation='tanh'), "activation='tanh' is not one of"),
    (dict(model='resnet18'), "'resnet18' is not a model: give a torch.nn.Module"),
])
def test_wrong_arguments_change_nothing(wrong, told):
    model = network()
    before = list(model.modules())
    with pytest.raises(ValueError, match=told):
        attach(**dict(model=model) | wrong)
    assert list(model.modules()) == before
    with pytest.raises(UserError, match='not a model'):
        latents(None)


def test_number_of_classes_is_changed_where_the_model_says_it():
    model = attach(Announcing(4), nodes=3, num_classes=7)
    assert model.num_classes == 7
    assert model(torch.randn(5, 6)).shape == (5, 7)


def test_device_type_and_mode_are_kept():
    """At least float32; in evaluation if the layer was; what is frozen stays frozen, and the head is not."""
    assert attach(network().double())[7].output.weight.dtype == torch.float64
    assert attach(network().bfloat16())[7].output.weight.dtype == torch.float32
    assert attach(network().to('meta'))[7].output.weight.is_meta
    assert not attach(network().eval())[7].penultimate.training
    model = attach(network().requires_grad_(False))
    assert {name[0] for name, p in model.named_parameters() if p.requires_grad} == {'7'}


# Latents

def test_latents_once_and_only_of_a_training_call():
    model = attached()
    for forget in (lambda: None, lambda: model.eval()(X), lambda: torch.no_grad()(model.train())(X)):
        forget()
        with pytest.raises(UserError, match='no latents of a new call'):
            latents(model.train())
    logits = model(X)
    z = latents(model)
    torch.testing.assert_close(model[7].output(z), logits)
    with pytest.raises(UserError, match='no latents of a new call'):
        latents(model)
    with pytest.raises(UserError, match='call attach'):
        latents(network())
    with pytest.raises(UserError, match='2 attached heads in ModuleList hold latents'):
        latents(nn.ModuleList([both := attached(), other := attached(), both(X), other(X)][:2]))


def test_no_memory_is_kept():
    """Neither after the loss has asked, nor by evaluation: the graph goes with the loss."""
    model = attached()
    kept = []
    model[3].register_forward_hook(lambda layer, inputs, output: kept.append(weakref.ref(output)))
    total = loss(model)
    total.backward()
    del total
    model.eval()(X)
    with torch.no_grad():
        model.train()(X)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_copies_and_files_have_no_latents():
    """And can be made after a call."""
    model = attached()
    model(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(UserError, match='no latents'):
            latents(other)
        torch.testing.assert_close(other.eval()(X), copy.deepcopy(model).eval()(X))
    assert latents(model).shape == (12, 2)


def test_threads_have_their_own():
    """Each gets the latents of its own images, however their calls fall."""
    model = attached().requires_grad_(False)
    model[1].eval()
    gate = threading.Barrier(4)

    def work(number):
        logits = model(X[number:number + 1])
        gate.wait()
        return model[7].output(latents(model)), logits
    with ThreadPoolExecutor(4) as pool:
        for found, logits in pool.map(work, range(4)):
            torch.testing.assert_close(found, logits)


@pytest.mark.parametrize('reentrant', [False, True])
def test_activation_checkpointing(reentrant):
    """Around the body: equal gradients. Around the head: the same, or an error where PyTorch hides the gradient."""
    plain, model = attached(), attached()
    loss(plain).backward()
    features = checkpoint(model[:7], X.clone().requires_grad_(), use_reentrant=reentrant)
    (F.cross_entropy(model[7](features), Y) + compression_loss(latents(model))).backward()
    torch.testing.assert_close(gradients(model), gradients(plain))

    model = attached()
    logits = checkpoint(model, X.clone().requires_grad_(), use_reentrant=reentrant)
    if reentrant:
        with pytest.raises(UserError, match='no latents'):
            latents(model)
        return
    (F.cross_entropy(logits, Y) + compression_loss(latents(model))).backward()
    with pytest.raises(UserError, match='no latents'):  # nor are any kept by computing it again in the backward pass
        latents(model)
    torch.testing.assert_close(gradients(model), gradients(plain))


def test_data_parallel_is_refused():
    """Its copies live in threads that end, and their latents with them."""
    replica = attached()[7]._replicate_for_data_parallel()
    replica.penultimate, replica.output = attached()[7].penultimate, attached()[7].output
    with pytest.raises(UserError, match='use DistributedDataParallel'):
        replica(torch.randn(3, 8))


# In PyTorch's tools

@pytest.mark.parametrize('training', [True, False])
def test_compile_whole(training):
    """One graph, with the latents of each call and equal gradients."""
    plain, model = attached().train(training), attached().train(training)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(X).dtype == torch.float32
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    if not training:
        with torch.no_grad(), keep_latents(model):
            torch.testing.assert_close(compiled(X), plain(X))
            torch.testing.assert_close(model[7].output(latents(compiled)), plain(X))
        return
    for x in (X, 2 * X):
        plain.zero_grad()
        model.zero_grad()
        loss(plain, x).backward()
        loss(compiled, x).backward()
        torch.testing.assert_close(gradients(model), gradients(plain))


def test_export_trace_and_script_free_formats():
    """torch.export, torch.fx without options and torch.jit.trace: logits, and nothing else."""
    model = attached().eval()
    for other in (torch.export.export(model, (X,)).module(), torch.fx.symbolic_trace(model),
                  torch.jit.trace(model, X, check_trace=False)):
        torch.testing.assert_close(other(X), model(X))
    traced = torch.fx.symbolic_trace(model.train())
    assert traced(X).shape == (12, 4)
    with pytest.raises(UserError, match='no latents'):
        latents(model)


def test_vmap_and_gradients_per_image():
    model = attached().eval()

    def one(weights, x, y):
        with keep_latents(model):
            logits = torch.func.functional_call(model, weights, (x[None],))
            return F.cross_entropy(logits, y[None]) + compression_loss(latents(model))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    each = torch.vmap(torch.func.grad(one), (None, 0, 0))(weights, X, Y)
    with keep_latents(model):
        loss(model).backward()
    torch.testing.assert_close({name: gradient.mean(0) for name, gradient in each.items()}, gradients(model))


def with_head(is_attached):
    """The same network, with a head of its own kind or an attached one, and its loss."""
    if is_attached:
        return attached(), loss
    torch.manual_seed(1)
    model = nn.Sequential(*network()[:-1], BinaryEncodingHead(8, 2, 4))

    def of_both(module, x=X, y=Y):
        logits, z = module(x)
        return F.cross_entropy(logits, y) + compression_loss(z)
    return model, of_both


def train_apart(rank, folder, is_attached):
    """One of two processes: half of the images each, by DistributedDataParallel."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    model, loss_of = with_head(is_attached)
    model[1].eval()
    parallel = nn.parallel.DistributedDataParallel(model)
    loss_of(parallel, X[rank::2], Y[rank::2]).backward()
    torch.save(gradients(model), folder / f'{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.parametrize('is_attached', [True, False])
def test_distributed_data_parallel(is_attached, tmp_path):
    """Two processes have the gradients of one with all images, with an attached head and with a head alone."""
    model, loss_of = with_head(is_attached)
    model[1].eval()
    loss_of(model).backward()
    expected = gradients(model)
    mp.start_processes(train_apart, (tmp_path, is_attached), nprocs=2, start_method='fork')
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f'{rank}.pt', weights_only=True), expected)


def test_tools_that_find_layers():
    """Hooks on every inner layer are called, pruned weights stay zero in training, a replaced layer is used; dynamic
    quantisation converts the rest and leaves the head exact."""
    model, seen = attached(), []
    for name, layer in model[7].named_modules():
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    loss(model)
    assert set(seen) == {name for name, _ in model[7].named_modules()} > {'penultimate.0', 'output'}

    model = attached()
    layer = model[7].penultimate[0]
    prune.random_unstructured(layer, 'weight', 0.5)
    zero, optimizer = layer.weight == 0, torch.optim.SGD(model.parameters(), lr=0.1)
    loss(model).backward()
    optimizer.step()
    loss(model)
    assert zero.sum() == 8 and (layer.weight[zero] == 0).all() and layer.weight_orig.grad[~zero].abs().sum() > 0

    model = attached()
    model[7].penultimate[0] = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2))
    loss(model).backward()
    assert all(p.grad is not None for p in model.parameters())

    model = attached().eval()
    converted = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert 'quantized' in type(converted[5]).__module__ and converted[7].output.weight.dtype == torch.float32
    features = torch.randn(5, 8)
    torch.testing.assert_close(converted[7](features), model[7](features))
