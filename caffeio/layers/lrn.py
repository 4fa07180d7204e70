"""Local response normalization and mean-variance normalization.

Sources: src/caffe/layers/lrn_layer.cpp, mvn_layer.cpp; Krizhevsky et al. 2012 (LRN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("LRN")
class LRN(LayerType):
    """Divides by a power of the squares around: in other channels, or in the same plane.

    ACROSS_CHANNELS: y = x * (k + alpha / n * sum of n squares)^-beta. WITHIN_CHANNEL: y = x *
    (1 + alpha * mean of n x n squares, zeros outside)^-beta; it has no k.

    Across channels in place, Caffe writes the power into the top, which is the bottom, and then
    multiplies the two: y = (k + ...)^(-2 beta).
    """

    family = "norm"
    reads_bottoms = frozenset({0})
    backward = "caffeio.ops.backward:LRN"
    fields = owns(lrn_param=("local_size", "alpha", "beta", "k", "norm_region"))
    compute = "caffeio.ops.lrn:lrn"
    pure = True
    by_image = True
    fresh = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for an even local_size or a bottom without 4 axes."""
        p = self.param.lrn_param
        self.check(
            p.local_size % 2 == 1, f"must be odd, not {p.local_size}", field="lrn_param.local_size"
        )
        self.check(len(shape) == 4, f"needs a bottom of 4 axes, not {shape}")
        self.size, self.alpha, self.beta, self.k = p.local_size, p.alpha, p.beta, p.k
        self.across = p.norm_region == pb.LRNParameter.ACROSS_CHANNELS
        self.reads_top = self.writes_early = self.across

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write LRN; within a channel AveragePool of the squares."""
        (x,) = bottoms
        if self.across:
            return str(
                g.op("LRN", [x], size=self.size, alpha=self.alpha, beta=self.beta, bias=self.k)
            )
        from caffeio.layers.onnx.pooling import padded_average

        half = self.size // 2
        squares = g.op("Mul", [x, x])
        window = {"kernel_shape": (self.size,) * 2, "strides": (1, 1)}
        mean = padded_average(g, squares, (half,) * 4, **window)
        base = g.scaled(mean, self.alpha, 1.0)
        return str(g.op("Mul", [x, g.op("Pow", [base, g.const(-self.beta, "power")])]))


@layer("MVN")
class MVN(LayerType):
    """Subtracts the mean and divides by the standard deviation + eps, per plane or per item.

    The top always has 4 axes (num, channels, height, width), as all blobs had once.
    """

    family = "norm"
    backward = "caffeio.ops.backward:MVN"
    fields = owns(mvn_param=("normalize_variance", "across_channels", "eps"))
    compute = "caffeio.ops.lrn:mvn"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for a bottom of more than 4 axes."""
        p = self.param.mvn_param
        self.check(len(shape) <= 4, f"needs a bottom of at most 4 axes, not {shape}")
        self.eps, self.normalize_variance = p.eps, p.normalize_variance
        self.reads_top = self.writes_early = self.normalize_variance
        self.dims = (1, 2, 3) if p.across_channels else (2, 3)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(N[, C[, H[, W]]]) -> (N, C, H, W), absent axes having size 1."""
        return ((*shape, *[1] * (4 - len(shape))),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write ReduceMean, Sub, Sqrt and Div."""
        (x,) = bottoms
        shape = g.shape(x)
        if len(shape) < 4:
            x = g.reshape(x, *[0] * len(shape), *[1] * (4 - len(shape)))
        centred: str = g.op("Sub", [x, g.reduced("ReduceMean", x, self.dims)])
        if not self.normalize_variance:
            return centred
        squares = g.op("Mul", [centred, centred])
        deviation = g.op("Sqrt", [g.reduced("ReduceMean", squares, self.dims)])
        return str(g.op("Div", [centred, g.scaled(deviation, 1.0, self.eps)]))
