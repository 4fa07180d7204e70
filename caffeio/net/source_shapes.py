"""Layers that make data: shapes from the prototxt, or from the first record where it is reachable.

Sources: src/caffe/layers/*_data_layer.cpp, data_transformer.cpp (InferBlobShape).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.errors import DataError, LayerError, ParseError
from caffeio.layers.inference import LayerShapes
from caffeio.proto.io.regular import check_regular, open_regular, read_text_file
from caffeio.proto.io.wire import iter_fields

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import Datum, LayerParameter, TransformationParameter


UNKNOWN = -1
Shape = tuple[int, ...]


def given_shapes(param: LayerParameter, top_count: int) -> LayerShapes:
    """Shapes of an input_param: one for all tops, or one for each."""
    shapes = [tuple(map(int, shape.dim)) for shape in param.input_param.shape]
    if len(shapes) not in (1, top_count):
        raise LayerError(
            f"layer {param.name!r} (type {param.type}), input_param.shape: give no shape, one, or "
            f"one for each of the {top_count} tops"
        )
    return LayerShapes(tuple(shapes * top_count if len(shapes) == 1 else shapes))


def _batch(param: LayerParameter) -> int:
    """The batch size of a data layer, UNKNOWN if none is given."""
    for field in (
        "data_param", "image_data_param", "hdf5_data_param", "window_data_param",
        "dense_image_data_param",
    ):  # fmt: skip
        if param.HasField(field):
            return int(getattr(param, field).batch_size) or UNKNOWN
    return 1 if param.type == "ImageData" else UNKNOWN


def _channels(t: TransformationParameter) -> int:
    if t.force_gray:
        return 1
    return len(t.mean_value) if len(t.mean_value) > 1 else UNKNOWN


def transformed(t: TransformationParameter, item: Shape) -> Shape:
    """(C, H, W) of an item of that shape after `t`: crop_size, or the resize's target."""
    channels, height, width = item
    if t.force_color:
        channels = 3
    elif t.force_gray:
        channels = 1
    if t.crop_size:
        return (channels, t.crop_size, t.crop_size)
    if t.crop_height and t.crop_width:
        return (channels, t.crop_height, t.crop_width)
    for resize in t.resize_param:
        if resize.height and resize.width:
            return (channels, resize.height, resize.width)
    if t.crop_h and t.crop_w:
        return (channels, t.crop_h, t.crop_w)
    return (channels, height, width)


Opener = Callable[[str], Path | None]


def opener(search_path: Sequence[str | os.PathLike[str]]) -> Opener:
    """A function that finds a file from the working directory, then from `search_path`."""

    def find(name: str) -> Path | None:
        if not name:
            return None
        for folder in ("", *search_path):
            path = Path(folder, name)
            if path.exists():
                return path
        return None

    return find


def item_shape(param: LayerParameter, find: Opener) -> tuple[Shape, str] | None:
    """(C, H, W) of the first record of a data layer before transforms, and where it was read."""
    try:
        if param.type in ("Data", "AnnotatedData"):
            found = find(param.data_param.source)
            datum = first_datum(found, param.type == "AnnotatedData") if found else None
            return (datum_shape(datum), f"first record of {found}") if datum else None
        if param.type == "ImageData":
            return _first_image(param, find)
    except (OSError, ValueError, struct.error):
        return None
    return None


def first_datum(path: Path, annotated: bool = False) -> Datum | None:
    """The first Datum of an LMDB folder (by key), or None if it is not one."""
    if not (path / "data.mdb").is_file():
        return None
    from caffeio.data.db.lmdb import LmdbDatabase

    try:
        with closing(LmdbDatabase(str(path))) as db:
            value = bytes(next(db.records())[1])
    except DataError:
        return None
    return _parse_datum(value, annotated)


def _parse_datum(value: bytes, annotated: bool) -> Datum | None:
    from google.protobuf.message import DecodeError

    from caffeio.proto import caffe_pb2 as pb

    try:
        if annotated:  # AnnotatedDatum.datum is field 1 in every fork that has it
            spans = (v for n, _, v in iter_fields(value) if n == 1 and isinstance(v, tuple))
            value = value[slice(*next(spans))]
        return pb.Datum.FromString(value)
    except (DecodeError, ParseError, StopIteration):
        return None


def datum_shape(datum: Datum) -> Shape:
    """(C, H, W) of a Datum; an encoded one tells by its image's header."""
    if datum.encoded:
        return image_shape(datum.data)
    return (datum.channels, datum.height, datum.width)


def _first_image(param: LayerParameter, find: Opener) -> tuple[Shape, str] | None:
    p = param.image_data_param
    listing = find(p.source)
    color = 3 if p.is_color else 1
    if p.new_height and p.new_width:
        return (color, p.new_height, p.new_width), "new_height and new_width"
    if listing is None:
        return None
    with open_regular(listing) as lines:
        name = os.fsdecode(lines.readline(1 << 16)).rstrip("\n").rpartition(" ")[0]
    image = find(p.root_folder + name)
    if image is None:
        return None
    with open_regular(image) as file:
        return (color, *image_shape(file.read(1 << 20))[1:]), f"first image of {listing}"


def image_shape(data: bytes) -> Shape:
    """(C, H, W) of an encoded image as OpenCV decodes it unchanged, read from its header."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        width, height, _, kind = struct.unpack(">IIBB", data[16:26])
        return ({0: 1, 2: 3, 3: 3, 4: 4, 6: 4}.get(kind, 3), height, width)
    if data[:2] == b"\xff\xd8":
        return _jpeg_shape(data)
    if data[:2] == b"BM":
        width, height = struct.unpack("<ii", data[18:26])
        return (3, abs(height), width)
    raise ValueError("unknown image format")


def _jpeg_shape(data: bytes) -> Shape:
    """Walk the markers up to the frame header (ITU T.81, B.2.2)."""
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            raise ValueError("broken JPEG")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack(">HHB", data[at + 5 : at + 10])
            return (1 if components == 1 else 3, height, width)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("JPEG without a frame header")


def source_shapes(param: LayerParameter, find: Opener, top_count: int) -> tuple[LayerShapes, str]:
    """Shapes of a data layer's tops, and how they were found ("" if the prototxt says it all).

    An input_param in a data layer, as drawing tools like Netscope want it, tells the shapes.
    """
    if param.input_param.shape:
        return given_shapes(param, top_count), ""
    found = item_shape(param, find)
    t, batch = param.transform_param, _batch(param)
    if param.type == "WindowData":
        item: Shape = (3, t.crop_size or UNKNOWN, t.crop_size or UNKNOWN)
        note = ""
    elif param.type == "HDF5Data":
        return _hdf5_shapes(param, find, top_count)
    elif found is not None:
        item, note = transformed(t, found[0]), found[1]
    else:
        item, note = _guess(param)
    labels: Shape = (1, 1, 1, 8) if param.type == "AnnotatedData" else (batch,)
    if param.type == "DenseImageData":
        labels = (batch, 1, *item[1:])
    tops: list[Shape | None] = [(batch, *item), labels]
    if param.type == "LaneData":
        tops[1:] = [(batch, 1, 1, 1), _lane_map(param, batch, item)]
    tops += [None] * (top_count - len(tops))
    return LayerShapes(tuple(tops[:top_count]), dynamic=param.type == "AnnotatedData"), note


def _lane_map(param: LayerParameter, batch: int, item: Shape) -> Shape:
    """The map of lanes: its own size, or the image's divided by seg_scales."""
    p = param.annotated_data_param
    if p.seg_resize_width and p.seg_resize_height:
        return (batch, 1, p.seg_resize_width, p.seg_resize_height)
    sizes = (n if n == UNKNOWN else n // (p.seg_scales or 1) for n in item[1:])
    return (batch, 1, *sizes)


def _guess(param: LayerParameter) -> tuple[Shape, str]:
    """(C, H, W) without a record: colour images, sizes as far as the transforms fix them."""
    t = param.transform_param
    channels = _channels(t)
    if param.type == "ImageData":
        channels = 3 if param.image_data_param.is_color else 1
    note = "the data are not here"
    item = transformed(t, (channels, UNKNOWN, UNKNOWN))
    if param.type == "DenseImageData" and param.dense_image_data_param.crop_height:
        p = param.dense_image_data_param
        item = (channels, p.crop_height, p.crop_width)
    if item[0] == UNKNOWN and (t.crop_size or item[1] != UNKNOWN):
        item = (3, *item[1:])
        note += ": 3 channels assumed"
    return item, note


def _hdf5_shapes(param: LayerParameter, find: Opener, top_count: int) -> tuple[LayerShapes, str]:
    """Datasets are named as the tops; shapes come from the first file of the list."""
    batch, listing = _batch(param), find(param.hdf5_data_param.source)
    nothing = LayerShapes((None,) * top_count), "the data are not here"
    if listing is None:
        return nothing
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        return nothing
    try:
        first = find(read_text_file(listing).split()[0])
        if first is None:
            return nothing
        check_regular(first)
        with h5py.File(first, "r") as file:
            tops = tuple((batch, *map(int, file[name].shape[1:])) for name in param.top)
    except (OSError, KeyError, IndexError, TypeError, ValueError):
        return nothing
    return LayerShapes(tops), f"datasets of {first}"
