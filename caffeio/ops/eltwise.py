"""Sum, product or maximum of bottoms of the same shape.

Source: src/caffe/layers/eltwise_layer.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from caffeio.ops.tracing import apply

if TYPE_CHECKING:
    from caffeio.layers.eltwise import Eltwise


def product(bottoms: tuple[Tensor, ...]) -> Tensor:
    """Product of all bottoms, from the first on."""
    y = bottoms[0] * bottoms[1]
    for x in bottoms[2:]:
        y = y * x
    return y


class _UnstableProduct(Function):
    """The product, whose gradient is top / bottom: nan where a bottom is 0."""

    @staticmethod
    def forward(ctx: Any, *bottoms: Tensor) -> Tensor:
        y = product(bottoms)
        ctx.save_for_backward(y, *bottoms)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        y, *bottoms = ctx.saved_tensors
        return tuple(grad * (y / x) for x in bottoms)


def eltwise(layer: Eltwise, *bottoms: Tensor) -> Tensor:
    """(any shape), n times -> the same shape."""
    if layer.loses_first:
        lost = 0.0 if layer.operation == "SUM" else torch.finfo(torch.float32).min
        bottoms = (torch.full_like(bottoms[0], lost, requires_grad=False), *bottoms[1:])
    if layer.operation == "SUM":
        return _sum(layer, bottoms)
    if layer.operation == "PROD":
        if layer.stable:
            return product(bottoms)
        return apply(_UnstableProduct, *bottoms)  # type: ignore[no-any-return]
    y = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
    for x in bottoms[2:]:
        y = torch.where(x > y, x, y)
    return y


def _sum(layer: Eltwise, bottoms: tuple[Tensor, ...]) -> Tensor:
    first = layer.coeff[0]
    y = bottoms[0] if first == 1 else bottoms[0] * first
    for x, coeff in zip(bottoms[1:], layer.coeff[1:], strict=True):
        y = torch.add(y, x, alpha=coeff)
    return y
