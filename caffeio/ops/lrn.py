"""Local response normalization and mean-variance normalization.

Sources: src/caffe/layers/lrn_layer.cpp, mvn_layer.cpp; Krizhevsky et al. 2012 (LRN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from caffeio.ops.tracing import apply, is_traced

if TYPE_CHECKING:
    from caffeio.layers.lrn import LRN, MVN


def channel_sum(x: Tensor, size: int) -> Tensor:
    """Sum of `x` (N, C, H, W) over the `size` (odd) channels around each one, from the first on."""
    if is_traced() or (x.requires_grad and torch.is_grad_enabled()):  # one operation to record
        n, c, h, w = x.shape
        planes = x.reshape(n, 1, c, h * w)
        sums = F.avg_pool2d(planes, (size, 1), 1, (size // 2, 0), divisor_override=1)
        return sums.view(n, c, h, w)
    channels, half = x.shape[1], size // 2
    y = torch.zeros_like(x)
    for shift in range(max(-half, 1 - channels), min(half, channels - 1) + 1):
        here, there = max(0, -shift), max(0, shift)
        count = channels - abs(shift)
        y.narrow(1, here, count).add_(x.narrow(1, there, count))
    return y


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


def lrn(layer: LRN, x: Tensor) -> Tensor:
    """(N, C, H, W) -> the same shape."""
    if layer.across and layer.runs_in_place:
        squares = channel_sum(x * x, layer.size) * (layer.alpha / layer.size)
        return power(squares + layer.k, -layer.beta).square()
    if layer.across:
        y: Tensor = apply(_AcrossChannels, x, layer.size, layer.alpha, layer.beta, layer.k)
        return y
    mean = F.avg_pool2d(x * x, layer.size, 1, layer.size // 2)
    return x * power(mean * layer.alpha + 1, -layer.beta)


def mvn(layer: MVN, x: Tensor) -> Tensor:
    """(N[, C[, H[, W]]]) -> (N, C, H, W), absent axes having size 1."""
    x = x.reshape(*x.shape, *[1] * (4 - x.dim()))
    if not layer.normalize_variance:
        return x - x.mean(layer.dims, keepdim=True)
    standardized: Tensor = apply(_Standardize, x, layer.dims, layer.eps)
    return standardized
