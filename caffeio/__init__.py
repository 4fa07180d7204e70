"""Read, run, train, convert and write Caffe models of every fork, on PyTorch.

Names are loaded when they are first used: `import caffeio` costs no torch import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from caffeio.converters.from_onnx.torch_module import from_torch as from_torch
    from caffeio.errors import CaffeIOError as CaffeIOError
    from caffeio.net.load import load_net as load_net
    from caffeio.net.net import Net as Net
    from caffeio.proto.files import read_net as read_net
    from caffeio.proto.files import read_solver as load_solver
    from caffeio.proto.weights.load import load_weights as load_weights
    from caffeio.solver.schedule import learning_rates as learning_rates
    from caffeio.training.trainer import Trainer as Trainer

__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "CaffeIOError": "caffeio.errors",
        "Net": "caffeio.net.net",
        "Trainer": "caffeio.training.trainer",
        "from_torch": "caffeio.converters.from_onnx.torch_module",
        "learning_rates": "caffeio.solver.schedule",
        "load_net": "caffeio.net.load",
        "load_solver": "caffeio.proto.files:read_solver",
        "load_weights": "caffeio.proto.weights.load",
        "read_net": "caffeio.proto.files",
    },
)

__all__ = ["__version__", *_names]
