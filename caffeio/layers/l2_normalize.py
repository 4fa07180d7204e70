"""Normalize (SSD): divides by the L2 norm of an item or a pixel and scales.

Source: src/caffe/layers/normalize_layer.cpp of weiliu89/caffe, branch ssd, and Intel's.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("Normalize")
class Normalize(LayerType):
    """x / sqrt(sum of x^2 + eps) * scale.

    The sum is over channels and pixels (across_spatial, the default) or over the channels of each
    pixel; the scale is one number (channel_shared) or one a channel, 1 unless scale_filler says
    otherwise. Bottom (N, C, ...) of 2 to 4 axes.
    """

    has_blobs = True
    family = "norm"
    in_place = False
    fields = owns(norm_param=("across_spatial", "scale_filler", "channel_shared", "eps"))
    compute = "caffeio.ops.l2_normalize:normalize"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check the fields and declare the scale."""
        (shape,) = shapes
        self.check(2 <= len(shape) <= 4, "needs a bottom of 2 to 4 axes")
        param = self.param.norm_param
        self.across = param.across_spatial
        self.eps: float = param.eps
        filler = param.scale_filler if param.HasField("scale_filler") else None
        self.add_blob("scale", () if param.channel_shared else (shape[1],), filler, default=1.0)
        self.count = prod(shape[1:])

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write ReduceSumSquare, Sqrt, Div, Mul."""
        dims = len(g.shape(bottoms[0]))
        over = list(range(1, dims)) if self.across else [1]
        squares = g.reduced("ReduceSumSquare", bottoms[0], over)
        norm = g.op("Sqrt", [g.op("Add", [squares, g.const(self.eps, "eps")])])
        many = len(self.blob_specs[0].shape) == 1
        scale = g.param(self, 0, shape=(-1, *[1] * (dims - 2)) if many else None)
        return str(g.op("Mul", [g.op("Div", [bottoms[0], norm]), scale]))
