"""PriorBox and PriorBoxClustered: the boxes that SSD's predictions are relative to.

Sources: src/caffe/layers/prior_box_layer.cpp (weiliu89/caffe, branch ssd; Intel),
prior_box_clustered_layer.cpp (training_toolbox_caffe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    import numpy as np

    from caffeio.layers.onnx.graph import OnnxGraph

Sizes = tuple[tuple[int, int], tuple[int, int]]  # height and width of the map and of the image
KNOWN = ("clip", "variance", "img_size", "img_h", "img_w", "step", "step_h", "step_w", "offset")


@layer("PriorBox")
class PriorBox(LayerType):
    """Boxes around the middle of every cell of a feature map.

    Bottoms: the map (N, C, H, W), of which only the size counts, and the image. Top:
    (1, 2, H x W x P x 4): corners divided by the image's size, then their variances. In each cell
    come, for each min_size, a square of it, a square of sqrt(min_size max_size) if there are
    max_sizes, and a box of the same area for each further aspect ratio. Sizes are cut to whole
    pixels, as in Caffe. The boxes are computed once for each size of map and image.
    """

    shape_only_last = True
    bottoms = exactly(2)
    differentiable = False
    in_place = False
    fields = owns(prior_box_param=(*KNOWN, "min_size", "max_size", "aspect_ratio", "flip"))
    compute = "caffeio.ops.ssd.prior_box:prior_box"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Read the sizes of the boxes and where they lie."""
        for i, shape in enumerate(shapes):
            self.check(
                len(shape) == 4, f"bottom {i} must be (N, C, H, W), not {caffe_shape(shape)}"
            )
        self.boxes = self._boxes()
        self._read_place()
        self.made: dict[Any, Any] = {}  # tops by sizes and device

    def _boxes(self) -> list[tuple[float, float]]:
        """Widths and heights in pixels, float32 as Caffe keeps them."""
        import numpy as np

        p = self.param.prior_box_param
        least, most = list(p.min_size), list(p.max_size)
        field = "prior_box_param.min_size"
        self.check(bool(least), "must be given", field=field)
        self.check(min(least) > 0, "must be positive", field=field)
        fit = len(most) == len(least) and all(a < b for a, b in zip(least, most, strict=True))
        self.check(
            not most or fit, "there must be one for each min_size, and greater",
            field="prior_box_param.max_size",
        )  # fmt: skip
        self.check(
            all(ratio > 0 for ratio in p.aspect_ratio), "must be positive",
            field="prior_box_param.aspect_ratio",
        )  # fmt: skip
        ratios = self._ratios()
        boxes: list[tuple[float, float]] = []
        for i, size in enumerate(map(int, least)):
            boxes.append((size, size))
            if most:
                side = np.float32(np.sqrt(size * int(most[i])))
                boxes.append((float(side), float(side)))
            for root in map(np.sqrt, ratios[1:]):
                boxes.append((float(np.float32(size * root)), float(np.float32(size / root))))
        return boxes

    def _ratios(self) -> list[np.float32]:
        """1 and the others without repetition, each with its inverse when flip is set."""
        import numpy as np

        p = self.param.prior_box_param
        ratios = [np.float32(1)]
        for given in map(np.float32, p.aspect_ratio):
            if all(abs(given - ratio) >= 1e-6 for ratio in ratios):
                ratios.append(given)
                if p.flip:
                    ratios.append(np.float32(1 / np.float64(given)))
        return ratios

    def _read_place(self) -> None:
        p, field = self.param.prior_box_param, "prior_box_param"
        variance = list(p.variance) or [0.1]
        self.check(
            len(variance) in (1, 4) and min(variance) > 0,
            "give one or four, all positive",
            field=f"{field}.variance",
        )
        self.variance = variance * 4 if len(variance) == 1 else variance
        self.image = self._pair("img_size", "img_h", "img_w")
        self.step = self._pair("step", "step_h", "step_w")

    def _pair(self, both: str, high: str, wide: str) -> tuple[float, float] | None:
        """Height and width that are given by two fields or by one; None if they are not."""
        p, field = self.param.prior_box_param, f"prior_box_param.{both}"
        pair = p.HasField(high) or p.HasField(wide)
        if not pair and not p.HasField(both):
            return None
        self.check(
            not (pair and p.HasField(both)), f"give either it or {high} and {wide}", field=field
        )
        values = (getattr(p, high), getattr(p, wide)) if pair else (getattr(p, both),) * 2
        self.check(min(values) > 0, "must be positive", field=field)
        return values

    def priors(self, sizes: Sizes) -> np.ndarray:
        """The top as a float32 array, for a map and an image of these heights and widths."""
        import numpy as np

        (high, wide), image = sizes
        height, width = map(int, self.image) if self.image else image
        if self.step is not None:
            step_y, step_x = map(np.float32, self.step)
        else:
            step_y, step_x = (
                np.float32(height) / np.float32(high),
                np.float32(width) / np.float32(wide),
            )
        offset = np.float32(self.param.prior_box_param.offset)
        x = ((np.arange(wide, dtype=np.float32) + offset) * step_x).astype(np.float64)
        y = ((np.arange(high, dtype=np.float32) + offset) * step_y).astype(np.float64)
        half = np.array(self.boxes) / 2
        top = np.empty((2, high, wide, len(half), 4), np.float32)
        for i, sign in ((0, -1), (2, 1)):
            top[0, ..., i] = (x[None, :, None] + sign * half[:, 0]) / width
            top[0, ..., i + 1] = (y[:, None, None] + sign * half[:, 1]) / height
        if self.param.prior_box_param.clip:
            np.clip(top[0], 0, 1, out=top[0])
        top[1] = self.variance
        return top.reshape(1, 2, -1)

    def shapes(self, x: Shape, image: Shape) -> tuple[Shape, ...]:
        """Give (1, 2, H x W x P x 4)."""
        return ((1, 2, x[2] * x[3] * len(self.boxes) * 4),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write a constant: the boxes at the net's own size."""
        if g.dynamic_size:
            raise g.unsupported("its boxes are a constant, for one size of its map and the picture")
        x, image = (g.shape(name) for name in bottoms)
        return g.const(self.priors(((x[2], x[3]), (image[2], image[3]))), "priors")


@layer("PriorBoxClustered")
class PriorBoxClustered(PriorBox):
    """Like PriorBox with boxes of the given widths and heights in pixels."""

    fields = owns(prior_box_param=(*KNOWN, "width", "height"))

    def _boxes(self) -> list[tuple[float, float]]:
        p = self.param.prior_box_param
        boxes = list(zip(p.width, p.height, strict=False))
        self.check(
            bool(boxes) and len(p.width) == len(p.height) and min(map(min, boxes)) > 0,
            "give as many widths as heights, all positive",
            field="prior_box_param.width",
        )
        return boxes
