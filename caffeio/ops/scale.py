"""Products and sums with a blob of fewer axes.

Sources: src/caffe/layers/scale_layer.cpp, bias_layer.cpp; axpy_layer.cpp of SENet's Caffe.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from caffeio.ops.blas import column_sums, dot, row_sums
from caffeio.ops.digits import is_exact

if TYPE_CHECKING:
    from caffeio.layers.scale import Axpy, Bias, Scale


def spread(blob: Tensor, axis: int, ndim: int) -> Tensor:
    """View `blob` so that it broadcasts against `ndim` axes, its first at `axis`."""
    return blob.view(*blob.shape, *[1] * (ndim - axis - blob.dim()))


def _planes(x: Tensor, axis: int, operand: Tensor) -> tuple[int, int, int]:
    """Sizes before, of and behind the axes of `x` that `operand` spans from `axis` on."""
    outer = prod(x.shape[:axis])
    return outer, operand.numel(), x.numel() // max(1, outer * operand.numel())


class _Times(Function):
    """x * factor, with the factor's gradient added up as Caffe does it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x, factor)
        ctx.axis = axis
        return x * spread(factor, axis, x.dim())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, factor = ctx.saved_tensors
        wide = spread(factor, ctx.axis, x.dim())
        needs_gradient = ctx.needs_input_grad
        product = grads[0] * x if needs_gradient[1] else None
        if product is not None:
            sums = product.sum_to_size(wide.shape).reshape(factor.shape)
            if not torch.is_grad_enabled():
                sums = _factor_sums(product, ctx.axis, factor)
        return (
            grads[0] * wide if needs_gradient[0] else None,
            sums if needs_gradient[1] else None,
            None,
        )


def _factor_sums(product: Tensor, axis: int, factor: Tensor) -> Tensor:
    outer, count, inner = _planes(product, axis, factor)
    flat = product.reshape(outer * count, inner)
    if outer * count == 1:
        return dot(flat[0], torch.ones_like(flat[0])).view(factor.shape)
    rows = row_sums(flat).view(outer, count)
    if outer > 1 and count == 1:
        return dot(torch.ones_like(rows[:, 0]), rows[:, 0].contiguous()).view(factor.shape)
    return column_sums(rows).view(factor.shape)


class _Plus(Function):
    """x + bias, with the bias's gradient added up as Caffe does it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, axis: int) -> Tensor:
        ctx.axis, ctx.like = axis, bias
        return x + spread(bias, axis, x.dim())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        if not ctx.needs_input_grad[1]:
            return grads[0], None, None
        if torch.is_grad_enabled():
            wide = spread(ctx.like, ctx.axis, grads[0].dim()).shape
            return grads[0], grads[0].sum_to_size(wide).reshape(ctx.like.shape), None
        outer, count, inner = _planes(grads[0], ctx.axis, ctx.like)
        items = grads[0].reshape(outer, count, inner)
        total = row_sums(items[0])
        for item in items[1:]:
            total = total + row_sums(item)
        return grads[0], total.view(ctx.like.shape), None


def _apart(x: Tensor, operand: Tensor) -> bool:
    """Whether the operand's gradient is computed with Caffe's digits."""
    return operand.requires_grad and torch.is_grad_enabled() and is_exact(x) and x.numel() > 0


def scale(layer: Scale, x: Tensor, factor: Tensor | None = None) -> Tensor:
    """(any shape) -> the same shape; without `factor` that is blob 0."""
    factor = layer.blobs[0] if factor is None else factor
    if is_exact(x):
        y = _times(x, factor, layer.start)
        return _plus(y, layer.blobs[len(layer.blobs) - 1], layer.start) if layer.has_bias else y
    factor = spread(factor, layer.start, x.dim())
    if not layer.has_bias:
        return x * factor
    bias = spread(layer.blobs[len(layer.blobs) - 1], layer.start, x.dim())
    return torch.addcmul(bias, x, factor)


def _times(x: Tensor, factor: Tensor, axis: int) -> Tensor:
    if _apart(x, factor):
        return _Times.apply(x, factor, axis)  # type: ignore[no-any-return,no-untyped-call]
    return x * spread(factor, axis, x.dim())


def _plus(x: Tensor, bias: Tensor, axis: int) -> Tensor:
    if _apart(x, bias):
        return _Plus.apply(x, bias, axis)  # type: ignore[no-any-return,no-untyped-call]
    return x + spread(bias, axis, x.dim())


def bias(layer: Bias, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """(any shape) -> the same shape; without `bias` that is blob 0."""
    return _plus(x, layer.blobs[0] if bias is None else bias, layer.start)


def axpy(layer: Axpy, a: Tensor, x: Tensor, b: Tensor) -> Tensor:
    """(N, C[, 1, 1]), (N, C, ...), (N, C, ...) -> the shape of x and b."""
    return torch.addcmul(b, a.reshape(*x.shape[:2], *[1] * (x.dim() - 2)), x)
