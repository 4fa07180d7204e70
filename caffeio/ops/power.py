"""Exp, Log and Power, value by value.

Sources: src/caffe/layers/exp_layer.cpp, log_layer.cpp, power_layer.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops import backward, digits
from caffeio.ops.digits import is_exact
from caffeio.ops.exact import exactly
from caffeio.ops.gradients import with_gradient

if TYPE_CHECKING:
    from caffeio.layers.power import Exp, Log, Power


def exp(layer: Exp, x: Tensor) -> Tensor:
    """(any shape) -> the same shape."""
    if is_exact(x):
        return exactly(layer, (x,), _exp_exactly, _exp, backward.Exp)
    return _exp(layer, x)


def _exp_exactly(layer: Exp, x: Tensor) -> Tensor:
    return digits.exp(x * layer.inner).mul_(layer.outer)


def _exp(layer: Exp, x: Tensor) -> Tensor:
    y = torch.exp(x if layer.inner == 1 else x * layer.inner)
    return y if layer.outer == 1 else y * layer.outer


def log(layer: Log, x: Tensor) -> Tensor:
    """(any shape) -> the same shape."""
    if is_exact(x):
        return exactly(layer, (x,), _log_exactly, _log, backward.Log)
    return _log(layer, x)


def _log_exactly(layer: Log, x: Tensor) -> Tensor:
    return digits.log(x * layer.scale + layer.shift).mul_(layer.outer)


def _log(layer: Log, x: Tensor) -> Tensor:
    y = torch.log(x if layer.scale == 1 and not layer.shift else x * layer.scale + layer.shift)
    return y if layer.outer == 1 else y * layer.outer


def power(layer: Power, x: Tensor) -> Tensor:
    """(any shape) -> the same shape."""
    if layer.power * layer.scale == 0:
        base = torch.full_like(x, layer.shift, requires_grad=False)
        return torch.ones_like(base) if layer.power == 0 else base.pow(layer.power)
    if layer.power == 1:
        return _base(layer, x)
    if is_exact(x):
        return exactly(layer, (x,), _power_exactly, _power, backward.Power)
    return _power(layer, x)


def _power_exactly(layer: Power, x: Tensor) -> Tensor:
    return digits.pow_(x * layer.scale + layer.shift, layer.power)


def _power(layer: Power, x: Tensor) -> Tensor:
    base = _base(layer, x.detach())
    y = base * base if layer.power == 2 else base.pow(layer.power)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return y
    return with_gradient(x, y, _slope(layer, y, base))


def _base(layer: Power, x: Tensor) -> Tensor:
    y = x if layer.scale == 1 else x * layer.scale
    return y if layer.shift == 0 else y + layer.shift


def _slope(layer: Power, y: Tensor, base: Tensor) -> Tensor:
    factor = layer.power * layer.scale
    return base * factor if layer.power == 2 else y / base * factor
