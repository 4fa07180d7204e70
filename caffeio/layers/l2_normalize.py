"""Normalize (SSD): divides by the L2 norm of an item or a pixel and scales.

Source: src/caffe/layers/normalize_layer.cpp of weiliu89/caffe, branch ssd, and Intel's.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from caffeio.layers.base import Layer, Shape, layer
from caffeio.layers.fields import check_fields

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("Normalize")
class Normalize(Layer):
    """x / sqrt(sum of x^2 + eps) * scale.

    The sum is over channels and pixels (across_spatial, the default) or over the channels of each
    pixel; the scale is one number (channel_shared) or one a channel, 1 unless scale_filler says
    otherwise. Bottom (N, C, ...) of 2 to 4 axes.
    """

    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check the fields and declare the scale."""
        (shape,) = shapes
        known = ("across_spatial", "scale_filler", "channel_shared", "eps")
        check_fields(self, "norm_param", known)
        self.check(2 <= len(shape) <= 4, "needs a bottom of 2 to 4 axes")
        param = self.param.norm_param
        self.across = param.across_spatial
        self.eps: float = param.eps
        filler = param.scale_filler if param.HasField("scale_filler") else None
        self.add_blob("scale", () if param.channel_shared else (shape[1],), filler, default=1.0)
        self.count = prod(shape[1:])

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the scaled directions, of the bottom's shape."""
        x = bottoms[0]
        over = tuple(range(1, x.dim())) if self.across else (1,)
        norm = ((x * x).sum(over, keepdim=True) + self.eps).sqrt()
        scale: Tensor = self.blobs[0]
        return x / norm * (scale if scale.dim() == 0 else scale.view(-1, *[1] * (x.dim() - 2)))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """ReduceSumSquare, Sqrt, Div, Mul."""
        dims = len(g.shape(bottoms[0]))
        over = list(range(1, dims)) if self.across else [1]
        squares = g.op("ReduceSumSquare", bottoms, axes=over, keepdims=1)
        norm = g.op("Sqrt", [g.op("Add", [squares, g.const(self.eps, "eps")])])
        many = self.blobs[0].dim() == 1
        scale = g.param(self, 0, shape=(-1, *[1] * (dims - 2)) if many else None)
        return str(g.op("Mul", [g.op("Div", [bottoms[0], norm]), scale]))
