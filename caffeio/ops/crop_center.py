"""CropCenter: the middle of a map.

Source: crop_center_layer.cpp (waifu2x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.crop_center import CropCenter


def crop_center(layer: CropCenter, *bottoms: Tensor) -> Tensor:
    """Return the middle of the bottom (a view)."""
    x = bottoms[0]
    for axis, size in enumerate(layer.sizes):
        if size:
            x = x.narrow(axis, size, x.shape[axis] - 2 * size)
    return x
