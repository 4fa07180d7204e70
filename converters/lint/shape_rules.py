"""Rules about sizes: windows, crops, means."""

from __future__ import annotations

import re
from collections.abc import Iterator

from caffeio.converters.diff.training import count_entries
from caffeio.converters.lint.model import ERROR, INFO, Finding, NetContext, net_rule
from caffeio.data.first_record import first_record, opener
from caffeio.errors import CaffeIOError
from caffeio.layers.base import LayerContext
from caffeio.layers.dims import with_unknown, without_unknown
from caffeio.layers.pooling import Pooling
from caffeio.layers.registry import batch_message, reads_data
from caffeio.net.shapes import Shape
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import format_shape

_TOLD_BETTER = (  # by CIO305 and CIO306
    "cannot specify mean_file and mean_value", "new_height and new_width must be set"
)  # fmt: skip


@net_rule("CIO301", "wrong-parameters", ERROR)
def wrong_parameters(context: NetContext) -> Iterator[Finding]:
    """A layer's parameters are wrong, or do not fit its bottoms: Caffe dies at set-up."""
    seen = {_layer_of(unknown.path) for unknown in context.file.unknown}
    for shapes in context.shapes.values():
        others = [(n, r.text(n)) for n, r in shapes.refusals if r.check in ("counts", "params")]
        for node, message in shapes.errors + others:
            told = any(words in message for words in _TOLD_BETTER)
            if node.source_index is not None and node.source_index not in seen and not told:
                seen.add(node.source_index)
                yield context.finding("CIO301", message, node.where)


def _layer_of(path: str) -> int | None:
    """The index in `layer[3].convolution_param.num_outputs`."""
    match = re.match(r"layer\[(\d+)\]", path)
    return int(match[1]) if match else None


def _windows(
    context: NetContext,
) -> Iterator[tuple[int, tuple[int, ...], list[tuple[int, int, int, int, int]]]]:
    """Index, bottom's shape and (size, kernel, stride, pad, windows) of each axis of a Pooling."""
    for index, layer in enumerate(context.layers):
        if layer.type != "Pooling" or layer.pooling_param.global_pooling:
            continue
        for _, bottoms, found in context.shapes_of(index):
            if not bottoms or bottoms[0] is None or not found.tops or found.tops[0] is None:
                continue
            space = bottoms[0][2:]
            pooling = Pooling(layer, LayerContext(profile=context.profile))
            pooling.configure(with_unknown(bottoms[0]))
            window = pooling.window(bottoms[0])
            count = without_unknown(pooling.top_shapes[0][2:])
            axes = list(zip(space, window.extent, window.stride, window.pad, count, strict=True))
            yield index, bottoms[0], [axis for axis in axes if axis[0] > 0]
            break


@net_rule("CIO302", "empty-window", ERROR)
def empty_window(context: NetContext) -> Iterator[Finding]:
    """The last pooling window begins beyond the image, because sizes are rounded up.

    BVLC's Caffe then makes -FLT_MAX (MAX) or NaN (AVE) of nothing, and writes beyond its memory in
    the backward pass. It happens where the kernel is smaller than the stride. Use round_mode: FLOOR
    (where it exists), a larger kernel, or a convolution.
    """
    for index, shape, axes in _windows(context):
        for size, _, stride, pad, count in axes:
            start = (count - 1) * stride - pad
            if start >= size:
                message = f"its last window starts at {start}, beyond the {size} pixels of {shape}"
                yield context.layer("CIO302", index, message, "pooling_param")
                break


@net_rule("CIO303", "partial-window", INFO)
def partial_window(context: NetContext) -> Iterator[Finding]:
    """The last pooling window hangs over the edge, because Caffe rounds sizes up.

    Well in Caffe, but other frameworks round down by default and get another size: check converters
    for `ceil_mode`.
    """
    for index, shape, axes in _windows(context):
        over = [
            (count - 1) * stride - pad + kernel - size - pad
            for size, kernel, stride, pad, count in axes
        ]
        if max(over, default=0) > 0:
            message = f"its last window hangs {max(over)} over the edge of {shape}"
            yield context.layer("CIO303", index, message, "pooling_param")


@net_rule("CIO304", "crop-too-large", ERROR)
def crop_too_large(context: NetContext) -> Iterator[Finding]:
    """The crop is larger than the images: Caffe dies when it reads the first such image.

    Looks at new_height and new_width, random_resize_param, and the first record where the data
    are here.
    """
    find = opener(context.search)
    for index, layer in enumerate(context.layers):
        crop = layer.transform_param.crop_size
        if not crop or not reads_data(layer.type):
            continue
        size = _smallest_side(layer)
        source = "the resize"
        if size is None and not layer.transform_param.HasField("random_aspect_ratio_param"):
            found = first_record(layer, find)
            if found is not None and len(found.shapes[0]) == 3:
                size, source = min(found.shapes[0][1:]), found.place
        if size is not None and size < crop:
            message = f"crop_size {crop} is larger than {size}, the smaller side by {source}"
            yield context.layer("CIO304", index, message, "transform_param", "crop_size")


def _smallest_side(layer: pb.LayerParameter) -> int | None:
    t, image = layer.transform_param, layer.image_data_param
    if t.HasField("random_resize_param") and t.random_resize_param.min_size:
        return int(t.random_resize_param.min_size)
    if image.new_height and image.new_width:
        return int(min(image.new_height, image.new_width))
    return None


@net_rule("CIO305", "mean-values", ERROR)
def mean_values(context: NetContext) -> Iterator[Finding]:
    """mean_value must be one number, or one for each channel, and excludes mean_file."""
    for index, layer in enumerate(context.layers):
        t = layer.transform_param
        if not t.mean_value or not reads_data(layer.type):
            continue
        if t.mean_file:
            message = "give mean_file or mean_value, not both"
            yield context.layer("CIO305", index, message, "transform_param", "mean_file")
        for _, _, found in context.shapes_of(index):
            top = found.tops[0] if found.tops else None
            channels = top[1] if top and len(top) == 4 else -1
            if channels > 0 and len(t.mean_value) not in (1, channels):
                message = f"{len(t.mean_value)} mean_value for {channels} channels"
                yield context.layer("CIO305", index, message, "transform_param", "mean_value")
                break


@net_rule("CIO307", "mean-file", ERROR)
def mean_file(context: NetContext) -> Iterator[Finding]:
    """The mean image has another size than the records; Caffe dies at the first record.

    Only looked at where both are here.
    """
    find = opener(context.search)
    for index, layer in enumerate(context.layers):
        name = layer.transform_param.mean_file
        path = find(name) if name and reads_data(layer.type) else None
        found = first_record(layer, find) if path is not None else None
        if path is None or found is None or len(layer.transform_param.resize_param):
            continue
        from caffeio.proto.weights.blobproto import read_blobproto

        try:
            mean = tuple(read_blobproto(path).shape[-3:])
        except CaffeIOError as error:
            yield context.layer("CIO307", index, str(error), "transform_param", "mean_file")
            continue
        if mean != found.shapes[0]:
            message = f"{name} is {format_shape(mean)}, {found.place} is "
            message += format_shape(found.shapes[0])
            yield context.layer("CIO307", index, message, "transform_param", "mean_file")


@net_rule("CIO308", "no-records", ERROR)
def no_records(context: NetContext) -> Iterator[Finding]:
    """The database is here, and is empty: Caffe crashes when it reads from it."""
    for index, layer in enumerate(context.layers):
        source = layer.data_param.source
        database = batch_message(layer.type) == "data_param"
        if database and count_entries(source, context.search) == 0:
            yield context.layer("CIO308", index, f"{source} is empty", "data_param", "source")


@net_rule("CIO306", "half-a-resize", ERROR)
def half_a_resize(context: NetContext) -> Iterator[Finding]:
    """new_height and new_width must both be given, or neither; Caffe dies otherwise."""
    for index, layer in enumerate(context.layers):
        p = layer.image_data_param
        if bool(p.new_height) != bool(p.new_width):
            message = "new_height and new_width must both be given"
            yield context.layer("CIO306", index, message, "image_data_param")


@net_rule("CIO309", "top-k-too-large", ERROR)
def top_k_too_large(context: NetContext) -> Iterator[Finding]:
    """Accuracy asks for more classes than there are: Caffe dies at the first pass."""
    for index, layer in enumerate(context.layers):
        if layer.type != "Accuracy":
            continue
        wanted, axis = layer.accuracy_param.top_k, layer.accuracy_param.axis
        for _, bottoms, _ in context.shapes_of(index):
            scores = bottoms[0] if bottoms else None
            if scores is None or not -len(scores) <= axis < len(scores):
                continue
            if 0 <= scores[axis] < wanted:
                message = f"top_k {wanted} of {scores[axis]} classes"
                yield context.layer("CIO309", index, message, "accuracy_param", "top_k")
                break


@net_rule("CIO310", "label-too-large", ERROR)
def label_too_large(context: NetContext) -> Iterator[Finding]:
    """A label of the first records is beyond the classes that the loss knows.

    Caffe reads past its memory then, or dies. Labels count from 0.
    """
    for phase, shapes in context.shapes.items():
        values: dict[str, Shape | None] = {}
        labels: dict[str, int] = {}
        for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
            if node.type == "Data" and len(node.tops) > 1:
                largest = largest_label(node.param, context.search)
                if largest is not None:
                    labels[node.tops[1]] = largest
            elif node.type == "Split" and node.bottoms[0] in labels:
                labels.update(dict.fromkeys(node.tops, labels[node.bottoms[0]]))
            elif node.type in ("SoftmaxWithLoss", "MultinomialLogisticLoss") and (
                node.source_index is not None and len(node.bottoms) > 1
            ):
                scores, label = values.get(node.bottoms[0]), labels.get(node.bottoms[1])
                classes = scores[1] if scores is not None and len(scores) > 1 else -1
                ignored = node.param.loss_param.HasField("ignore_label")
                if label is not None and 0 < classes <= label and not ignored:
                    message = f"({phase}) the data have label {label}, the scores {classes} classes"
                    yield context.layer("CIO310", node.source_index, message)
            values.update(zip(node.tops, found.tops, strict=False))


def largest_label(
    layer: pb.LayerParameter, search: tuple[str, ...], records: int = 100
) -> int | None:
    """The largest label of the first records of a database, or None where it is not here."""
    path = opener(search)(layer.data_param.source)
    if path is None:
        return None
    from caffeio.data.db.database import open_db
    from caffeio.data.records.datum import scan_datum

    backend = pb.DataParameter.DB.Name(layer.data_param.backend)
    try:
        db = open_db(str(path), backend)
    except CaffeIOError:
        return None
    try:
        cursor, largest = db.cursor(), 0
        for _ in range(records):
            largest = max(largest, scan_datum(cursor.item()[1]).label)
            if not cursor.advance():
                break
    except CaffeIOError:
        return None
    finally:
        db.close()
    return largest


@net_rule("CIO311", "window-outside")
def window_outside(context: NetContext) -> Iterator[Finding]:
    """A MAX pooling whose stride exceeds its kernel has windows that lie outside of the bottom.

    Their value is -FLT_MAX, and real Caffe writes outside of its memory in the backward pass. Use
    a smaller stride, a larger kernel, or no padding.
    """
    for index, _, axes in _windows(context):
        if context.layers[index].pooling_param.pool != pb.PoolingParameter.MAX:
            continue
        for size, kernel, stride, pad, count in axes:
            begin = (count - 1) * stride - pad
            if stride > kernel and begin >= size:
                message = f"the last window begins at {begin}, the bottom ends at {size}"
                yield context.layer("CIO311", index, message, "pooling_param")
                break
