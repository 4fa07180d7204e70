"""Layers that rearrange, cut, join or reduce axes."""

from __future__ import annotations

from itertools import pairwise

from caffeio.shapes.base import UNKNOWN, LayerShapes, Query, Shape, agree, is_known, product, rule


@rule("Reshape")
def reshape(q: Query) -> LayerShapes:
    """reshape_layer.cpp: 0 copies, -1 is inferred, a negative axis counts from behind the last."""
    p, shape = q.param.reshape_param, q.shape()
    start = p.axis if p.axis >= 0 else len(shape) + p.axis + 1
    if not 0 <= start <= len(shape):
        q.fail(f"axis {p.axis} is out of range for a {len(shape)}-D bottom", "reshape_param.axis")
    if p.num_axes < -1:
        q.fail("must be -1 or more", "reshape_param.num_axes")
    end = len(shape) if p.num_axes == -1 else start + p.num_axes
    if end > len(shape):
        q.fail(
            f"{p.num_axes} axes from {start} reach past the {len(shape)}-D bottom",
            "reshape_param.num_axes",
        )
    if p.pixelshuffler > 1:
        return LayerShapes((_shuffled(q, shape, p.pixelshuffler),))
    middle = []
    for i, dim in enumerate(p.shape.dim):
        if dim == 0 and start + i >= len(shape):
            q.fail(f"dim {i} copies an axis that the bottom does not have", "reshape_param.shape")
        middle.append(shape[start + i] if dim == 0 else int(dim))
    if list(p.shape.dim).count(-1) > 1:
        q.fail("only one dim can be -1", "reshape_param.shape")
    return LayerShapes((_inferred(q, shape, (start, end), middle),))


def _inferred(q: Query, shape: Shape, span: tuple[int, int], middle: list[int]) -> Shape:
    start, end = span
    wanted = list(q.param.reshape_param.shape.dim)
    top = [*shape[:start], *middle, *shape[end:]]
    if -1 in wanted:
        hole = start + wanted.index(-1)
        top[hole] = UNKNOWN
        rest = product(top[:hole] + top[hole + 1 :])
        count = product(shape)
        if rest > 0 and count >= 0:
            if count % rest:
                q.fail(
                    f"{count} values do not divide by the other dims ({rest})",
                    "reshape_param.shape",
                )
            top[hole] = count // rest
    elif is_known(shape) and product(top) != product(shape):
        q.fail(f"{shape} has {product(shape)} values, {tuple(top)} {product(top)}", "reshape_param")
    return tuple(top)


def _shuffled(q: Query, shape: Shape, r: int) -> Shape:
    """Intel's pixel shuffler: depth to space."""
    if not is_known(shape) or len(shape) != 4:
        return (*shape[:1], UNKNOWN, UNKNOWN, UNKNOWN)
    n, c, h, w = shape
    if c % (r * r):
        q.fail(f"{c} channels do not divide by {r * r}", "reshape_param.pixelshuffler")
    return (n, c // (r * r), h * r, w * r)


@rule("Flatten")
def flatten(q: Query) -> LayerShapes:
    """Axes from `axis` to `end_axis` become one."""
    p, shape = q.param.flatten_param, q.shape()
    start = q.axis(p.axis, len(shape), "flatten_param.axis")
    end = q.axis(p.end_axis, len(shape), "flatten_param.end_axis")
    return LayerShapes(((*shape[:start], product(shape[start : end + 1]), *shape[end + 1 :]),))


@rule("Permute")
def permute(q: Query) -> LayerShapes:
    """Axes in `order`; those not named follow in ascending order."""
    shape, order = q.shape(), list(q.param.permute_param.order)
    if len(set(order)) < len(order) or any(axis >= len(shape) for axis in order):
        q.fail(f"{order} is no order of {len(shape)} axes", "permute_param.order")
    order += [axis for axis in range(len(shape)) if axis not in order]
    return LayerShapes((tuple(shape[axis] for axis in order),))


@rule("Concat")
def concat(q: Query) -> LayerShapes:
    """Sizes add up along the axis."""
    p = q.param.concat_param
    shapes = [q.shape(i) for i in range(len(q.bottoms))]
    wanted = int(p.concat_dim) if p.HasField("concat_dim") else p.axis
    axis = q.axis(wanted, len(shapes[0]), "concat_param.axis")
    for shape in shapes[1:]:
        same = len(shape) == len(shapes[0]) and all(
            agree(a, b) for i, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
        )
        if not same:
            q.fail(f"bottoms {shapes[0]} and {shape} differ in more than axis {axis}", "bottom")
    sizes = [shape[axis] for shape in shapes]
    total = UNKNOWN if min(sizes) < 0 else sum(sizes)
    merged = [max(dims) for dims in zip(*shapes, strict=True)]
    return LayerShapes(((*merged[:axis], total, *merged[axis + 1 :]),))


@rule("Slice")
def slice_(q: Query) -> LayerShapes:
    """Cut at the slice points, or into equal parts."""
    p, shape, count = q.param.slice_param, q.shape(), max(q.top_count, 1)
    wanted = int(p.slice_dim) if p.HasField("slice_dim") else p.axis
    axis = q.axis(wanted, len(shape), "slice_param.axis")
    total, points = shape[axis], list(p.slice_point)
    if points:
        if len(points) != count - 1:
            q.fail(f"{count} tops need {count - 1} points", "slice_param.slice_point")
        edges = [0, *points, total]
        sizes = [b - a for a, b in pairwise(edges)]
        if total < 0:
            sizes[-1] = UNKNOWN
        elif min(sizes) <= 0:
            q.fail(f"{points} do not rise within {total}", "slice_param.slice_point")
    else:
        if total >= 0 and total % count:
            q.fail(f"{total} does not divide into {count} tops", "slice_param")
        sizes = [total // count if total >= 0 else UNKNOWN] * count
    return LayerShapes(tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes))


@rule("Crop")
def crop(q: Query) -> LayerShapes:
    """The first bottom cut to the sizes of the second from `axis` on."""
    p, shape, like = q.param.crop_param, q.shape(0), q.shape(1)
    axis = q.axis(p.axis, len(shape), "crop_param.axis")
    offsets = list(p.offset)
    if len(offsets) > 1 and len(offsets) != len(shape) - axis:
        q.fail(
            f"give none, one, or one for each of the {len(shape) - axis} axes cropped",
            "crop_param.offset",
        )
    if len(like) < len(shape):
        q.fail(f"bottom[1] {like} has fewer axes than bottom[0] {shape}", "bottom")
    offsets = offsets * (len(shape) - axis) if len(offsets) == 1 else offsets
    offsets = offsets or [0] * (len(shape) - axis)
    for i, offset in enumerate(offsets, axis):
        if shape[i] >= 0 and like[i] >= 0 and like[i] + offset > shape[i]:
            q.fail(f"axis {i}: {offset} + {like[i]} reaches past {shape[i]}", "crop_param.offset")
    return LayerShapes(((*shape[:axis], *like[axis : len(shape)]),))


@rule("CropCenter")
def crop_center(q: Query) -> LayerShapes:
    """waifu2x's crop: `crop_size` values go from both ends of each axis."""
    param, shape = getattr(q.param, "crop_center_param", None), q.shape()
    if param is None or not param.crop_size:
        return LayerShapes((None,), macs=None)
    cut = list(param.crop_size) + [0] * (len(shape) - len(param.crop_size))
    return LayerShapes(
        (tuple(n if n < 0 else n - 2 * c for n, c in zip(shape, cut, strict=False)),)
    )


@rule("Tile")
def tile(q: Query) -> LayerShapes:
    """`tiles` copies along the axis."""
    p, shape = q.param.tile_param, q.shape()
    axis = q.axis(p.axis, len(shape), "tile_param.axis")
    if p.tiles < 1:
        q.fail("must be 1 or more", "tile_param.tiles")
    size = UNKNOWN if shape[axis] < 0 else shape[axis] * p.tiles
    return LayerShapes(((*shape[:axis], size, *shape[axis + 1 :]),))


@rule("BatchReindex")
def batch_reindex(q: Query) -> LayerShapes:
    """As many rows as there are indices."""
    shape, index = q.shape(0), q.shape(1)
    if len(index) != 1:
        q.fail(f"bottom[1] must have one axis, has {len(index)}", "bottom")
    return LayerShapes(((index[0], *shape[1:]),))


@rule("ContinuationIndicator")
def continuation_indicator(q: Query) -> LayerShapes:
    """(time_step, N)."""
    p, shape = q.param.continuation_indicator_param, q.shape()
    along = q.axis(p.axis, len(shape), "continuation_indicator_param.axis")
    return LayerShapes(((p.time_step, shape[along]),))


@rule("Reduction")
def reduction(q: Query) -> LayerShapes:
    """All axes from `axis` on vanish."""
    shape = q.shape()
    axis = q.axis(q.param.reduction_param.axis, len(shape), "reduction_param.axis")
    return LayerShapes((shape[:axis],))


@rule("ArgMax")
def arg_max(q: Query) -> LayerShapes:
    """argmax_layer.cpp: along an axis, or over whole items."""
    p, shape = q.param.argmax_param, q.shape()
    if p.HasField("axis"):
        axis = q.axis(p.axis, len(shape), "argmax_param.axis")
        return LayerShapes(((*shape[:axis], p.top_k, *shape[axis + 1 :]),))
    top = [1] * max(3, len(shape))
    top[0], top[2] = shape[0], p.top_k
    if p.out_max_val:
        top[1] = 2
    return LayerShapes((tuple(top),))
