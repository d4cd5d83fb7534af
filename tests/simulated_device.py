"""A GPU that is not there: tensors that hold CPU data, say `cuda:0`, and refuse what CUDA refuses.

A tensor is on the simulated device if it is of the class `Simulated`, whatever its storage. To PyTorch's own code it is
on the device `lazy`, which nothing else uses, so a tensor that an operator makes inside is on the right device as well.
"""

import contextlib
import functools
from collections import Counter

import torch
import torch._dynamo  # noqa: F401 - an optimizer would import it, and must not find our classes
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

HIDDEN = torch.device('lazy', 0)  # what PyTorch's own code is told
SHOWN = torch.device('cuda', 0)
aten = torch.ops.aten
ACROSS = aten.copy_.default, aten._to_copy.default  # may read from another device
INDEXED = aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default
# operators for which the CPU waits for the device
WAITING = (
    '_local_scalar_dense', 'nonzero', 'bincount', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive',
    'equal', 'is_nonzero', 'repeat_interleave')


class Simulated(torch.Tensor):
    """A tensor on the simulated device."""

    @staticmethod
    def __new__(cls, inner):
        assert type(inner) is torch.Tensor and inner.device.type == 'cpu', type(inner)
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=HIDDEN, requires_grad=False)

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Device.current.operator(func, args, kwargs or {})

    def __tensor_flatten__(self):
        return ['inner'], None

    @staticmethod
    def __tensor_unflatten__(parts, *_):
        return Simulated(parts['inner'])

    def __deepcopy__(self, memo):
        copied = Simulated(self.inner.clone()).requires_grad_(self.requires_grad)
        copied.__dict__ |= {name: value for name, value in self.__dict__.items() if name != 'inner'}
        return memo.setdefault(id(self), copied)

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)

    def refuse(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self):
        return self.cpu().tolist()

    numpy = __array__ = refuse
    device = property(lambda self: SHOWN)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)


class Generator(torch.Generator):
    """Random numbers drawn on the CPU or on the simulated device."""

    def __new__(cls, device='cpu'):
        return super().__new__(cls)

    def __init__(self, device='cpu'):
        self.there = is_there(device)

    device = property(lambda self: SHOWN if self.there else torch.device('cpu'))


def mapped(function, value):
    """A function of everything in nested lists, tuples and dictionaries; torch's own `tree_map` is slower."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)([mapped(function, part) for part in value])
    if type(value) is dict:
        return {name: mapped(function, part) for name, part in value.items()}
    return function(value)


def tensors(value):
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in tensors(part)] if isinstance(value, list | tuple) else []


def inside(value):
    return value.inner if isinstance(value, Simulated) else value


def outside(value):
    return Simulated(value) if isinstance(value, torch.Tensor) else value


def hidden(value):
    """A device as PyTorch is told; anything else as it is."""
    named = isinstance(value, str) and value.split(':')[0] == 'cuda'
    return HIDDEN if named or isinstance(value, torch.device) and value.type == 'cuda' else value


def narrow(value):
    return value.bfloat16() if isinstance(value, torch.Tensor) else value


def is_there(device):
    return device is not None and not isinstance(device, int) and torch.device(device).type == 'cuda'


class Names(TorchFunctionMode):
    """Turns `cuda` into what PyTorch is told, and checks what no operator sees: arrays and generators."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.device or getattr(func, '__name__', '') == '__get__':
            return func(*args)
        self.check_generator(args, kwargs)
        if Device.current.low and func in (torch.nn.functional.conv2d, torch.nn.functional.linear):
            args, kwargs = mapped(narrow, (args, kwargs))  # as autocast does on a GPU
        return func(*mapped(hidden, args), **mapped(hidden, kwargs))

    def check_generator(self, args, kwargs):
        generator = kwargs.get('generator')
        there = hidden(kwargs.get('device')) is HIDDEN or any(isinstance(t, Simulated) for t in args)
        if generator is not None and there != getattr(generator, 'there', False):
            raise RuntimeError(f"Expected a '{SHOWN if there else 'cpu'}' device type for generator")


class Operators(TorchDispatchMode):
    """Sends every operator to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return Device.current.operator(func, args, kwargs or {})


def check(func, args, given):
    """Raises where an operator is given something that is on the CPU and no single number."""
    if func in INDEXED and isinstance(args[0], Simulated):
        given = tensors(args[2:])  # indices may be on the CPU
    strangers = [tuple(t.shape) for t in given if t.dim() > 0 and not isinstance(t, Simulated)]
    if strangers:
        raise RuntimeError('Expected all tensors to be on the same device, but found at least two devices, cuda:0 and '
                           f'cpu! ({func}; on the CPU: {strangers})')


class Device:
    """What is done on the simulated device: operators, and how often the CPU waited for it."""

    current = None

    def __init__(self):
        self.calls, self.waits, self.low, self.graph = Counter(), Counter(), False, None
        self.draws = torch.Generator().manual_seed(0)

    def operator(self, func, args, kwargs):
        """Executes an operator on the data; raises as CUDA does where devices mix."""
        given = tensors((args, kwargs))
        ours = any(isinstance(t, Simulated) for t in given)
        wanted = kwargs.get('device')
        there = ours if wanted is None else wanted.type == 'lazy'
        if not ours and not there:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix('aten::')
        if ours and func not in ACROSS:
            check(func, args, given)
        self.count(name, args, there)
        plain = mapped(inside, args if self.graph else self.shuffled(name, args))
        options = mapped(inside, kwargs) | ({} if wanted is None else {'device': torch.device('cpu')})
        if self.graph:
            self.graph.refuse(name, given, there and not self.waited(name, args))
        out = self.graph.note(func, plain, options) if self.graph else func(*plain, **options)
        if not there:  # copied to the CPU: never the same memory
            return out.clone()
        out = mapped(outside, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if ours else out

    def count(self, name, args, there):
        self.calls[name] += 1
        self.waits[name] += not there or self.waited(name, args)
        self.waits = +self.waits

    def waited(self, name, args):
        mask = name in ('index', 'index_put_') and any(t.dtype == torch.bool for t in tensors(args[1]))
        return name in WAITING or mask

    def shuffled(self, name, args):
        """The arguments; numbers that atomic operations add are given in another order each time."""
        name = name.rstrip('_')
        if name == 'bincount' and len(args) > 1 and args[1] is not None:
            order = self.order(len(args[0]))
            return args[0].inner[order], args[1].inner[order], *args[2:]
        if name not in ('index_add', 'scatter_add'):
            return args
        into, dim, index, source = args
        order = self.order(source.shape[dim])
        index = index.inner[order] if name == 'index_add' else index.inner.index_select(dim, order)
        return into, dim, index, source.inner.index_select(dim, order)

    def order(self, n):
        return torch.randperm(n, generator=self.draws)

    @contextlib.contextmanager
    def autocast(self, original, device, *args, **kwargs):
        if device != 'cuda':
            with original(device, *args, **kwargs):
                yield
            return
        before, self.low = self.low, kwargs.get('enabled', True)
        try:
            yield
        finally:
            self.low = before


class Graph:
    """A CUDA graph: what is done while it is recorded is done later, with the same tensors and numbers."""

    def __init__(self):
        self.work, self.before, self.made = [], [], []

    def refuse(self, name, given, allowed):
        """Raises where CUDA cannot record: the CPU would wait, or memory of the CPU would be read."""
        if not allowed or any(not isinstance(t, Simulated) and t.dim() for t in given):
            raise RuntimeError(f'CUDA error: operation not permitted when stream is capturing ({name})')

    def note(self, func, args, options):
        """Remembers an operator and, for what it may change, the numbers before."""
        known = {id(t) for t in (*self.made, *(t for t, _ in self.before))}
        self.before += [(t, t.clone()) for t in tensors((args, options)) if id(t) not in known]
        out = func(*args, **options)
        self.made += tensors(out)
        self.work.append((func, args, options, out))
        return out

    @contextlib.contextmanager
    def recorded(self):
        state, Device.current.graph = torch.get_rng_state(), self
        try:
            yield
        finally:
            Device.current.graph = None
        torch.set_rng_state(state)
        for tensor, numbers in reversed(self.before):
            tensor.copy_(numbers)

    @torch.no_grad()
    def replay(self):
        Device.current.calls['replay'] += 1
        for func, args, options, out in self.work:
            alias = [value.alias_info for value in func._schema.returns]
            if alias and all(a is not None and not a.is_write for a in alias):
                continue  # a view: the memory is there
            for old, new in zip(tensors(out), tensors(func(*args, **options)), strict=True):
                if old is not new:
                    old.copy_(new)


@contextlib.contextmanager
def simulated_device(monkeypatch, capability=(9, 0)):
    """While it lasts, there is a GPU; yields its `Device`."""
    device = Device()
    monkeypatch.setattr(Device, 'current', device)
    for name, answer in dict(is_available=True, is_initialized=True, synchronize=None, get_device_name='simulated',
                             get_device_capability=capability, max_memory_reserved=1, device_count=1,
                             mem_get_info=(3 * 2**38, 2**40)).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda *_: type('', (), dict(total_memory=2)))
    stream = type('', (), dict(is_capturing=lambda self: bool(device.graph), wait_stream=lambda self, other: None))
    for place, name, made in ((torch.accelerator, 'current_stream', lambda *_: stream()),
                              (torch.cuda, 'Stream', stream),
                              (torch.cuda, 'current_stream', stream), (torch.cuda, 'CUDAGraph', Graph),
                              (torch.cuda, 'stream', contextlib.nullcontext),
                              (torch.cuda, 'graph', lambda graph, **_: graph.recorded())):
        monkeypatch.setattr(place, name, made)
    monkeypatch.setattr(torch, 'autocast', functools.partial(device.autocast, torch.autocast))
    monkeypatch.setattr(torch, 'Generator', Generator)
    with Operators(), Names():
        yield device
