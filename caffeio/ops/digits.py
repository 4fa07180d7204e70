"""Small blobs with the digits of Caffe: its rounding, and its C library's functions.

torch's exp, log, tanh and sqrt differ from a C library's in the last digit, and its formulas for
gradients round elsewhere. For the blobs of real nets that is about 1e-7, the price of speed. Where
a gradient is a difference of nearly equal numbers, it decides the digits that are left, and signs;
in a small blob Caffe's own way costs nothing that matters. What C computes in double, because of a
constant like `1.` among floats, is computed in double here. A function of float64, rounded to
float32, is glibc's float function but for one number in two thousand (log: two hundred).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from caffeio.ops import glibc
from caffeio.ops.tracing import is_traced

SMALL = 4096  # numbers in a blob


def is_small(x: Tensor) -> bool:
    """Whether `x` has so few numbers that it may be computed step by step."""
    return x.numel() <= SMALL


def is_exact(x: Tensor) -> bool:
    """Whether `x` is computed as Caffe's CPU code does it: small, float32, and just computed.

    What records a program, or transforms one (torch.func, forward-mode derivatives), gets plain
    operations of torch.
    """
    return (
        x.numel() <= SMALL
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and not (torch.compiler.is_compiling() or is_traced() or _is_transformed())
    )


def _is_transformed() -> bool:
    active: bool = torch._C._are_functorch_transforms_active()
    return active or forward_ad._current_level >= 0


def exp(x: Tensor) -> Tensor:
    """expf, number by number."""
    return x.double().exp_().float()


def log(x: Tensor) -> Tensor:
    """logf, number by number."""
    return x.double().log_().float()


def sigmoid_of(x: Tensor) -> Tensor:
    """The sigmoid with Caffe's digits where `x` is small, else with torch's; no graph of `x`."""
    return sigmoid(x.detach()) if is_exact(x) else x.detach().sigmoid()


def pow_(x: Tensor, exponent: float) -> Tensor:
    """powf, number by number."""
    return x.double().pow_(exponent).float()


def tanh(x: Tensor) -> Tensor:
    """tanhf, number by number."""
    return torch.from_numpy(glibc.tanh(x.detach().numpy()))


def sqrt(x: Tensor) -> Tensor:
    """The correctly rounded root (torch's own, by MKL, is not)."""
    return x.double().sqrt_().to(x.dtype)


def sigmoid(x: Tensor) -> Tensor:
    """0.5 * tanh(0.5 * x) + 0.5, in double."""
    return (x.double().mul_(0.5).tanh_().mul_(0.5).add_(0.5)).float()
