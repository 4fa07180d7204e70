"""Sums over neighbouring channels, and the powers of LRN.

Source: src/caffe/layers/lrn_layer.cpp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.ops.tracing import is_traced

SHORT = 32  # channels that are added up one after the other


def channel_sum(x: Tensor, size: int) -> Tensor:
    """Sum of `x` (N, C, H, W) over the `size` (odd) channels around each one, from the first on."""
    if is_traced() or (torch.is_grad_enabled() and x.requires_grad):  # one operation to record
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


def is_short(x: Tensor, size: int) -> bool:
    """Whether `x` (N, C, H, W) and its windows have so few channels that each may be visited."""
    return x.shape[1] <= SHORT and size <= SHORT


def running_sums(x: Tensor, size: int, before: int, weight: float, start: float) -> Tensor:
    """`start` + weight * sums of (N, C, H, W) over `size` channels, as Caffe slides the window.

    `before` channels of the window lie before its own one. What enters is added, what leaves is
    subtracted, each by a fused multiply-add. Contains no graph.
    """
    channels = x.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, before, size - 1 - before)).double().unbind(1)
    current = torch.full_like(x[:, 0], start)
    out = []
    for c in range(size):
        current = (current.double() + weight * padded[c]).float()
    out.append(current)
    for c in range(1, channels):
        current = (current.double() + weight * padded[c + size - 1]).float()
        current = (current.double() - weight * padded[c - 1]).float()
        out.append(current)
    return torch.stack(out, 1)


def across_exactly(x: Tensor, size: int, alpha: float, k: float) -> Tensor:
    """k + alpha / size * sums of squares over channels of a small blob, with Caffe's digits."""
    weight = (torch.tensor(alpha) / size).item()
    return running_sums(x * x, size, (size - 1) // 2, weight, k)
