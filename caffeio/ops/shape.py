"""Rename or move the numbers of one blob.

Sources: src/caffe/layers/{flatten,reshape,crop,tile}_layer.cpp (BVLC; Intel's reshape_layer.cpp
for pixelshuffler), permute_layer.cpp (SSD).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from torch import Tensor, cat
from torch.nn.functional import pixel_shuffle

if TYPE_CHECKING:
    from caffeio.layers.shape import Crop, Flatten, Permute, Reshape, Tile


def flatten(layer: Flatten, x: Tensor) -> Tensor:
    """Return the bottom in its new shape."""
    shape = x.shape
    middle = prod(shape[layer.start : layer.end])
    return x.reshape(*shape[: layer.start], middle, *shape[layer.end :])


def reshape(layer: Reshape, x: Tensor) -> Tensor:
    """Return the bottom in its new shape."""
    if layer.shuffle != 1:
        return pixel_shuffle(x, layer.shuffle)
    return x.reshape(layer.top_shape(tuple(x.shape)))


def crop(layer: Crop, x: Tensor, reference: Tensor) -> Tensor:
    """Return the part of the first bottom (a view)."""
    layer.check_sizes(tuple(x.shape), tuple(reference.shape))
    for axis, offset in enumerate(layer.offsets, layer.start):
        x = x.narrow(axis, offset, reference.shape[axis])
    return x


def tile(layer: Tile, x: Tensor) -> Tensor:
    """Return the repeated blob."""
    return x if layer.tiles == 1 else cat([x] * layer.tiles, layer.tile_axis)


def permute(layer: Permute, x: Tensor) -> Tensor:
    """Return the bottom with its axes in the new order (a view)."""
    return x.permute(layer.order)
