"""Layers that work along axes: Softmax, ArgMax, Reduction.

Sources: src/caffe/layers/softmax_layer.cpp, argmax_layer.cpp, reduction_layer.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.reduction import ArgMax, Reduction, Softmax


def softmax(layer: Softmax, x: Tensor) -> Tensor:
    """(any shape) -> the same shape."""
    return torch.softmax(x, layer.dim)


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
    y = flat.sum(-1)
    return y if coeff == 1 else y * coeff


def arg_max(layer: ArgMax, x: Tensor) -> Tensor:
    """See the class."""
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
