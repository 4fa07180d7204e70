"""Layers that work along axes: Softmax, ArgMax, Reduction.

Sources: src/caffe/layers/softmax_layer.cpp, argmax_layer.cpp, reduction_layer.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from caffeio.ops import backward, blas, digits
from caffeio.ops.digits import is_exact
from caffeio.ops.exact import exactly

if TYPE_CHECKING:
    from caffeio.layers.reduction import ArgMax, Reduction, Softmax


def softmax(layer: Softmax, x: Tensor) -> Tensor:
    """(any shape) -> the same shape."""
    if is_exact(x) and x.numel():
        return exactly(layer, (x,), _softmax_exactly, _softmax, backward.Softmax)
    return _softmax(layer, x)


def _softmax(layer: Softmax, x: Tensor) -> Tensor:
    return torch.softmax(x, layer.dim)


def _softmax_exactly(layer: Softmax, x: Tensor) -> Tensor:
    return softmax_exactly(x.detach(), layer.dim)


def softmax_exactly(x: Tensor, dim: int) -> Tensor:
    """Softmax along `dim` of a small blob without a graph, as Caffe computes it."""
    y = digits.exp(x - x.amax(dim, keepdim=True))
    return y.div_(blas.sums(y, dim))


def reduction(layer: Reduction, x: Tensor) -> Tensor:
    """(outer, ...) -> (outer); a scalar for axis 0."""
    flat = x.flatten(layer.start)
    coeff = layer.coeff
    if layer.operation == "ASUM":
        flat = flat.abs()
    elif layer.operation == "SUMSQ":
        flat = flat.square()
    elif layer.operation == "MEAN":
        coeff = coeff / flat.shape[-1] if flat.shape[-1] else math.inf  # nothing has no mean
    if not is_exact(x) or not flat.shape[-1]:
        y = flat.sum(-1)
    else:
        y = _sums(layer, flat, x.detach().flatten(layer.start))
    return y if coeff == 1 else y * coeff


class _Sums(Function):
    """Sums of the last axis, as scalar products of two `factors`."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        ctx.size = flat.shape[-1]
        return blas.dots(*factors, flat.dim() - 1)[..., 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].unsqueeze(-1).expand(*grads[0].shape, ctx.size), None


def _sums(layer: Reduction, flat: Tensor, x: Tensor) -> Tensor:
    pair = (x, x) if layer.operation == "SUMSQ" else (flat.detach(), torch.ones_like(flat))
    return _Sums.apply(flat, pair)  # type: ignore[no-any-return,no-untyped-call]


def arg_max(layer: ArgMax, x: Tensor) -> Tensor:
    """Return indices or values of the largest, as the class says."""
    x = x.detach()
    if layer.dim is not None:
        values, indices = _largest(layer, x, layer.dim)
        return values if layer.out_max_val else indices
    values, indices = _largest(layer, x.reshape(x.shape[0], -1), 1)
    rows = torch.stack((indices, values) if layer.out_max_val else (indices,), 1)
    return rows.view(*rows.shape, *[1] * (x.dim() - 3))


def _largest(layer: ArgMax, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    last = x.shape[dim] - 1
    mirrored = x.flip(dim)  # so that the last of equal values is found first
    if layer.top_k == 1:
        index = mirrored.argmax(dim, keepdim=True)
        values = mirrored.gather(dim, index)
    else:
        values, index = mirrored.sort(dim=dim, descending=True, stable=True)
        values, index = (t.narrow(dim, 0, layer.top_k) for t in (values, index))
    return values, (last - index).to(x.dtype)
