"""Local response normalization and mean-variance normalization.

Sources: src/caffe/layers/lrn_layer.cpp, mvn_layer.cpp; Krizhevsky et al. 2012 (LRN).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from caffeio.layers.base import Layer, Shape, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.proto import caffe_pb2 as pb


def channel_sum(x: Tensor, size: int) -> Tensor:
    """Sum of `x` (N, C, H, W) over the `size` (odd) channels around each one."""
    n, c, h, w = x.shape
    planes = x.reshape(n, 1, c, h * w)
    sums = F.avg_pool2d(planes, (size, 1), 1, (size // 2, 0), divisor_override=1)
    return sums.view(n, c, h, w)


def power(x: Tensor, exponent: float) -> Tensor:
    """x ^ exponent; the usual -0.75 by roots, which are much quicker than pow."""
    if exponent == -0.75:
        root = x.rsqrt()
        return root * root.sqrt()
    return x.pow(exponent)


class _AcrossChannels(Function):
    """y = x * s^-beta with s = k + alpha / size * sum of squares over the channels around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        scale = channel_sum(x * x, size).mul_(alpha / size).add_(k)
        ctx.save_for_backward(x, scale)
        ctx.size, ctx.alpha, ctx.beta = size, alpha, beta
        return x * power(scale, -beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, scale = ctx.saved_tensors
        direct = grad * power(scale, -ctx.beta)
        around = channel_sum(direct * x / scale, ctx.size)
        factor = 2 * ctx.alpha * ctx.beta / ctx.size
        return torch.addcmul(direct, x, around, value=-factor), None, None, None, None


@layer("LRN")
class LRN(Layer):
    """Divides by a power of the squares around: in other channels, or in the same plane.

    ACROSS_CHANNELS: y = x * (k + alpha / n * sum of n squares)^-beta. WITHIN_CHANNEL: y = x *
    (1 + alpha * mean of n x n squares, zeros outside)^-beta; it has no k.

    Across channels in place, Caffe writes the power into the top, which is the bottom, and then
    multiplies the two: y = (k + ...)^(-2 beta).
    """

    reads_bottoms = frozenset({0})
    backward = "caffeio.ops.backward:LRN"

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for an even local_size or a bottom without 4 axes."""
        p = self.param.lrn_param
        self.check(
            p.local_size % 2 == 1, f"must be odd, not {p.local_size}", field="lrn_param.local_size"
        )
        self.check(len(shape) == 4, f"needs a bottom of 4 axes, not {shape}")
        check_fields(self, "lrn_param", ("local_size", "alpha", "beta", "k", "norm_region"))
        self.size, self.alpha, self.beta, self.k = p.local_size, p.alpha, p.beta, p.k
        self.across = p.norm_region == pb.LRNParameter.ACROSS_CHANNELS
        self.reads_top = self.writes_early = self.across

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if self.across and self.runs_in_place:
            squares = channel_sum(x * x, self.size) * (self.alpha / self.size)
            return power(squares + self.k, -self.beta).square()
        if self.across:
            return _AcrossChannels.apply(  # type: ignore[no-any-return,no-untyped-call]
                x, self.size, self.alpha, self.beta, self.k
            )
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * power(mean * self.alpha + 1, -self.beta)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """LRN; within a channel AveragePool of the squares."""
        (x,) = bottoms
        if self.across:
            return str(
                g.op("LRN", [x], size=self.size, alpha=self.alpha, beta=self.beta, bias=self.k)
            )
        half = self.size // 2
        mean = g.op(
            "AveragePool", [g.op("Mul", [x, x])], kernel_shape=(self.size,) * 2, strides=(1, 1),
            pads=(half,) * 4, count_include_pad=1,
        )  # fmt: skip
        base = g.scaled(mean, self.alpha, 1.0)
        return str(g.op("Mul", [x, g.op("Pow", [base, g.const(-self.beta, "power")])]))


class _Standardize(Function):
    """(x - mean) / (sqrt(variance) + eps) over `dims`; the gradient leaves eps out, as Caffe's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
        centred = x - x.mean(dims, keepdim=True)
        deviation = centred.square().mean(dims, keepdim=True).sqrt() + eps
        y = centred / deviation
        ctx.save_for_backward(y, deviation)
        ctx.dims = dims
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        y, deviation = ctx.saved_tensors
        shift = grad.mean(ctx.dims, keepdim=True)
        slope = (grad * y).mean(ctx.dims, keepdim=True)
        return (grad - shift - y * slope) / deviation, None, None


@layer("MVN")
class MVN(Layer):
    """Subtracts the mean and divides by the standard deviation + eps, per plane or per item.

    The top always has 4 axes (num, channels, height, width), as all blobs had once.
    """

    backward = "caffeio.ops.backward:MVN"

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for a bottom of more than 4 axes."""
        p = self.param.mvn_param
        self.check(len(shape) <= 4, f"needs a bottom of at most 4 axes, not {shape}")
        check_fields(self, "mvn_param", ("normalize_variance", "across_channels", "eps"))
        self.eps, self.normalize_variance = p.eps, p.normalize_variance
        self.reads_top = self.writes_early = self.normalize_variance
        self.dims = (1, 2, 3) if p.across_channels else (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N[, C[, H[, W]]]) -> (N, C, H, W), absent axes having size 1."""
        x = x.reshape(*x.shape, *[1] * (4 - x.dim()))
        if not self.normalize_variance:
            return x - x.mean(self.dims, keepdim=True)
        return _Standardize.apply(x, self.dims, self.eps)  # type: ignore[no-any-return,no-untyped-call]

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """ReduceMean, Sub, Sqrt and Div."""
        (x,) = bottoms
        shape = g.shape(x)
        if len(shape) < 4:
            x = g.reshape(x, *[0] * len(shape), *[1] * (4 - len(shape)))
        centred: str = g.op("Sub", [x, g.op("ReduceMean", [x], axes=self.dims)])
        if not self.normalize_variance:
            return centred
        squares = g.op("Mul", [centred, centred])
        deviation = g.op("Sqrt", [g.op("ReduceMean", [squares], axes=self.dims)])
        return str(g.op("Div", [centred, g.scaled(deviation, 1.0, self.eps)]))
