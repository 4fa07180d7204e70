"""Join, cut, repeat and drop blobs.

Sources: src/caffe/layers/{concat,slice,split,silence}_layer.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.concat import Concat, Silence, Slice, Split


def concat(layer: Concat, *bottoms: Tensor) -> Tensor:
    """Join the bottoms along the axis."""
    return bottoms[0] if len(bottoms) == 1 else torch.cat(bottoms, layer.concat_axis)


def cut(layer: Slice, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the parts (views of the bottom)."""
    if layer.parts == 1:
        return x
    return torch.split(x, layer.sizes(tuple(x.shape)), layer.slice_axis)


def split(layer: Split, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return the bottom, once for each top."""
    return bottoms * layer.n_tops


def silence(layer: Silence, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return nothing."""
    return ()
