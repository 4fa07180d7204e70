"""Products and sums with a blob of fewer axes.

Sources: src/caffe/layers/scale_layer.cpp, bias_layer.cpp; axpy_layer.cpp of SENet's Caffe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.scale import Axpy, Bias, Scale


def spread(blob: Tensor, axis: int, ndim: int) -> Tensor:
    """View `blob` so that it broadcasts against `ndim` axes, its first at `axis`."""
    return blob.view(*blob.shape, *[1] * (ndim - axis - blob.dim()))


def scale(layer: Scale, x: Tensor, factor: Tensor | None = None) -> Tensor:
    """(any shape) -> the same shape; without `factor` that is blob 0."""
    factor = spread(layer.blobs[0] if factor is None else factor, layer.start, x.dim())
    if not layer.has_bias:
        return x * factor
    bias = spread(layer.blobs[len(layer.blobs) - 1], layer.start, x.dim())
    return torch.addcmul(bias, x, factor)


def bias(layer: Bias, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """(any shape) -> the same shape; without `bias` that is blob 0."""
    return x + spread(layer.blobs[0] if bias is None else bias, layer.start, x.dim())


def axpy(layer: Axpy, a: Tensor, x: Tensor, b: Tensor) -> Tensor:
    """(N, C[, 1, 1]), (N, C, ...), (N, C, ...) -> the shape of x and b."""
    return torch.addcmul(b, a.reshape(*x.shape[:2], *[1] * (x.dim() - 2)), x)
