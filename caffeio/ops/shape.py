"""Rename or move the numbers of one blob.

Sources: src/caffe/layers/{flatten,reshape,crop,tile}_layer.cpp (BVLC; Intel's reshape_layer.cpp
for pixelshuffler), permute_layer.cpp (SSD).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor, cat
from torch.autograd import Function
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


class _Split(Function):
    """Names of one blob, whose gradients are added from the first to the last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for _ in range(count))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0]
        for grad in grads[1:]:
            total = total + grad
        return total, None


def split_in_order(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """`count` names of `x`, whose gradients autograd would add from the last reader on."""
    return _Split.apply(x, count)  # type: ignore[no-any-return,no-untyped-call]
