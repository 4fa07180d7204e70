"""ROIPooling and PSROIPooling: maps of one size from regions of any size.

Sources: src/caffe/layers/roi_pooling_layer.cpp (Fast R-CNN; Intel's with three axes),
psroi_pooling_layer.cpp (R-FCN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.ops.rcnn.pyramid import max_of_boxes

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType
    from caffeio.layers.rcnn.roi_pooling import PSROIPooling, ROIPooling


def round_away(x: Tensor) -> Tensor:
    """C's round: halves away from zero; float64, so that nothing is lost on the way."""
    wide = x.double()
    return wide.sign() * (wide.abs() + 0.5).floor()


def image_of(owner: LayerType, rois: Tensor, num: int) -> Tensor:
    """The image of every region, int64; DataError on the CPU unless it is one of `num`."""
    image = rois[:, 0].long()
    inside = image.clamp(0, max(num - 1, 0))
    if image.device.type == "cpu" and bool((inside != image).any()):
        place = int((inside != image).nonzero()[0])
        raise DataError(
            f"layer {owner.name!r} (type {owner.type_name}): region {place} is of image "
            f"{int(image[place])}, the batch has {num}",
            where=owner.context.where or None,
        )
    return inside


def bins(start: Tensor, width: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """First and last + 1 of `count` bins (R, count), cut to 0..size.

    A region's bins have `width` (float32, (R,)) and begin at `start`; they may overlap.
    """
    place = torch.arange(count, device=start.device, dtype=torch.float32)
    width = width.unsqueeze(1)
    if start.dtype == torch.float32:  # PSROIPooling adds the start before it rounds
        first = (place * width + start.unsqueeze(1)).floor()
        last = ((place + 1) * width + start.unsqueeze(1)).ceil()
    else:
        first = (place * width).floor() + start.unsqueeze(1)
        last = ((place + 1) * width).ceil() + start.unsqueeze(1)
    return first.long().clamp(0, size), last.long().clamp(0, size)


def roi_pooling(layer: ROIPooling, *bottoms: Tensor) -> Tensor:
    """Return the maxima, (R, C, bins)."""
    x, rois = bottoms
    axes = len(layer.pooled)
    if x.is_meta:
        return x.new_empty(len(rois), x.shape[1], *layer.pooled)
    rois = rois.detach().reshape(-1, 1 + 2 * axes)
    corners = round_away(rois[:, 1:] * layer.scale).long()
    # d, y, x of the map are columns 0, 2, 1 of a corner; without d they are 1, 0
    order = (1, 0) if axes == 2 else (0, 2, 1)
    first, last = [], []
    for axis, column in enumerate(order):
        start, end = corners[:, column], corners[:, column + axes]
        extent = (end - start + 1).clamp(min=1).float() / layer.pooled[axis]
        low, high = bins(start, extent, layer.pooled[axis], x.shape[2 + axis])
        first.append(low)
        last.append(high)
    image = image_of(layer, rois, len(x))
    return max_of_boxes(x, image, first, last)


def psroi_pooling(layer: PSROIPooling, *bottoms: Tensor) -> Tensor:
    """Return the means, (R, output_dim, G, G)."""
    x, rois = bottoms
    rois = rois.detach().reshape(-1, 5)
    if x.is_meta:
        return x.new_empty(len(rois), layer.dim, layer.group, layer.group)
    weights = [_weights(layer, rois, axis, x.shape[2 + axis]) for axis in (0, 1)]
    maps = x.view(len(x), layer.dim, layer.group, layer.group, *x.shape[2:])
    if len(x) == 1:
        image_of(layer, rois, 1)
        return _means(maps[0], *weights)
    image = image_of(layer, rois, len(x))
    top = x.new_zeros(len(rois), layer.dim, layer.group, layer.group)
    for i in range(len(x)):
        mine = (image == i).nonzero().flatten()
        part = _means(maps[i], weights[0][mine], weights[1][mine])
        top = top.index_copy(0, mine, part)
    return top


def _weights(layer: PSROIPooling, rois: Tensor, axis: int, size: int) -> Tensor:
    """What each cell of an axis counts in each bin, (R, G, size): 1 / cells, or 0."""
    column = 2 - axis
    low = round_away(rois[:, column]).float() * layer.scale
    high = (round_away(rois[:, column + 2]).float() + 1) * layer.scale
    width = (high - low).clamp(min=0.1) / layer.group
    first, last = bins(low, width, layer.group, size)
    cell = torch.arange(size, device=rois.device)
    inside = (cell >= first.unsqueeze(-1)) & (cell < last.unsqueeze(-1))
    return inside / (last - first).clamp(min=1).unsqueeze(-1)


def _means(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """maps (D, G, G, H, W), rows (R, G, H), columns (R, G, W) -> (R, D, G, G)."""
    across = torch.einsum("dijhw,rjw->rdijh", maps, columns)
    return torch.einsum("rdijh,rih->rdij", across, rows)
