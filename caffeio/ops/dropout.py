"""Dropout and SpatialDropout; where the net has a seed, with the masks of real Caffe.

Sources: src/caffe/layers/dropout_layer.cpp, spatial_dropout_layer.cpp of Intel Caffe; Srivastava et
al. 2014.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.boost_random import CaffeRng
    from caffeio.layers.base import Shape
    from caffeio.layers.dropout import Dropout, SpatialDropout
    from caffeio.layers.python.dropout import SpatialDropoutLayer


def caffe_mask(ratio: float, rng: CaffeRng, like: Tensor, shape: Shape) -> Tensor:
    """0 with probability `ratio`, else 1 / (1 - ratio): a tensor of `shape`, drawn by `rng`."""
    keep = torch.from_numpy(rng.bernoulli(1.0 - ratio, math.prod(shape)))
    return keep.view(shape).to(like) * (1 / (1 - ratio))


def dropout(layer: Dropout, x: Tensor) -> Tensor:
    """(any shape) -> the same shape."""
    if layer.rng is not None and layer.drops and not x.is_meta:
        y = x * caffe_mask(layer.ratio, layer.rng, x, tuple(x.shape))
    else:
        y = F.dropout(x, layer.ratio, layer.drops)
    return y if layer.factor == 1 else y * layer.factor


def spatial_dropout(layer: SpatialDropout, x: Tensor) -> Tensor:
    """(N, C, ...) -> the same shape."""
    if layer.rng is not None and layer.train_phase and not x.is_meta:
        planes = (*x.shape[:2], *[1] * (x.dim() - 2))
        return x * caffe_mask(layer.ratio, layer.rng, x, planes)
    return torch.feature_dropout(x, layer.ratio, layer.train_phase)


def whole_planes(layer: SpatialDropoutLayer, x: Tensor) -> Tensor:
    """(N, C, ...) -> the same shape."""
    factor = 1 / (1 - layer.ratio)
    if not layer.drops:
        return x * factor
    planes = x.new_empty(*x.shape[:2], *[1] * (x.dim() - 2)).bernoulli_(1 - layer.ratio)
    return x * (planes * factor)
