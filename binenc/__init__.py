"""A layer that makes a classifier write each class as a binary code, and what is needed to try it.

`from binenc import BinaryEncodingHead` and the other names below are looked up when they are first used, so that
`import binenc` costs nothing.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .attaching import attach, keep_latents, latents
    from .binarity import class_codes
    from .head import BinaryEncodingHead, compression_loss
    from .schedules import GammaSchedule

__all__ = ['BinaryEncodingHead', 'GammaSchedule', 'attach', 'class_codes', 'compression_loss', 'keep_latents',
           'latents']
_MODULES = {
    'BinaryEncodingHead': 'head', 'compression_loss': 'head', 'GammaSchedule': 'schedules', 'class_codes': 'binarity',
    'attach': 'attaching', 'keep_latents': 'attaching', 'latents': 'attaching',
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_MODULES[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
