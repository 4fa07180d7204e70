"""Layers that work along axes: Softmax, ArgMax, Reduction.

Sources: src/caffe/layers/softmax_layer.cpp, argmax_layer.cpp, reduction_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("Softmax")
class Softmax(LayerType):
    """exp(x) / sum of exp(x) along `axis`, the maximum subtracted first."""

    reads_top = True
    backward = "caffeio.ops.backward:Softmax"
    fields = owns(softmax_param=("axis",))
    compute = "caffeio.ops.reduction:softmax"
    pure = True
    fresh = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for an axis out of range."""
        p = self.param.softmax_param
        self.dim = self.axis(p.axis, len(shape), "softmax_param.axis")

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Softmax."""
        y: str = g.op("Softmax", bottoms, axis=self.dim)
        return y


@layer("Reduction")
class Reduction(LayerType):
    """coeff * SUM, ASUM (of |x|), SUMSQ (of x^2) or MEAN over all axes from `axis` on."""

    in_place = False
    fields = owns(reduction_param=("operation", "axis", "coeff"))
    compute = "caffeio.ops.reduction:reduction"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for an axis out of range."""
        p = self.param.reduction_param
        self.start = self.axis(p.axis, len(shape), "reduction_param.axis")
        self.operation = pb.ReductionParameter.ReductionOp.Name(p.operation)
        self.check(
            self.operation in ("SUM", "ASUM", "SUMSQ", "MEAN"),
            f"{self.operation} is not supported",
            field="reduction_param.operation",
        )
        self.coeff = p.coeff
        if self.operation in ("ASUM", "SUMSQ"):
            self.reads_bottoms = frozenset({0})

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(outer, ...) -> (outer); a scalar for axis 0."""
        return (shape[: self.start],)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write ReduceSum, ReduceL1, ReduceSumSquare or ReduceMean."""
        (x,) = bottoms
        axes = list(range(self.start, len(g.shape(x))))
        names = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare",
                 "MEAN": "ReduceMean"}  # fmt: skip
        op_type = names[self.operation]
        if not self.start and op_type != "ReduceSum":  # OpenCV has no shape for what is left
            return g.scaled(g.op(op_type, [x], axes=axes, keepdims=0), self.coeff)
        if not self.start:
            return g.scaled(g.op(op_type, [x, g.ints(axes, "axes")], keepdims=0), self.coeff)
        keep = int(self.coeff != 1)  # OpenCV 4 scales vectors wrongly
        y = g.scaled(g.reduced(op_type, x, axes, keepdims=keep), self.coeff)
        return g.reshape(y, *[0] * self.start) if keep else y


@layer("ArgMax")
class ArgMax(LayerType):
    """Indices of the `top_k` largest values, largest first; of equal ones the last index first.

    With `axis`: along it (with out_max_val the values instead). Without: of each item flattened,
    top (N, 1, top_k, 1 ...), with out_max_val (N, 2, top_k, 1 ...): indices, then values.
    """

    may_end = True
    in_place = False
    differentiable = False
    fields = owns(argmax_param=("axis", "top_k", "out_max_val"))
    compute = "caffeio.ops.reduction:arg_max"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError when top_k is larger than what there is to choose from."""
        p = self.param.argmax_param
        self.out_max_val, self.top_k = p.out_max_val, p.top_k
        self.dim: int | None = None
        if p.HasField("axis"):
            self.dim = self.axis(p.axis, len(shape), "argmax_param.axis")
        self.check(bool(shape), "the bottom is a scalar: there is nothing to choose from")
        choice = math.prod(shape[1:]) if self.dim is None else shape[self.dim]
        self.check(
            1 <= p.top_k <= choice, f"must be from 1 to {choice}, not {p.top_k}",
            field="argmax_param.top_k",
        )  # fmt: skip

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Give top_k along the axis, else (N, 1 or 2, top_k, 1 ...)."""
        if self.dim is not None:
            return ((*shape[: self.dim], self.top_k, *shape[self.dim + 1 :]),)
        rows = 2 if self.out_max_val else 1
        return ((shape[0], rows, self.top_k, *[1] * (len(shape) - 3)),)

    def dies_backward(self, needs: Sequence[bool]) -> str:
        """Say that there is no backward pass."""
        return f"{self.type_name} has no backward pass, and a gradient would go through it"

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write ArgMax of the mirrored bottom: of equal values Caffe takes the last."""
        (x,) = bottoms
        ndim = len(g.shape(x))
        if self.dim is not None:
            values, indices = self._onnx_largest(g, x, self.dim, g.shape(x)[self.dim])
            return values if self.out_max_val else indices
        found = self._onnx_largest(g, g.op("Flatten", [x], axis=1), 1, math.prod(g.shape(x)[1:]))
        rows = [g.op("Unsqueeze", [v, g.ints((1,), "axes")]) for v in found[::-1]]
        y = g.op("Concat", rows, axis=1) if self.out_max_val else rows[0]
        return g.reshape(y, 0, 0, 0, *[1] * (ndim - 3)) if ndim > 3 else str(y)

    def _onnx_largest(self, g: OnnxGraph, x: str, dim: int, size: int) -> tuple[str, str]:
        """The top_k values along `dim`, and their indices as floats."""
        ends = g.ints((-1,), "start"), g.ints((-size - 1,), "end")
        mirrored = g.op("Slice", [x, *ends, g.ints((dim,), "axes"), g.ints((-1,), "step")])
        if self.top_k == 1:
            index = g.op("ArgMax", [mirrored], axis=dim, keepdims=1)
            values = g.op("ReduceMax", [x], axes=(dim,), keepdims=1)
        else:
            values, index = g.op(
                "TopK", [mirrored, g.ints((self.top_k,), "k")], outputs=2, axis=dim
            )
        last = g.const(size - 1, "last")
        return values, g.to_float(g.op("Sub", [last, index]))
