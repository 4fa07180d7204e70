"""InnerProduct and Embed: the dense layers.

Sources: src/caffe/layers/inner_product_layer.cpp, embed_layer.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph
    from caffeio.proto.caffe_pb2 import LayerParameter

_FIELDS = (
    "num_output", "bias_term", "weight_filler", "bias_filler", "axis", "transpose",
    "transpose_weights", "relu", "negative_slope",
)  # fmt: skip


@layer("InnerProduct")
class InnerProduct(LayerType):
    """y = W x (+ bias) of the axes from `axis` on, flattened.

    Blobs: weight [num_output, K], or [K, num_output] with `transpose`; bias [num_output].
    """

    has_blobs = True
    family = "conv"
    short_type = "InnerProd"
    in_place = False
    fields = owns(inner_product_param=_FIELDS)
    blob_names = ("weight", "bias")
    blob_axes = (2, 1)
    compute = "caffeio.ops.inner_product:inner_product"
    pure = True
    fresh = True
    leaves_top = True
    reads_bottoms = frozenset({0})

    @classmethod
    def summary(cls, param: LayerParameter) -> str:
        """Say `-> 1000`."""
        p = param.inner_product_param
        return f"-> {p.num_output}" + ("" if p.bias_term else " no bias")

    def setup(self, shape: Shape) -> None:
        """Declare the blobs; raises LayerError for a wrong axis or num_output."""
        p = self.param.inner_product_param
        field = "inner_product_param"
        self.check(p.num_output > 0, "must be above 0", field=f"{field}.num_output")
        self.start = self.axis(p.axis, len(shape), f"{field}.axis")
        self.num_output: int = p.num_output
        self.inputs = math.prod(shape[self.start :])
        self.transpose = p.transpose or p.transpose_weights
        self.relu, self.negative_slope = p.relu, p.negative_slope
        weight = (self.num_output, self.inputs)
        filler = p.weight_filler if p.HasField("weight_filler") else None
        self.add_blob("weight", weight[::-1] if self.transpose else weight, filler)
        if p.bias_term:
            filler = p.bias_filler if p.HasField("bias_filler") else None
            self.add_blob("bias", (self.num_output,), filler)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(outer, ...) -> (outer, num_output)."""
        return ((*shape[: self.start], self.num_output),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Gemm of the flattened bottom for axis 1, else MatMul."""
        shape = g.shape(bottoms[0])
        bias = [g.param(self, 1)] if len(self.blobs) > 1 else []
        if self.start == 1:
            flat = len(shape) == 2
            x = bottoms[0] if flat else g.op("Flatten", bottoms, axis=1)
            y = g.op("Gemm", [x, g.param(self, 0), *bias], transB=int(not self.transpose))
        else:
            y = self._onnx_matmul(g, bottoms[0], shape)
            y = g.op("Add", [y, *bias]) if bias else y
        return g.relu(y, self.negative_slope) if self.relu else str(y)

    def _onnx_matmul(self, g: OnnxGraph, x: str, shape: Shape) -> str:
        if self.start == 0 and g.dynamic_batch:
            raise g.unsupported("axis 0 is part of its input")
        if self.start != len(shape) - 1:
            x = g.reshape(x, *[0] * self.start, self.inputs)
        weight = g.param(self, 0)
        if not self.transpose:
            weight = g.op("Transpose", [weight], perm=(1, 0))
        y: str = g.op("MatMul", [x, weight])
        return y

    def macs(self) -> int:
        """Products of one forward."""
        return sum(math.prod(s[: self.start]) for s in self.bottom_shapes) * math.prod(
            self.blob_specs[0].shape
        )


@layer("Embed")
class Embed(LayerType):
    """Row `index` of the weights (+ bias), for each value of the bottom, truncated to an integer.

    Blobs: weight [input_dim, num_output], bias [num_output].
    """

    has_blobs = True
    family = "conv"
    in_place = False
    label_bottoms = frozenset({0})
    fields = owns(
        embed_param=("num_output", "input_dim", "bias_term", "weight_filler", "bias_filler")
    )
    blob_names = ("weight", "bias")
    blob_axes = (2, 1)
    compute = "caffeio.ops.inner_product:embed"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Declare the blobs; raises LayerError unless num_output and input_dim are given."""
        p = self.param.embed_param
        for name in ("num_output", "input_dim"):
            self.check(getattr(p, name) > 0, "must be above 0", field=f"embed_param.{name}")
        filler = p.weight_filler if p.HasField("weight_filler") else None
        self.add_blob("weight", (p.input_dim, p.num_output), filler)
        if p.bias_term:
            filler = p.bias_filler if p.HasField("bias_filler") else None
            self.add_blob("bias", (p.num_output,), filler)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(any shape) of indices -> (that shape, num_output)."""
        return ((*shape, self.param.embed_param.num_output),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Gather of the weights' rows."""
        y: str = g.op("Gather", [g.param(self, 0), g.to_int(bottoms[0])], axis=0)
        return str(g.op("Add", [y, g.param(self, 1)])) if len(self.blobs) > 1 else y
