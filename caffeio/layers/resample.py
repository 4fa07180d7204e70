"""Upsample and Interp: maps of another size.

Sources: upsample_layer.cpp (caffe-segnet with a pooling mask; the YOLO forks without),
interp_layer.cpp and util/interp.cpp (DeepLab, PSPNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import Shape, between, owns
from caffeio.layers.map_layer import MapLayer
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("Upsample")
class Upsample(MapLayer):
    """Enlarges feature maps.

    Two bottoms (SegNet): puts every value where the mask of a MAX pooling layer, the second bottom,
    says, among zeros; the size is upsample_h x upsample_w, or `scale` (2), or scale_h and scale_w,
    one less with pad_out_h, pad_out_w. If places repeat, the last value stays and each gets the
    gradient. A place outside the top is a DataError on the CPU; elsewhere its map holds a nan.
    One bottom (YOLO forks): repeats every value `scale` times along both axes.
    """

    family = "pool"
    bottoms = between(1, 2)
    label_bottoms = frozenset({1})
    fields = owns(upsample_param=None)
    compute = "caffeio.ops.resample:upsample"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Read the size, which is fixed when upsample_h and upsample_w are given."""
        super().setup(*shapes)
        param = self.param.upsample_param
        self.masked = len(shapes) == 2
        self.size = (param.upsample_h, param.upsample_w)
        fixed = param.HasField("upsample_h") and param.HasField("upsample_w")
        scale = param.scale if param.HasField("scale") else (2.0 if self.masked else 1.0)
        pair = param.HasField("scale_h") and param.HasField("scale_w")
        self.scales = (param.scale_h, param.scale_w) if pair else (int(scale), int(scale))
        self.pads = (int(param.pad_out_h), int(param.pad_out_w))
        self.fixed: bool = fixed
        self.check(
            fixed or pair or scale == int(scale),
            f"must be a whole number, not {scale:g}",
            field="upsample_param.scale",
        )
        self.check(min(self.scales) >= 1 or fixed, "must be positive", field="upsample_param.scale")
        self.check(
            self.masked or not (fixed or any(self.pads)),
            "a size without a scale needs the pooling mask as second bottom",
            field="upsample_param",
        )
        if self.masked:
            self.check(
                shapes[0] == shapes[1],
                f"bottom and mask must have the same shape: {caffe_shape(shapes[0])} and "
                f"{caffe_shape(shapes[1])}",
            )

    def top_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the top for those of the bottom."""
        if self.fixed:
            return self.size
        pads = self.pads if self.masked else (0, 0)
        return height * self.scales[0] - pads[0], width * self.scales[1] - pads[1]

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give the maps their new size."""
        return ((*bottoms[0][:2], *self.top_size(*bottoms[0][2:])),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Resize (nearest); with a mask ScatterElements into zeros."""
        if not self.masked:
            scales = g.const((1.0, 1.0, *map(float, self.scales)), "scales")
            return str(
                g.op(
                    "Resize", [bottoms[0], "", scales], mode="nearest", nearest_mode="floor",
                    coordinate_transformation_mode="asymmetric",
                )
            )  # fmt: skip
        if g.dynamic_size:
            return self._onnx_any_size(g, *bottoms)
        (_, c, h, w), (height, width) = self.bottom_shapes[0], self.top_shapes[0][2:]
        maps = g.op("Shape", [bottoms[0]], start=0, end=2)
        zeros = g.zeros(g.op("Concat", [maps, g.ints((height * width,))], axis=0))
        places = g.reshape(g.to_int(bottoms[1]), 0, c, h * w)
        values = g.reshape(bottoms[0], 0, c, h * w)
        top = g.op("ScatterElements", [zeros, places, values], axis=2)
        return g.reshape(top, 0, c, height, width)

    def _onnx_any_size(self, g: OnnxGraph, x: str, mask: str) -> str:
        """The same with sizes that the model computes."""
        if self.fixed:
            raise g.unsupported("upsample_h and upsample_w fix the size")
        channels = self.bottom_shapes[0][1]
        maps = g.op("Shape", [x], start=0, end=2)
        sides = g.op("Mul", [g.op("Shape", [x], start=2), g.ints(self.scales, "scales")])
        if any(self.pads):
            sides = g.op("Sub", [sides, g.ints(self.pads, "pads")])
        height, width = g.op("Split", [sides, g.ints((1, 1), "sizes")], outputs=2, axis=0)
        flat = g.op("Concat", [maps, g.op("Mul", [height, width])], axis=0)
        places, values = (g.reshape(v, 0, channels, -1) for v in (g.to_int(mask), x))
        top = g.op("ScatterElements", [g.zeros(flat), places, values], axis=2)
        return str(g.op("Reshape", [top, g.op("Concat", [maps, sides], axis=0)]))


@layer("Interp")
class Interp(MapLayer):
    """Bilinear resize whose corners stay in place, after cropping -pad_beg and -pad_end pixels.

    The size is height x width, or shrunk by shrink_factor: (H - 1) // f + 1, or enlarged by
    zoom_factor: H + (H - 1) (f - 1), or both, first shrunk (PSPNet).
    """

    family = "pool"
    fields = owns(interp_param=None)
    compute = "caffeio.ops.resample:interp"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check that the size is given in one way."""
        super().setup(*shapes)
        param = self.param.interp_param
        self.shrink = param.shrink_factor if param.HasField("shrink_factor") else None
        self.zoom = param.zoom_factor if param.HasField("zoom_factor") else None
        explicit = param.HasField("height") and param.HasField("width")
        self.fixed = (param.height, param.width) if explicit else None
        factors = self.shrink is not None or self.zoom is not None
        self.check(
            factors != explicit,
            "give either height and width, or zoom_factor and shrink_factor",
            field="interp_param",
        )
        for field, factor in (("shrink_factor", self.shrink), ("zoom_factor", self.zoom)):
            self.check(factor is None or factor >= 1, "must be 1 or more", field=field)
        self.pads = (param.pad_beg, param.pad_end)
        for field, pad in zip(("pad_beg", "pad_end"), self.pads, strict=True):
            self.check(pad <= 0, "can only crop: 0 or less", field=f"interp_param.{field}")
        sizes = self.top_size(shapes[0][2], shapes[0][3])
        self.check(
            min(sizes) > 0 and min(shapes[0][2:]) + sum(self.pads) > 0,
            f"nothing is left of a bottom of {caffe_shape(shapes[0])}",
            field="interp_param",
        )

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Give the maps their new size."""
        return ((*shape[:2], *self.top_size(*shape[2:])),)

    def top_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the top for those of the bottom."""
        if self.fixed is not None:
            return self.fixed
        return self._resized(height), self._resized(width)

    def _resized(self, size: int) -> int:
        size += sum(self.pads)
        if self.shrink is not None:
            size = (size - 1) // self.shrink + 1
        if self.zoom is not None:
            size += (size - 1) * (self.zoom - 1)
        return size

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Slice, and Resize with its corners in place."""
        x, (h, w) = bottoms[0], g.shape(bottoms[0])[2:]
        size = self.top_size(h, w)
        begin, end = (-pad for pad in self.pads)
        if g.dynamic_size:
            return self._onnx_any_size(g, x, begin, end)
        if begin or end:
            ends = g.ints((h - end, w - end), "ends")
            x = g.op("Slice", [x, g.ints((begin, begin), "starts"), ends, g.ints((2, 3), "axes")])
        if size == (h - begin - end, w - begin - end):
            return x
        return self._onnx_resize(g, x, g.ints(size))

    def _onnx_any_size(self, g: OnnxGraph, x: str, begin: int, end: int) -> str:
        """The same with sizes that the model computes."""
        if begin or end:
            axes = g.ints((2, 3), "axes")
            last = g.ints((-end, -end) if end else ((1 << 31) - 1,) * 2, "ends")
            x = g.op("Slice", [x, g.ints((begin, begin), "starts"), last, axes])
        if self.fixed is not None:
            sides = g.ints(self.fixed)
        else:
            sides, one = g.op("Shape", [x], start=2), g.const(1, "one")
            if self.shrink is not None:
                steps = g.op("Div", [g.op("Sub", [sides, one]), g.const(self.shrink, "shrink")])
                sides = g.op("Add", [steps, one])
            if self.zoom is not None:
                steps = g.op("Mul", [g.op("Sub", [sides, one]), g.const(self.zoom, "zoom")])
                sides = g.op("Add", [steps, one])
        return self._onnx_resize(g, x, sides)

    def _onnx_resize(self, g: OnnxGraph, x: str, sides: str) -> str:
        maps = g.op("Shape", [x], start=0, end=2)
        sizes = g.op("Concat", [maps, sides], axis=0)
        return str(
            g.op(
                "Resize", [x, "", "", sizes], mode="linear",
                coordinate_transformation_mode="align_corners",
            )
        )  # fmt: skip
