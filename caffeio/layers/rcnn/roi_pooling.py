"""ROIPooling and PSROIPooling: maps of one size from regions of any size.

Sources: src/caffe/layers/roi_pooling_layer.cpp (Fast R-CNN; Intel's with three axes),
psroi_pooling_layer.cpp (R-FCN).
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.layers.base import Layer, Shape, exactly, layer
from caffeio.layers.labels import text
from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.layers.rcnn.pyramid import max_of_boxes


def round_away(x: Tensor) -> Tensor:
    """C's round: halves away from zero; float64, so that nothing is lost on the way."""
    wide = x.double()
    return wide.sign() * (wide.abs() + 0.5).floor()


def image_of(owner: Layer, rois: Tensor, num: int) -> Tensor:
    """The image of every region, int64; DataError on the CPU unless it is one of `num`."""
    image = rois[:, 0].long()
    inside = image.clamp(0, max(num - 1, 0))
    if image.device.type == "cpu" and bool((inside != image).any()):
        place = int((inside != image).nonzero()[0])
        raise DataError(
            f"layer {owner.name!r} (type {owner.kind}): region {place} is of image "
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


class RegionLayer(Layer):
    """Bottoms: a map (N, C, H, W), regions (R, 5): image, x1, y1, x2, y2 in pixels."""

    bottoms = exactly(2)
    in_place = False

    def check_regions(self, shapes: tuple[Shape, ...], axes: int) -> None:
        """Check the rows of the regions, (R, 1 + 2 x axes), perhaps with further axes of 1."""
        shape = shapes[1]
        count = torch.Size(shape[1:]).numel()
        self.check(
            len(shape) > 1 and count == 1 + 2 * axes,
            f"regions are rows of {1 + 2 * axes} numbers, not {text(shape)}",
        )


@layer("ROIPooling")
class ROIPooling(RegionLayer):
    """The maxima of pooled_h x pooled_w bins of each region.

    Corners are rounded to cells after multiplication with spatial_scale and both belong to the
    region; bins overlap where they do not divide it; bins outside the map are 0. With maps
    (N, C, D, H, W) regions are (image, d1, x1, y1, d2, x2, y2), pooled_size gives the bins.
    """

    def setup(self, *shapes: Shape) -> None:
        """Read the number of bins."""
        p, axes = self.param.roi_pooling_param, len(shapes[0]) - 2
        self.check(axes in (2, 3), f"needs a map (N, C, H, W), not {text(shapes[0])}")
        sizes = list(p.pooled_size) or ([p.pooled_h, p.pooled_w] if axes == 2 else [])
        sizes = sizes * axes if len(sizes) == 1 else sizes
        self.check(
            len(sizes) == axes and min(sizes) > 0, "give the number of bins, once or for each axis",
            field="roi_pooling_param.pooled_h",
        )  # fmt: skip
        self.pooled: tuple[int, ...] = tuple(sizes)
        self.scale: float = p.spatial_scale
        self.check_regions(shapes, axes)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the maxima, (R, C, bins)."""
        x, rois = bottoms
        axes = len(self.pooled)
        if x.is_meta:
            return x.new_empty(len(rois), x.shape[1], *self.pooled)
        rois = rois.detach().reshape(-1, 1 + 2 * axes)
        corners = round_away(rois[:, 1:] * self.scale).long()
        # d, y, x of the map are columns 0, 2, 1 of a corner; without d they are 1, 0
        order = (1, 0) if axes == 2 else (0, 2, 1)
        first, last = [], []
        for axis, column in enumerate(order):
            start, end = corners[:, column], corners[:, column + axes]
            extent = (end - start + 1).clamp(min=1).float() / self.pooled[axis]
            low, high = bins(start, extent, self.pooled[axis], x.shape[2 + axis])
            first.append(low)
            last.append(high)
        image = image_of(self, rois, len(x))
        return max_of_boxes(x, image, first, last)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """MaxRoiPool."""
        if len(self.pooled) != 2:
            raise g.unsupported("MaxRoiPool has two spatial axes")
        rois = g.reshape(bottoms[1], -1, 5)
        scale = self.scale
        return str(
            g.op("MaxRoiPool", [bottoms[0], rois], pooled_shape=self.pooled, spatial_scale=scale)
        )


@layer("PSROIPooling")
class PSROIPooling(RegionLayer):
    """The means of group_size x group_size bins of each region, each bin of channels of its own.

    Channel (c G + i) G + j of the map belongs to bin (i, j) of channel c of the top. A region
    begins at round(x1) spatial_scale and ends at (round(x2) + 1) spatial_scale; it is at least 0.1
    wide; bins outside the map are 0.
    """

    def setup(self, *shapes: Shape) -> None:
        """Check the channels."""
        p = self.param.psroi_pooling_param
        self.dim, self.group, self.scale = p.output_dim, p.group_size, p.spatial_scale
        field = "psroi_pooling_param"
        self.check(p.HasField("spatial_scale"), "must be set", field=f"{field}.spatial_scale")
        self.check(self.dim > 0, "must be positive", field=f"{field}.output_dim")
        self.check(self.group > 0, "must be positive", field=f"{field}.group_size")
        wanted = self.dim * self.group**2
        self.check(
            len(shapes[0]) == 4 and shapes[0][1] == wanted,
            f"needs a map of {wanted} channels, not {text(shapes[0])}",
        )
        self.check_regions(shapes, 2)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the means, (R, output_dim, G, G)."""
        x, rois = bottoms
        rois = rois.detach().reshape(-1, 5)
        if x.is_meta:
            return x.new_empty(len(rois), self.dim, self.group, self.group)
        weights = [self._weights(rois, axis, x.shape[2 + axis]) for axis in (0, 1)]
        maps = x.view(len(x), self.dim, self.group, self.group, *x.shape[2:])
        if len(x) == 1:
            image_of(self, rois, 1)
            return self._means(maps[0], *weights)
        image = image_of(self, rois, len(x))
        top = x.new_zeros(len(rois), self.dim, self.group, self.group)
        for i in range(len(x)):
            mine = (image == i).nonzero().flatten()
            part = self._means(maps[i], weights[0][mine], weights[1][mine])
            top = top.index_copy(0, mine, part)
        return top

    def _weights(self, rois: Tensor, axis: int, size: int) -> Tensor:
        """What each cell of an axis counts in each bin, (R, G, size): 1 / cells, or 0."""
        column = 2 - axis
        low = round_away(rois[:, column]).float() * self.scale
        high = (round_away(rois[:, column + 2]).float() + 1) * self.scale
        width = (high - low).clamp(min=0.1) / self.group
        first, last = bins(low, width, self.group, size)
        cell = torch.arange(size, device=rois.device)
        inside = (cell >= first.unsqueeze(-1)) & (cell < last.unsqueeze(-1))
        return inside / (last - first).clamp(min=1).unsqueeze(-1)

    @staticmethod
    def _means(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """maps (D, G, G, H, W), rows (R, G, H), columns (R, G, W) -> (R, D, G, G)."""
        across = torch.einsum("dijhw,rjw->rdijh", maps, columns)
        return torch.einsum("rdijh,rih->rdij", across, rows)
