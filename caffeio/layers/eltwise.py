"""Eltwise: sum, product or maximum of bottoms of the same shape.

Source: src/caffe/layers/eltwise_layer.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, at_least, owns
from caffeio.layers.dims import agreed
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

FIELD = "eltwise_param"


@layer("Eltwise")
class Eltwise(LayerType):
    """SUM (with coefficients), PROD or MAX, element by element.

    In MAX the first bottom wins only if it is greater than the second, a later one only if it is
    greater than all before; the winner gets the whole gradient.

    In place, Caffe sets the top, which is its first bottom, to 0 (SUM) or to -FLT_MAX (MAX) before
    it reads it: that bottom is lost.
    """

    family = "join"
    bottoms = at_least(2)
    fields = owns(eltwise_param=("operation", "coeff", "stable_prod_grad"))
    compute = "caffeio.ops.eltwise:eltwise"
    pure = True
    by_image = True
    fresh = True
    leaves_top = True
    writes_early = True
    backward = "caffeio.ops.backward:Eltwise"

    @classmethod
    def summary(cls, param: pb.LayerParameter) -> str:
        """Say `sum of 1, -1`."""
        p = param.eltwise_param
        words = pb.EltwiseParameter.EltwiseOp.Name(p.operation).lower()
        return f"{words} of {', '.join(f'{c:.7g}' for c in p.coeff)}" if p.coeff else words

    def setup(self, *shapes: Shape) -> None:
        """Raises LayerError for different shapes or wrong coefficients."""
        p = self.param.eltwise_param
        self.operation = pb.EltwiseParameter.EltwiseOp.Name(p.operation)
        supported = ("SUM", "PROD", "MAX")
        self.check(
            self.operation in supported, f"{self.operation} is not supported",
            field=f"{FIELD}.operation",
        )  # fmt: skip
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
        self.loses_first = self.runs_in_place and self.operation != "PROD"
        if self.operation == "PROD":
            self.reads_bottoms = None
            self.reads_top = not self.stable

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Return the shape that all bottoms have."""
        return (agreed(*bottoms),)

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
