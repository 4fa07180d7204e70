"""Local response normalization and mean-variance normalization.

Sources: src/caffe/layers/lrn_layer.cpp, mvn_layer.cpp; Krizhevsky et al. 2012 (LRN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from caffeio.ops import backward, digits
from caffeio.ops.digits import is_exact
from caffeio.ops.exact import exactly
from caffeio.ops.neighbours import across_exactly, channel_sum, is_short, power
from caffeio.ops.small_batch import standardize
from caffeio.ops.tracing import apply

if TYPE_CHECKING:
    from caffeio.layers.lrn import LRN, MVN


PIECE = 1 << 17  # values a thread: a piece and its temporaries stay in a cache
LARGE = 1 << 20  # values: fewer stay in a cache as they are


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
    if layer.across and is_exact(x) and is_short(x, layer.size):
        return exactly(layer, (x,), _lrn_exactly, _lrn_across, backward.LRN)
    if layer.across:
        return _lrn_across(layer, x)
    return _lrn_within(layer, x)


def lrn_in_pieces(layer: LRN, x: Tensor) -> Tensor:
    """`lrn` without a gradient, in pieces that stay in a CPU's cache, where channels lie last.

    The operations are those of `lrn`, number by number, and so are the results with beta 0.75; the
    last digit of another power depends on where in memory PyTorch computes it.
    """
    small = is_exact(x) and is_short(x, layer.size)
    last = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    if not last or small or not layer.across or layer.runs_in_place or x.numel() < LARGE:
        return lrn(layer, x)
    channels, half = x.shape[1], layer.size // 2
    y = torch.empty_like(x)
    rows, out = (t.permute(0, 2, 3, 1).reshape(-1, channels) for t in (x, y))
    count = max(1, PIECE * torch.get_num_threads() // channels)
    squares = rows.new_zeros(count, channels + 2 * half)  # zeros around each row
    for start in range(0, rows.shape[0], count):
        piece = rows[start : start + count]
        around = squares[: piece.shape[0]]
        torch.mul(piece, piece, out=around.narrow(1, half, channels))
        scale = around.narrow(1, 0, channels).clone()
        for shift in range(1, layer.size):
            scale.add_(around.narrow(1, shift, channels))
        scale.mul_(layer.alpha / layer.size).add_(layer.k)
        torch.mul(piece, power(scale, -layer.beta), out=out[start : start + count])
    return y


def _lrn_across(layer: LRN, x: Tensor) -> Tensor:
    y: Tensor = apply(_AcrossChannels, x, layer.size, layer.alpha, layer.beta, layer.k)
    return y


def _lrn_within(layer: LRN, x: Tensor) -> Tensor:
    mean = F.avg_pool2d(x * x, layer.size, 1, layer.size // 2)
    return x * power(mean * layer.alpha + 1, -layer.beta)


def _lrn_exactly(layer: LRN, x: Tensor) -> Tensor:
    scale = across_exactly(x.detach(), layer.size, layer.alpha, layer.k)
    return digits.pow_(scale, -layer.beta).mul_(x)


def mvn(layer: MVN, x: Tensor) -> Tensor:
    """(N[, C[, H[, W]]]) -> (N, C, H, W), absent axes having size 1."""
    x = x.reshape(*x.shape, *[1] * (4 - x.dim()))
    if is_exact(x) and x.numel():
        return exactly(layer, (x,), _mvn_exactly, _mvn, backward.MVN)
    return _mvn(layer, x)


def _mvn_exactly(layer: MVN, x: Tensor) -> Tensor:
    return standardize(x.detach(), layer.dims, layer.normalize_variance, layer.eps)[0]


def _mvn(layer: MVN, x: Tensor) -> Tensor:
    if not layer.normalize_variance:
        return x - x.mean(layer.dims, keepdim=True)
    standardized: Tensor = apply(_Standardize, x, layer.dims, layer.eps)
    return standardized
