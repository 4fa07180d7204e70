"""ROIPooling and PSROIPooling: maps of one size from regions of any size.

Sources: src/caffe/layers/roi_pooling_layer.cpp (Fast R-CNN; Intel's with three axes),
psroi_pooling_layer.cpp (R-FCN).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


class RegionLayer(LayerType):
    """Bottoms: a map (N, C, H, W), regions (R, 5): image, x1, y1, x2, y2 in pixels."""

    bottoms = exactly(2)
    in_place = False

    def check_regions(self, shapes: tuple[Shape, ...], axes: int) -> None:
        """Check the rows of the regions, (R, 1 + 2 x axes), perhaps with further axes of 1."""
        shape = shapes[1]
        self.check(
            len(shape) > 1 and prod(shape[1:]) == 1 + 2 * axes,
            f"regions are rows of {1 + 2 * axes} numbers, not {caffe_shape(shape)}",
        )


@layer("ROIPooling")
class ROIPooling(RegionLayer):
    """The maxima of pooled_h x pooled_w bins of each region.

    Corners are rounded to cells after multiplication with spatial_scale and both belong to the
    region; bins overlap where they do not divide it; bins outside the map are 0. With maps
    (N, C, D, H, W) regions are (image, d1, x1, y1, d2, x2, y2), pooled_size gives the bins.
    """

    family = "pool"
    fields = owns(roi_pooling_param=None)
    compute = "caffeio.ops.rcnn.roi_pooling:roi_pooling"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Read the number of bins."""
        p, axes = self.param.roi_pooling_param, len(shapes[0]) - 2
        self.check(axes in (2, 3), f"needs a map (N, C, H, W), not {caffe_shape(shapes[0])}")
        sizes = list(p.pooled_size) or ([p.pooled_h, p.pooled_w] if axes == 2 else [])
        sizes = sizes * axes if len(sizes) == 1 else sizes
        self.check(
            len(sizes) == axes and min(sizes) > 0, "give the number of bins, once or for each axis",
            field="roi_pooling_param.pooled_h",
        )  # fmt: skip
        self.pooled: tuple[int, ...] = tuple(sizes)
        self.scale: float = p.spatial_scale
        self.check_regions(shapes, axes)

    def shapes(self, x: Shape, rois: Shape) -> tuple[Shape, ...]:
        """Give (R, C, bins)."""
        return ((rois[0], x[1], *self.pooled),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write MaxRoiPool."""
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

    family = "pool"
    fields = owns(psroi_pooling_param=None)
    compute = "caffeio.ops.rcnn.roi_pooling:psroi_pooling"
    pure = True

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
            f"needs a map of {wanted} channels, not {caffe_shape(shapes[0])}",
        )
        self.check_regions(shapes, 2)

    def shapes(self, x: Shape, rois: Shape) -> tuple[Shape, ...]:
        """Give (R, output_dim, G, G)."""
        return ((rois[0], self.dim, self.group, self.group),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write products with matrices that the regions give."""
        from caffeio.layers.onnx.regions import onnx_psroi

        return onnx_psroi(self, g, *bottoms)
