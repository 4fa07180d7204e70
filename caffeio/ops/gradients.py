"""Gradients that are Caffe's, not the function's."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from caffeio.ops.tracing import apply


class _WithGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def with_gradient(x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """`y` (without a graph), whose gradient with respect to `x` is defined to be `slope`."""
    return apply(_WithGradient, x, y, slope)  # type: ignore[no-any-return]
