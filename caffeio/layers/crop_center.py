"""CropCenter: the middle of a map.

Source: crop_center_layer.cpp (waifu2x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("CropCenter")
class CropCenter(LayerType):
    """Cuts crop_size[i] off both ends of axis i (waifu2x)."""

    in_place = False
    fields = owns(crop_center_param=None)
    compute = "caffeio.ops.crop_center:crop_center"

    def setup(self, *shapes: Shape) -> None:
        """Check that there is a size for each axis and that something is left."""
        self.sizes = tuple(self.param.crop_center_param.crop_size)
        field = "crop_center_param.crop_size"
        self.check(
            len(self.sizes) == len(shapes[0]),
            f"one size for each of {len(shapes[0])} axes is wanted, not {len(self.sizes)}",
            field=field,
        )
        self.check(
            all(2 * size < dim for size, dim in zip(self.sizes, shapes[0], strict=True)),
            f"nothing is left of a bottom of {caffe_shape(shapes[0])}",
            field=field,
        )

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Take twice the size off each axis."""
        return (tuple(n - 2 * size for n, size in zip(shape, self.sizes, strict=True)),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Slice."""
        axes = [axis for axis, size in enumerate(self.sizes) if size]
        if not axes:
            return bottoms[0]
        starts = g.ints([self.sizes[a] for a in axes], "starts")
        ends = g.ints([-self.sizes[a] for a in axes], "ends")
        return str(g.op("Slice", [bottoms[0], starts, ends, g.ints(axes, "axes")]))
