"""Upsample and Interp: maps of another size.

Sources: upsample_layer.cpp (caffe-segnet with a pooling mask; the YOLO forks without),
interp_layer.cpp and util/interp.cpp (DeepLab, PSPNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from caffeio.errors import DataError

if TYPE_CHECKING:
    from caffeio.layers.resample import Interp, Upsample


def upsample(layer: Upsample, *bottoms: Tensor) -> Tensor:
    """Return the enlarged maps."""
    x = bottoms[0]
    if not layer.masked:
        return x.repeat_interleave(layer.scales[0], 2).repeat_interleave(layer.scales[1], 3)
    height, width = layer.top_size(x.shape[2], x.shape[3])
    places = bottoms[1].detach().long().flatten(2)
    x, places = _check_places(layer, x.flatten(2), places, height * width)
    top = x.new_zeros(*x.shape[:2], height * width).scatter(2, places, x)
    return top.view(*x.shape[:2], height, width)


def _check_places(layer: Upsample, x: Tensor, places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    inside = places.clamp(0, size - 1)
    wrong = inside != places
    if places.device.type != "cpu" or torch.compiler.is_compiling():
        return x.masked_fill(wrong, torch.nan), inside
    if bool(wrong.any()):
        place = int(places[wrong][0])
        raise DataError(
            f"layer {layer.name!r} (type {layer.type_name}): the mask's place {place} is outside "
            f"the top of {size} places: do the sizes fit the pooling layer's bottom?",
            where=layer.context.where or None,
        )
    return x, places


def interp(layer: Interp, *bottoms: Tensor) -> Tensor:
    """Return the resized maps."""
    x = bottoms[0]
    size = layer.top_size(x.shape[2], x.shape[3])
    if any(layer.pads):
        begin, end = -layer.pads[0], -layer.pads[1]
        x = x[:, :, begin : x.shape[2] - end, begin : x.shape[3] - end]
    if tuple(x.shape[2:]) == size:
        return x
    return interpolate(x, size, mode="bilinear", align_corners=True)
