"""What a GPU would refuse, found without one: everything that computes, on a simulated device."""

import io
from dataclasses import replace

import pytest
import torch
from torch import nn

import binenc.data
import binenc.restored as restored
import binenc.training as training
import binenc.trial as trial
from binenc.arms import ARMS
from binenc.attaching import attach, latents
from binenc.collapse import collapse_metrics
from binenc.data import ImageData, best_device, make_loaders
from binenc.errors import UserError
from binenc.evaluation import evaluate
from binenc.files import read_json
from binenc.gallery import fool, look
from binenc.geometry import class_geometry
from binenc.head import compression_loss
from binenc.losses import center_loss
from binenc.measures import MEASURES
from binenc.models import Activations
from binenc.run import Run
from binenc.store import ATTACKS, read_progress, run_folder
from binenc.training import Stopped, check_precision, new_training, prepare, train, train_epoch
from helpers import TINY, settings
from simulated_device import SHOWN, Simulated, simulated_device
from test_inputs import CASES, numbers

SMALL = Run(**TINY, train_images=80, batch_size=40)


@pytest.fixture
def device(monkeypatch):
    """The simulated device, on which everything runs that asks for the best one."""
    threads = torch.get_num_threads()
    with simulated_device(monkeypatch) as there:
        yield there
    torch.set_num_threads(threads)


def images(n, classes=4):
    """Grey images of noise, with labels."""
    draw = torch.Generator().manual_seed(n)
    x = torch.randint(256, (n, 1, 8, 8), generator=draw, dtype=torch.uint8)
    return ImageData(x, torch.arange(n) % classes, tuple(map(str, range(classes))))


# ---- the device itself

REFUSED = {
    'a sum': lambda x: x + torch.ones(3, 4),
    'a product': lambda x: x @ torch.ones(4, 2),
    'rows chosen by indices of the CPU': lambda x: x.index_select(0, torch.arange(2)),
    'an assignment of numbers of the CPU': lambda x: x.index_put_((torch.arange(3),), torch.ones(3, 4)),
    'indices of the GPU for a tensor of the CPU': lambda x: torch.ones(3)[torch.arange(2, device='cuda')],
    'an output on the CPU': lambda x: torch.mm(x, x.T, out=torch.empty(3, 3)),
    'an array': lambda x: x.numpy(),
    'a random number of the CPU': lambda x: torch.rand(3, device='cuda', generator=torch.Generator()),
    'a random number of the GPU': lambda x: torch.rand(3, generator=torch.Generator('cuda')),
    'weights on the CPU': lambda x: nn.Linear(4, 2)(x),
    'a gradient': lambda x: x.requires_grad_().square().backward(torch.ones(3, 4)),
}


@pytest.mark.parametrize('name', REFUSED)
def test_is_refused(name, device):
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[name](torch.ones(3, 4, device='cuda'))


def test_is_allowed(device):
    """Single numbers of the CPU, indices of the CPU, copies; tags follow the tensor, not its memory."""
    x = torch.ones(3, 4).to('cuda')
    found = (x * torch.tensor(2.))[torch.tensor([0, 2])]
    assert isinstance(found, Simulated) and found.device == SHOWN and found.is_cuda
    assert not isinstance(found.cpu(), Simulated) and found.cpu().numpy().sum() == 16
    view = x[1]
    view.zero_()
    assert x.sum().item() == 8 and device.waits['_local_scalar_dense'] == 1
    x.requires_grad_()
    (x.square().sum() * 2).backward()
    assert x.grad.device == SHOWN and x.grad.sum() == 32


# ---- training

@pytest.mark.parametrize('model', ARMS)
def test_epochs(model, device, monkeypatch):
    """Every arm in every precision; no step waits for the device. A copy of the state continues to the same bits, with
    images that are too large for the device, too."""
    monkeypatch.setattr(binenc.data, 'pinned', lambda shape: torch.empty(shape, dtype=torch.uint8))
    data = {'train': images(96), 'test': images(40)}
    for precision, speed in ('fp32', 'auto'), ('bf16', 'auto'), ('tf32', 'plain'):
        run = replace(SMALL, model=model, precision=precision, speed=speed, backbone='convnet', batch_size=32)
        prepare(run)
        loaders = make_loaders(run, data, best_device())
        with monkeypatch.context() as full:
            full.setattr(torch.cuda, 'mem_get_info', lambda *_: (0, 0))
            read = make_loaders(run, data, best_device())
        assert read['train'].images is data['train'].images and loaders['train'].images.device == SHOWN
        straight, resumed = (new_training(run, (1, 8, 8), 4, SHOWN) for _ in range(2))
        device.waits.clear()
        train_epoch(straight, loaders['train'])
        assert not device.waits
        torch.save(straight.state(), file := io.BytesIO())
        resumed.restore(torch.load(io.BytesIO(file.getvalue()), map_location='cpu', weights_only=True))
        for one, those in (straight, loaders), (resumed, read):
            train_epoch(one, those['train'])
        parts = straight.classifier.state_dict(), resumed.classifier.state_dict()
        assert all(torch.equal(a, b) for a, b in zip(parts[0].values(), parts[1].values(), strict=True))
        z = [evaluate(straight.classifier, those['test']).z for those in (loaders, read)]
        assert z[0].device == SHOWN and torch.equal(*z)


@pytest.mark.parametrize('model', ARMS)
def test_steps_in_a_graph(model, device):
    """Every arm's steps can be recorded, and repeated they give the bits of steps one after the other, over epochs in
    which rates and losses change, with a last batch that is shorter."""
    precision, optimizer = ('bf16', 'sgd') if model == 'lin_pen' else ('fp32', 'adamw')
    run = replace(SMALL, model=model, precision=precision, optimizer=optimizer, backbone='convnet', batch_size=32,
                  lr_schedule='cosine', gamma_factor=2., augment='mirror')
    prepare(run)
    loader = make_loaders(run, {'train': images(116)}, best_device())['train']
    plain, graph = (new_training(replace(run, speed=speed), (1, 8, 8), 4, SHOWN) for speed in ('auto', 'graph'))
    device.waits.clear()
    for one in plain, graph, plain, graph:
        train_epoch(one, loader)
    assert not device.waits and device.calls['replay'] == 4
    for name in 'classifier', 'loss':
        parts = [getattr(one, name).state_dict() for one in (plain, graph)]
        assert all(torch.equal(a, b) for a, b in zip(*(part.values() for part in parts), strict=True))


def test_a_graph_refuses_to_wait(device):
    """As CUDA does: no number is read back, and none comes from the CPU, while a graph is recorded."""
    x = torch.ones(3).to('cuda')
    for wrong in lambda: x.sum().item(), lambda: x.nonzero(), lambda: torch.ones(3).to('cuda'), lambda: x[x > 0]:
        with pytest.raises(RuntimeError, match='stream is capturing'), torch.cuda.graph(torch.cuda.CUDAGraph()):
            wrong()
    with torch.cuda.graph(graph := torch.cuda.CUDAGraph()):
        x.add_(1)
    assert x.sum() == 3
    graph.replay()
    assert x.sum() == 6


def test_a_run_from_start_to_attacks(device, tmp_path, monkeypatch):
    """Trained, stopped in an epoch, continued on another kind of GPU, which is noticed, measured again to the bit,
    looked at, and attacked by every attack."""
    run, stop = replace(SMALL, store_latents=True, known_classes=6), []
    monkeypatch.setattr(training, 'LONG_EPOCH', -1)

    def say(progress):
        if not stop:
            stop.append((run_folder(run, tmp_path) / 'stop').touch())

    with pytest.raises(Stopped):
        train(run, tmp_path, say=say)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *_: 'another')
    numbers, folder = train(run, tmp_path), run_folder(run, tmp_path)
    assert 'simulated, then another' in read_progress(folder)['notes'][0]
    assert read_json(folder / 'run.json')['device'] == 'simulated, then another'
    assert {m.column for m in MEASURES.values()} <= numbers.keys()
    again = restored.measure_run(run, results_dir=tmp_path)
    assert again == pytest.approx(numbers, rel=0, abs=0, nan_ok=True)
    trained = restored.load_run(run, tmp_path)
    fooling = fool(trained, look(trained), [0, 1])
    assert fooling.changed.device == fooling.ratio.device == torch.device('cpu')
    for name, steps in ('fmn', 3), ('adaptive', 3), ('hop_skip_jump', 250):  # few of them
        attack = getattr(restored, name)
        monkeypatch.setattr(restored, name, lambda *args, attack=attack, steps=steps: attack(
            *(args[:4] if attack.__name__ != 'hop_skip_jump' else args), steps))
    source = replace(run, model='lin_pen', epochs=1, log_every=1)
    train(source, tmp_path)
    rows = restored.attack_run(run, source, 4, results_dir=tmp_path)
    assert set(rows.attack) == {name for name, kind in ATTACKS.items() if kind.made}


def test_a_trial(device, tmp_path):
    """The parts of a trial that differ on a GPU: what it is, and the speed and memory of the real network."""
    words, found = trial.device([SMALL])
    assert words == 'simulated, driver not known: nvidia-smi does not answer' and found == {'device': 'cuda'}
    words, found = trial.speed(SMALL, tmp_path, 0.1)
    assert 'GB of the GPU with the CUDA context' in words and found['share'] == 0.25
    assert found['rate'] > 0 and found['measuring'] > 0


# ---- functions that people call

@pytest.mark.parametrize('name', CASES)
def test_public_functions(name, device):
    """What is given on the GPU is worked on there, and the numbers are those of the CPU."""
    case = CASES[name]
    wanted = numbers(case.function(*case.arguments))
    there = [v.to('cuda') if isinstance(v, torch.Tensor) else v for v in case.arguments]
    assert numbers(case.function(*there)) == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True)


def test_attached(device):
    """A head that is attached to a network on the GPU is there too."""
    model = attach(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)).to('cuda'), nodes=3)
    x, y = torch.rand(5, 1, 8, 8).to('cuda'), torch.arange(5).to('cuda') % 4
    (nn.functional.cross_entropy(model(x), y) + compression_loss(latents(model))).backward()
    assert all(p.device == p.grad.device == SHOWN for p in model.parameters())


# ---- the same each time, exactly, in float32

def test_sums_repeat(device):
    """On the device, sums by atomic operations differ each time: measures and losses take none."""
    z, y = torch.randn(3000, 7).to('cuda') + 5, torch.arange(3000).to('cuda') % 4
    loss = [center_loss(SMALL, 7, 4).to('cuda') for _ in range(2)]
    out = Activations(z, z, z[:, :4], z[:4])
    found = [[*collapse_metrics(z, y).values(), *class_geometry(z, y).means.flatten().tolist(),
              *class_geometry(z, y).variances.tolist(), one(out, y, SMALL, 0).item(), *one.centres.flatten().tolist()]
             for one in loss]
    assert found[0] == found[1]


# ---- settings

def test_precision_is_set_in_one_place(trained):
    """No TF32 and no choice of algorithms by trial, whatever was set before; TF32 in convolutions while one trains."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before, threads = (cudnn.benchmark, cudnn.deterministic), torch.get_num_threads()

    def allowed():
        return cudnn.allow_tf32, products.allow_tf32

    try:
        cudnn.allow_tf32 = products.allow_tf32 = cudnn.benchmark = True
        prepare(SMALL)
        assert allowed() == (False, False) and (cudnn.benchmark, cudnn.deterministic) == (False, True)
        cudnn.allow_tf32 = products.allow_tf32 = True
        with training.convolutions('tf32'):
            assert allowed() == (True, False)
        assert allowed() == (False, False)
        cudnn.allow_tf32 = products.allow_tf32 = True
        restored.load_run(Run(**TINY), trained)
        assert allowed() == (False, False)
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        torch.set_num_threads(threads)


@pytest.mark.parametrize('optimizer', training.OPTIMIZERS)
@pytest.mark.parametrize('speed', ['auto', 'plain'])
def test_how_the_optimizer_steps(optimizer, speed):
    """In one kernel, or plainly one weight after the other: torch chooses nothing by itself."""
    run = replace(SMALL, optimizer=optimizer, speed=speed)
    one = new_training(run, (1, 8, 8), 4)
    assert [(g['fused'], g['foreach']) for g in one.optimizer.param_groups] == [(speed == 'auto', False)]


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'tf32'])
def test_old_gpu(precision, monkeypatch):
    """TF32 and bfloat16 begin with compute capability 8.0."""
    run = replace(SMALL, precision=precision, backbone='mlp')
    with simulated_device(monkeypatch, capability=(7, 5)):
        if precision == 'fp32':
            return check_precision(run)
        with pytest.raises(UserError, match='compute capability 8.0'):
            check_precision(run)


def test_tf32_is_for_convolutions():
    """A network without any is told so."""
    for backbone, notes in ('mlp', 1), ('convnet', 0):
        assert len(training.few_convolutions(replace(SMALL, backbone=backbone, precision='tf32'))) == notes


# ---- the process that forks

def test_the_parent_asks_no_gpu(command, asks_no_gpu, tmp_path):
    """A process that has asked CUDA anything cannot be forked: commands that fork leave that to their copies."""
    with pytest.raises(AssertionError, match='process that forks'):
        best_device()
    options = settings(**TINY | dict(epochs=1, log_every=1, train_images=80, model='bin_enc', replicate=0, lr=1e-3,
                                     experiment='asks'))
    for words in (('sweep', 'demo', *options), ('measure', 'asks', '--only', 'accuracy'),
                  ('attack', 'asks', '--images', 1)):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
