"""Eltwise: sum, product or maximum of bottoms of the same shape.

Source: src/caffe/layers/eltwise_layer.cpp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from caffeio.layers.base import Layer, Shape, at_least, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.gradients import is_in_place
from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.proto import caffe_pb2 as pb

FIELD = "eltwise_param"


def product(bottoms: tuple[Tensor, ...]) -> Tensor:
    """Product of all bottoms, from the first on."""
    y = bottoms[0] * bottoms[1]
    for x in bottoms[2:]:
        y = y * x
    return y


class _UnstableProduct(Function):
    """The product, whose gradient is top / bottom: nan where a bottom is 0."""

    @staticmethod
    def forward(ctx: Any, *bottoms: Tensor) -> Tensor:
        y = product(bottoms)
        ctx.save_for_backward(y, *bottoms)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        y, *bottoms = ctx.saved_tensors
        return tuple(grad * (y / x) for x in bottoms)


@layer("Eltwise")
class Eltwise(Layer):
    """SUM (with coefficients), PROD or MAX, element by element.

    In MAX the first bottom wins only if it is greater than the second, a later one only if it is
    greater than all before; the winner gets the whole gradient.

    In place, Caffe sets the top, which is its first bottom, to 0 (SUM) or to -FLT_MAX (MAX) before
    it reads it: that bottom is lost.
    """

    bottoms = at_least(2)
    writes_early = True
    backward = "caffeio.layers.backward:Eltwise"

    def setup(self, *shapes: Shape) -> None:
        """Raises LayerError for different shapes or wrong coefficients."""
        p = self.param.eltwise_param
        self.operation = pb.EltwiseParameter.EltwiseOp.Name(p.operation)
        supported = ("SUM", "PROD", "MAX")
        self.check(
            self.operation in supported, f"{self.operation} is not supported",
            field=f"{FIELD}.operation",
        )  # fmt: skip
        check_fields(self, FIELD, ("operation", "coeff", "stable_prod_grad"))
        self.check(
            len(p.coeff) in (0, len(shapes)),
            f"takes one coefficient for each of the {len(shapes)} bottoms, not {len(p.coeff)}",
            field=f"{FIELD}.coeff",
        )
        self.check(
            not p.coeff or self.operation != "PROD", "PROD takes none", field=f"{FIELD}.coeff"
        )
        self.check(
            all(shape == shapes[0] for shape in shapes),
            f"all bottoms must have the same shape: {', '.join(map(str, shapes))}",
        )
        self.coeff = tuple(p.coeff) or (1.0,) * len(shapes)
        self.stable = p.stable_prod_grad
        self.loses_first = is_in_place(self) and self.operation != "PROD"
        if self.operation == "PROD":
            self.reads_bottoms = None
            self.reads_top = not self.stable

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(any shape), n times -> the same shape."""
        if self.loses_first:
            lost = 0.0 if self.operation == "SUM" else torch.finfo(torch.float32).min
            bottoms = (torch.full_like(bottoms[0], lost, requires_grad=False), *bottoms[1:])
        if self.operation == "SUM":
            return self._sum(bottoms)
        if self.operation == "PROD":
            if self.stable:
                return product(bottoms)
            return _UnstableProduct.apply(*bottoms)  # type: ignore[no-any-return,no-untyped-call]
        y = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
        for x in bottoms[2:]:
            y = torch.where(x > y, x, y)
        return y

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Add, Mul or Max, in Caffe's order."""
        kind = {"SUM": "Add", "PROD": "Mul", "MAX": "Max"}[self.operation]
        weighted = [g.scaled(x, c) for x, c in zip(bottoms, self.coeff, strict=True)]
        if self.loses_first:
            weighted = weighted[1:]
        y = weighted[0]
        for x in weighted[1:]:
            y = g.op(kind, [y, x])
        return y

    def _sum(self, bottoms: tuple[Tensor, ...]) -> Tensor:
        first = self.coeff[0]
        y = bottoms[0] if first == 1 else bottoms[0] * first
        for x, coeff in zip(bottoms[1:], self.coeff[1:], strict=True):
            y = torch.add(y, x, alpha=coeff)
        return y
