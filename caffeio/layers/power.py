"""Exp, Log and Power.

Sources: src/caffe/layers/exp_layer.cpp, log_layer.cpp, power_layer.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


def log_of_base(owner: LayerType, base: float, field: str) -> float:
    """ln(base), 1 for the -1 that stands for e; raises LayerError for other values below 0."""
    if base == -1:
        return 1.0
    owner.check(base > 0, f"must be above 0, or -1 for e, not {base:g}", field=field)
    return math.log(base)


@layer("Exp")
class Exp(LayerType):
    """base ^ (shift + scale * x)."""

    fields = owns(exp_param=("base", "scale", "shift"))
    compute = "caffeio.ops.power:exp"
    pure = True
    reads_top = True
    backward = "caffeio.ops.backward:Exp"

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for a base of 0 or below, except for -1."""
        p = self.param.exp_param
        log_base = log_of_base(self, p.base, "exp_param.base")
        self.inner = log_base * p.scale
        try:
            self.outer = math.exp(log_base * p.shift)
        except OverflowError:
            self.outer = math.inf  # as in C

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Exp."""
        return g.scaled(g.op("Exp", [g.scaled(bottoms[0], self.inner)]), self.outer)


@layer("Log")
class Log(LayerType):
    """Logarithm of shift + scale * x to the base."""

    fields = owns(log_param=("base", "scale", "shift"))
    compute = "caffeio.ops.power:log"
    pure = True
    reads_bottoms = frozenset({0})
    writes_early = True
    backward = "caffeio.ops.backward:Log"

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for bases that have no logarithm."""
        p = self.param.log_param
        log_base = log_of_base(self, p.base, "log_param.base")
        self.check(log_base != 0, "1 is not the base of a logarithm", field="log_param.base")
        self.outer, self.scale, self.shift = 1 / log_base, p.scale, p.shift

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Log."""
        return g.scaled(g.op("Log", [g.scaled(bottoms[0], self.scale, self.shift)]), self.outer)


@layer("Power")
class Power(LayerType):
    """(shift + scale * x) ^ power; constant, without a gradient, where power or scale is 0.

    The gradient is Caffe's y * power * scale / (shift + scale * x), which is nan where both are 0
    (for powers other than 1 and 2).
    """

    fields = owns(power_param=("power", "scale", "shift"))
    compute = "caffeio.ops.power:power"
    pure = True
    writes_early = True
    backward = "caffeio.ops.backward:Power"

    def setup(self, shape: Shape) -> None:
        """Read the fields."""
        p = self.param.power_param
        self.power, self.scale, self.shift = p.power, p.scale, p.shift
        if self.power * self.scale != 0 and self.power != 1:
            self.reads_bottoms = frozenset({0})
            self.reads_top = self.power != 2

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Mul, Add and Pow, as far as they change anything."""
        if self.power * self.scale == 0:
            import numpy as np

            with np.errstate(all="ignore"):
                power = np.float32(self.shift) ** np.float32(self.power)
            value = 1.0 if self.power == 0 else float(power)
            like = g.op("Shape", bottoms)
            return str(g.op("Expand", [g.const(value, "value"), like]))
        base = g.scaled(bottoms[0], self.scale, self.shift)
        if self.power == 1:
            return base
        if self.power == 2:
            return str(g.op("Mul", [base, base]))
        return str(g.op("Pow", [base, g.const(self.power, "power")]))
