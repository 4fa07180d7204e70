"""Layers that join, cut, repeat and drop blobs: Concat, Slice, Split, Silence.

Sources: src/caffe/layers/{concat,slice,split,silence}_layer.cpp.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, at_least, exactly, owns
from caffeio.layers.dims import agreed
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


class AxisLayer(LayerType):
    """A layer whose parameter names an axis, or, in old files, a `*_dim`."""

    in_place = False

    def axis_or_dim(self, ndim: int, field: str, old: str) -> int:
        """The axis that `<field>.axis` or the old `<field>.<old>` names."""
        param = getattr(self.param, field)
        if not param.HasField(old):
            return self.axis(param.axis, ndim, f"{field}.axis")
        self.check(
            not param.HasField("axis"),
            f"give either axis or {old}, not both",
            field=f"{field}.{old}",
        )
        dim: int = getattr(param, old)
        self.check(
            dim < ndim, f"{dim} is out of range for a {ndim}-D bottom", field=f"{field}.{old}"
        )
        return dim


@layer("Concat")
class Concat(AxisLayer):
    """Joins its bottoms along concat_param.axis (default 1); other dimensions must be equal."""

    family = "join"
    bottoms = at_least(1)
    fields = owns(concat_param=("axis", "concat_dim"))
    compute = "caffeio.ops.concat:concat"
    pure = True
    fresh = True

    def setup(self, *shapes: Shape) -> None:
        """Check the axis and the other dimensions."""
        first = shapes[0]
        self.shares_memory = self.shares_gradient = len(shapes) == 1
        self.concat_axis = axis = self.axis_or_dim(len(first), "concat_param", "concat_dim")
        self.by_image = axis > 0
        for i, shape in enumerate(shapes[1:], 1):
            rest = (*shape[:axis], *shape[axis + 1 :])
            self.check(
                len(shape) == len(first) and rest == (*first[:axis], *first[axis + 1 :]),
                f"bottoms must have equal dimensions except along axis {axis}: bottom 0 is "
                f"{caffe_shape(first)}, bottom {i} is {caffe_shape(shape)}",
            )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Add up the sizes along the axis."""
        axis, rest = self.concat_axis, agreed(*bottoms)
        return ((*rest[:axis], sum(s[axis] for s in bottoms), *rest[axis + 1 :]),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Concat."""
        return str(g.op("Concat", bottoms, axis=self.concat_axis))


@layer("Slice")
class Slice(AxisLayer):
    """Cuts its bottom along slice_param.axis at slice_point, or into equal parts."""

    family = "join"
    tops = at_least(1)
    fields = owns(slice_param=("axis", "slice_dim", "slice_point"))
    compute = "caffeio.ops.concat:cut"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Find the sizes of the parts."""
        self.slice_axis = self.axis_or_dim(len(shape), "slice_param", "slice_dim")
        self.points = tuple(self.param.slice_param.slice_point)
        self.parts = max(1, len(self.context.top_names))
        self.shares_memory = self.shares_gradient = self.parts == 1
        self.sizes(shape)

    def sizes(self, shape: Shape) -> list[int]:
        """Sizes of the tops along the axis for a bottom of `shape`."""
        total = shape[self.slice_axis]
        if not self.points:
            self.check(
                total % self.parts == 0,
                f"{self.parts} tops do not evenly divide axis {self.slice_axis} of size {total}",
            )
            return [total // self.parts] * self.parts
        field = "slice_param.slice_point"
        self.check(
            len(self.points) == self.parts - 1,
            f"{self.parts} tops need {self.parts - 1} slice points, not {len(self.points)}",
            field=field,
        )
        edges = (0, *self.points, total)
        self.check(
            all(a < b for a, b in pairwise(edges)),
            f"slice points {caffe_shape(self.points)} must rise, between 0 and the size {total} of "
            f"axis {self.slice_axis}",
            field=field,
        )
        return [b - a for a, b in pairwise(edges)]

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Give each part its size along the axis."""
        if self.parts == 1:
            return (shape,)
        axis = self.slice_axis
        return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in self.sizes(shape))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Split."""
        if self.parts == 1:
            return bottoms
        if g.dynamic_batch and self.slice_axis == 0:
            raise g.unsupported("it cuts axis 0, whose size is not fixed")
        sizes = g.ints(self.sizes(g.shape(bottoms[0])), "sizes")
        tops: tuple[str, ...] = g.op(
            "Split", [bottoms[0], sizes], outputs=self.parts, axis=self.slice_axis
        )
        return tops


@layer("Split")
class Split(LayerType):
    """The same blob under several names; the gradients of the tops are added."""

    family = "join"
    tops = at_least(1)
    in_place = False
    compute = "caffeio.ops.concat:split"
    pure = True
    shares_memory = True

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write no operator: the tops are other names of one value."""
        return bottoms * max(1, len(self.context.top_names))


@layer("Silence")
class Silence(LayerType):
    """Consumes blobs, so that they are not outputs of the net."""

    is_metric = True
    bottoms = at_least(1)
    tops = exactly(0)
    compute = "caffeio.ops.concat:silence"
    pure = True

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """There is no top."""
        return ()

    def onnx(self, g: OnnxGraph, *bottoms: str) -> tuple[str, ...]:
        """Write nothing."""
        return ()
