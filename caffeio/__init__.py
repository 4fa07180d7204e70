"""Read, run, train, convert and write Caffe models of every fork, on PyTorch.

Names are loaded when they are first used: `import caffeio` costs no torch import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from caffeio.errors import CaffeIOError as CaffeIOError
    from caffeio.net import Net as Net
    from caffeio.net import load_net as load_net
    from caffeio.proto.files import read_net as read_net
    from caffeio.proto.files import read_solver as load_solver
    from caffeio.proto.weights import load_weights as load_weights
    from caffeio.schedule import learning_rates as learning_rates
    from caffeio.trainer import Trainer as Trainer

_HOME = {
    "CaffeIOError": ("caffeio.errors", "CaffeIOError"),
    "Net": ("caffeio.net", "Net"),
    "Trainer": ("caffeio.trainer", "Trainer"),
    "learning_rates": ("caffeio.schedule", "learning_rates"),
    "load_net": ("caffeio.net", "load_net"),
    "load_solver": ("caffeio.proto.files", "read_solver"),
    "load_weights": ("caffeio.proto.weights", "load_weights"),
    "read_net": ("caffeio.proto.files", "read_net"),
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'caffeio' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
