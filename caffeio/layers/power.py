"""Exp, Log and Power.

Sources: src/caffe/layers/exp_layer.cpp, log_layer.cpp, power_layer.cpp.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, layer
from caffeio.layers.gradients import with_gradient
from caffeio.layers.onnx.graph import OnnxGraph


def log_of_base(owner: Layer, base: float, field: str) -> float:
    """ln(base), 1 for the -1 that stands for e; raises LayerError for other values below 0."""
    if base == -1:
        return 1.0
    owner.check(base > 0, f"must be above 0, or -1 for e, not {base:g}", field=field)
    return math.log(base)


@layer("Exp")
class Exp(Layer):
    """base ^ (shift + scale * x)."""

    reads_top = True
    backward = "caffeio.layers.backward:Exp"

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for a base of 0 or below, except for -1."""
        p = self.param.exp_param
        log_base = log_of_base(self, p.base, "exp_param.base")
        self.inner = log_base * p.scale
        self.outer = math.exp(log_base * p.shift)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        y = torch.exp(x if self.inner == 1 else x * self.inner)
        return y if self.outer == 1 else y * self.outer

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Exp."""
        return g.scaled(g.op("Exp", [g.scaled(bottoms[0], self.inner)]), self.outer)


@layer("Log")
class Log(Layer):
    """Logarithm of shift + scale * x to the base."""

    reads_bottoms = frozenset({0})
    writes_early = True
    backward = "caffeio.layers.backward:Log"

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for bases that have no logarithm."""
        p = self.param.log_param
        log_base = log_of_base(self, p.base, "log_param.base")
        self.check(log_base != 0, "1 is not the base of a logarithm", field="log_param.base")
        self.outer, self.scale, self.shift = 1 / log_base, p.scale, p.shift

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        y = torch.log(x if self.scale == 1 and not self.shift else x * self.scale + self.shift)
        return y if self.outer == 1 else y * self.outer

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Log."""
        return g.scaled(g.op("Log", [g.scaled(bottoms[0], self.scale, self.shift)]), self.outer)


@layer("Power")
class Power(Layer):
    """(shift + scale * x) ^ power; constant, without a gradient, where power or scale is 0.

    The gradient is Caffe's y * power * scale / (shift + scale * x), which is nan where both are 0
    (for powers other than 1 and 2).
    """

    writes_early = True
    backward = "caffeio.layers.backward:Power"

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Read the fields."""
        p = self.param.power_param
        self.power, self.scale, self.shift = p.power, p.scale, p.shift
        if self.power * self.scale != 0 and self.power != 1:
            self.reads_bottoms = frozenset({0})
            self.reads_top = self.power != 2

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        if self.power * self.scale == 0:
            base = torch.full_like(x, self.shift, requires_grad=False)
            return torch.ones_like(base) if self.power == 0 else base.pow(self.power)
        if self.power == 1:
            return self._base(x)
        base = self._base(x.detach())
        y = base * base if self.power == 2 else base.pow(self.power)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return y
        return with_gradient(x, y, self._slope(y, base))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Mul, Add and Pow, as far as they change anything."""
        if self.power * self.scale == 0:
            value = 1.0 if self.power == 0 else float(torch.tensor(self.shift).pow(self.power))
            like = g.op("Shape", bottoms)
            return str(g.op("Expand", [g.const(value, "value"), like]))
        base = g.scaled(bottoms[0], self.scale, self.shift)
        if self.power == 1:
            return base
        if self.power == 2:
            return str(g.op("Mul", [base, base]))
        return str(g.op("Pow", [base, g.const(self.power, "power")]))

    def _base(self, x: Tensor) -> Tensor:
        y = x if self.scale == 1 else x * self.scale
        return y if self.shift == 0 else y + self.shift

    def _slope(self, y: Tensor, base: Tensor) -> Tensor:
        factor = self.power * self.scale
        return base * factor if self.power == 2 else y / base * factor
