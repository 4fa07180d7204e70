"""Batch normalization of small blobs in Caffe's own order of operations.

torch's kernels compute x * a + b, which loses digits where a channel's mean is large against its
deviation, and add up in another order. For the blobs of real nets that is about 1e-7, the price of
speed. In a small blob, whose gradients are differences of nearly equal numbers, it decides signs;
and there Caffe's order costs nothing that matters. Source: src/caffe/layers/batch_norm_layer.cpp.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from caffeio.ops.blas import column_sums, row_sums
from caffeio.ops.digits import is_exact, sqrt
from caffeio.ops.tracing import apply


def _channel_sums(x: Tensor, factor: float) -> Tensor:
    """Sums of (N, C, S) over S, times `factor`, then over N: (C)."""
    n, c, s = x.shape
    rows = row_sums(x.reshape(n * c, s)) * factor
    return column_sums(rows.view(n, c))


class _Normalize(Function):
    """(x - mean) / sqrt(variance + eps) of (N, C, S): also the mean and the biased variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        factor = 1 / max(1, x.shape[0] * x.shape[2])
        mean = _channel_sums(x, factor)
        y = x - mean.view(1, -1, 1)
        variance = _channel_sums(y * y, factor)
        deviation = sqrt(variance + eps).view(1, -1, 1)
        y = y / deviation
        ctx.save_for_backward(y, deviation)
        ctx.factor = factor
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        y, deviation = ctx.saved_tensors
        grad = grads[0]
        shared = y * _channel_sums(y * grad, 1.0).view(1, -1, 1)
        shared = shared + _channel_sums(grad, 1.0).view(1, -1, 1)
        return (shared * -ctx.factor + grad) / deviation, None


def normalize(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize `x` (N, C, ...) over all axes but 1; returns y, mean and biased variance (C)."""
    flat = x.reshape(x.shape[0], x.shape[1], prod(x.shape[2:]))
    y, mean, variance = apply(_Normalize, flat, eps)
    return y.reshape(x.shape), mean, variance


def sums_over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sums of `x` over its last axes `dims`, which are kept, in a BLAS's order if it is small."""
    if not is_exact(x):
        return x.sum(dims, keepdim=True)
    shape = [1 if i in dims else n for i, n in enumerate(x.shape)]
    return row_sums(x.reshape(prod(shape), -1)).view(shape)


def standardize(
    x: Tensor, dims: tuple[int, ...], by_deviation: bool, eps: float
) -> tuple[Tensor, Tensor]:
    """MVN of `x` without a graph, over its last axes `dims`: y, and the deviation + eps."""
    factor = 1 / prod(x.shape[i] for i in dims)
    y = x - sums_over(x, dims) * factor
    if not by_deviation:
        return y, torch.ones(())
    deviation = sqrt(sums_over(y * y, dims) * factor) + eps
    return y / deviation, deviation
