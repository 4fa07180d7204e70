"""Layers that rename or move the numbers of one blob: Flatten, Reshape, Crop, Tile, Permute.

Sources: src/caffe/layers/{flatten,reshape,crop,tile}_layer.cpp (BVLC; Intel's reshape_layer.cpp
for pixelshuffler), permute_layer.cpp (SSD).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.dims import known
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("Flatten")
class Flatten(LayerType):
    """Joins the axes flatten_param.axis (default 1) to end_axis (default -1) into one."""

    in_place = False
    fields = owns(flatten_param=("axis", "end_axis"))
    compute = "caffeio.ops.shape:flatten"
    pure = True
    shares_memory = True
    moves_gradient = True

    def setup(self, *shapes: Shape) -> None:
        """Check the axes."""
        param, ndim = self.param.flatten_param, len(shapes[0])
        self.start = self.axis(param.axis, ndim, "flatten_param.axis")
        self.end = self.axis(param.end_axis, ndim, "flatten_param.end_axis") + 1
        self.check(
            self.start <= self.end,
            f"axis {param.axis} lies behind end_axis {param.end_axis}",
            field="flatten_param",
        )

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Multiply the sizes of the joined axes."""
        middle = prod(shape[self.start : self.end])
        return ((*shape[: self.start], middle, *shape[self.end :]),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Reshape, or Flatten where it says the same."""
        shape = g.shape(bottoms[0])
        if self.start == 1 and self.end == len(shape):
            return str(g.op("Flatten", bottoms, axis=1))
        return g.reshape(bottoms[0], *[0] * self.start, -1, *shape[self.end :])


@layer("Reshape")
class Reshape(LayerType):
    """Gives axes [axis, axis + num_axes) of the bottom the dimensions reshape_param.shape.

    A dimension 0 copies the bottom's at the same place, one may be -1 (inferred). A negative axis
    counts from behind the last one: -1 appends. Intel's `pixelshuffler` r makes (N, C, r H, r W)
    of (N, C r^2, H, W) instead.
    """

    in_place = False
    fields = owns(reshape_param=("shape", "axis", "num_axes", "pixelshuffler"))
    compute = "caffeio.ops.shape:reshape"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters against the bottom."""
        param = self.param.reshape_param
        self.dims = tuple(param.shape.dim)
        self.shuffle = param.pixelshuffler
        self.shares_memory = self.shares_gradient = self.shuffle == 1
        ndim = len(shapes[0])
        self.start: int = param.axis if param.axis >= 0 else ndim + param.axis + 1
        self.check(
            0 <= self.start <= ndim,
            f"axis {param.axis} out of range for a {ndim}-D bottom",
            field="reshape_param.axis",
        )
        self.check(param.num_axes >= -1, "must be -1 (all) or more", field="reshape_param.num_axes")
        self.end: int = ndim if param.num_axes == -1 else self.start + param.num_axes
        self.check(
            self.end <= ndim,
            f"axes {self.start} to {self.end} out of range for a {ndim}-D bottom",
            field="reshape_param.num_axes",
        )
        self.check(self.dims.count(-1) <= 1, "only one dim may be -1", field="reshape_param.shape")
        self.check(
            all(d >= -1 for d in self.dims), "a dim is less than -1", field="reshape_param.shape"
        )
        if self.shuffle != 1:
            self._check_shuffle(shapes[0])
        else:
            self.top_shape(shapes[0])

    def _check_shuffle(self, shape: Shape) -> None:
        r = self.shuffle
        self.check(
            r > 0 and len(shape) == 4 and shape[1] % (r * r) == 0,
            f"needs a 4-D bottom whose channels divide by {r * r}, not {caffe_shape(shape)}",
            field="reshape_param.pixelshuffler",
        )

    def top_shape(self, shape: Shape) -> Shape:
        """The top's shape for a bottom of `shape`."""
        field = "reshape_param.shape"
        dims = list(self.dims)
        for i, dim in enumerate(dims):
            if dim == 0:
                self.check(
                    self.start + i < len(shape),
                    f"dim {i} is 0 (copy), but a {len(shape)}-D bottom has no axis "
                    f"{self.start + i}",
                    field=field,
                )
                dims[i] = shape[self.start + i]
        head, tail = shape[: self.start], shape[self.end :]
        if -1 in self.dims:
            place = self.dims.index(-1)
            dims[place] = self._inferred(shape, [*head, *dims[:place], *dims[place + 1 :], *tail])
        out = (*head, *dims, *tail)
        self.check(
            prod(out) == prod(shape),
            f"the new shape {caffe_shape(out)} has not the bottom's count ({caffe_shape(shape)})",
            field=field,
        )
        return out

    def _inferred(self, shape: Shape, others: list[int]) -> int:
        """Find the size that makes the counts equal, given all other dimensions of the top."""
        if not known(shape):  # what is copied stands on both sides
            copied = [shape[self.start + i] for i, d in enumerate(self.dims) if d == 0]
            ahead = [n for n in copied if known(n)] + [d for d in self.dims if d > 0]
            kept = range(self.start, self.start + len(self.dims))
            rest = [
                n
                for i, n in enumerate(shape[self.start : self.end], self.start)
                if known(n) or i not in kept or self.dims[i - self.start] != 0
            ]
            return prod(rest) // prod(ahead)
        wanted = prod(others)
        self.check(
            wanted != 0 and prod(shape) % wanted == 0,
            f"the bottom's count {prod(shape)} does not divide by the product {wanted} of "
            "the other dims",
            field="reshape_param.shape",
        )
        return prod(shape) // wanted

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Give the bottom its new shape."""
        if self.shuffle != 1:
            n, c, h, w = shape
            r = self.shuffle
            return ((n, c // (r * r), h * r, w * r),)
        return (self.top_shape(shape),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Reshape with the same dimensions, or DepthToSpace."""
        x, shape = bottoms[0], g.shape(bottoms[0])
        if self.shuffle != 1:
            return str(g.op("DepthToSpace", [x], blocksize=self.shuffle, mode="CRD"))
        if g.dynamic_batch and self.end == 0:
            raise g.unsupported("it moves axis 0, whose size is not fixed")
        return g.reshape(x, *[0] * self.start, *self.dims, *shape[self.end :])


@layer("Crop")
class Crop(LayerType):
    """Cuts bottom 0 to the sizes of bottom 1 from crop_param.axis (default 2) on, at `offset`."""

    bottoms = exactly(2)
    shape_only_last = True
    in_place = False
    fields = owns(crop_param=("axis", "offset"))
    compute = "caffeio.ops.shape:crop"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check the offsets."""
        param, ndim = self.param.crop_param, len(shapes[0])
        self.start = self.axis(param.axis, ndim, "crop_param.axis")
        cropped = ndim - self.start
        offsets = list(param.offset) or [0]
        self.check(
            len(offsets) in (1, cropped),
            f"one offset for each of the {cropped} axes from {self.start} on, or one for all, is "
            f"wanted, not {len(offsets)}",
            field="crop_param.offset",
        )
        self.offsets: Sequence[int] = offsets if len(offsets) == cropped else offsets * cropped
        self.check(
            len(shapes[1]) >= ndim,
            f"bottom 1 ({caffe_shape(shapes[1])}) has fewer axes than bottom 0 "
            f"({caffe_shape(shapes[0])})",
        )
        self.check_sizes(*shapes)

    def check_sizes(self, shape: Shape, reference: Shape) -> None:
        """Raise LayerError unless bottom 0 holds what is cut out."""
        for axis, offset in enumerate(self.offsets, self.start):
            size, wanted = shape[axis], reference[axis]
            self.check(
                size - offset >= wanted,
                f"axis {axis} of size {size} cannot be cropped to {wanted} at offset {offset}",
                field="crop_param.offset",
            )

    def shapes(self, shape: Shape, reference: Shape) -> tuple[Shape, ...]:
        """Take the sizes of bottom 1 from the axis on."""
        return ((*shape[: self.start], *reference[self.start : len(shape)]),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Slice with constant ends."""
        if g.dynamic_size:
            return self._onnx_any_size(g, *bottoms)
        sizes = g.shape(bottoms[1])[self.start :]
        kept = list(enumerate(zip(self.offsets, sizes, strict=False), self.start))
        if g.dynamic_batch:
            cuts = self.start == 0 and (self.offsets[0] or sizes[0] != g.shape(bottoms[0])[0])
            if cuts:
                raise g.unsupported("it cuts axis 0, whose size is not fixed")
            kept = [row for row in kept if row[0]]
        rows = ([o for _, (o, _) in kept], [o + n for _, (o, n) in kept], [a for a, _ in kept])
        names = zip(rows, ("starts", "ends", "axes"), strict=True)
        return str(g.op("Slice", [bottoms[0], *(g.ints(row, name) for row, name in names)]))

    def _onnx_any_size(self, g: OnnxGraph, x: str, reference: str) -> str:
        """The same with the sizes that bottom 1 has when it runs."""
        ndim = len(g.shape(x))
        starts = g.ints(self.offsets, "starts")
        ends = g.op("Shape", [reference], start=self.start, end=ndim)
        if any(self.offsets):
            ends = g.op("Add", [ends, starts])
        return str(g.op("Slice", [x, starts, ends, g.ints(range(self.start, ndim), "axes")]))


@layer("Tile")
class Tile(LayerType):
    """Repeats its bottom tile_param.tiles times along tile_param.axis (default 1), as a whole."""

    in_place = False
    fields = owns(tile_param=("axis", "tiles"))
    compute = "caffeio.ops.shape:tile"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check axis and tiles."""
        param = self.param.tile_param
        self.tile_axis = self.axis(param.axis, len(shapes[0]), "tile_param.axis")
        self.check(param.tiles > 0, "must be set, and positive", field="tile_param.tiles")
        self.tiles: int = param.tiles

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Multiply the size of the axis."""
        axis = self.tile_axis
        return ((*shape[:axis], shape[axis] * self.tiles, *shape[axis + 1 :]),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Tile."""
        repeats = [1] * len(g.shape(bottoms[0]))
        repeats[self.tile_axis] = self.tiles
        return str(g.op("Tile", [bottoms[0], g.ints(repeats, "repeats")]))


@layer("Permute")
class Permute(LayerType):
    """Reorders axes (SSD): top axis i is bottom axis order[i]; axes left out follow in order."""

    in_place = False
    fields = owns(permute_param=("order",))
    compute = "caffeio.ops.shape:permute"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check that `order` names axes, each once."""
        order, ndim = list(self.param.permute_param.order), len(shapes[0])
        field = "permute_param.order"
        self.check(
            all(axis < ndim for axis in order), f"axes of a {ndim}-D bottom are wanted", field=field
        )
        self.check(len(set(order)) == len(order), "names an axis twice", field=field)
        self.order = (*order, *(axis for axis in range(ndim) if axis not in order))
        self.shares_memory = self.order == tuple(range(ndim))

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Put the sizes in the new order."""
        return (tuple(shape[axis] for axis in self.order),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Transpose."""
        return str(g.op("Transpose", bottoms, perm=self.order))
