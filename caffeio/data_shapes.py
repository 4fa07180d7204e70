"""Shapes of data layers without their data, for building a net where the data are not."""

from __future__ import annotations

from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Shape = tuple[int, ...]


def guess_shapes(param: pb.LayerParameter) -> list[Shape]:
    """Shapes of the tops of data layer `param` as far as its parameters tell.

    Batches are batch_size (1 if unset) x channels x height x width. Channels: 1 with force_gray or
    is_color: false, else the number of mean_values if there are several, else 3. Height and width:
    crop_size, else what the images are resized to, else 227 (CaffeNet's). HDF5Data gets
    (batch, 1) for each top, AnnotatedData (1, 1, 1, 8) labels (the YOLO fork's (batch, 1, 300, 5)
    and one map of the pixels' labels). Where there are data, the first
    record decides.
    """
    tops = len(param.top)
    if param.type == "Input" or param.input_param.shape:  # drawing tools want it in data layers
        return _spread([tuple(s.dim) for s in param.input_param.shape], tops, "input_param.shape")
    if param.type == "DummyData":
        return dummy_shapes(param)
    if param.type == "MemoryData":
        m = param.memory_data_param
        shapes: list[Shape] = [(m.batch_size, m.channels, m.height, m.width)]
        return [*shapes, (m.batch_size, 1, 1, 1)][:tops]
    if param.type == "HDF5Data":
        return [(param.hdf5_data_param.batch_size or 1, 1)] * tops
    batch, item = _image_batch(param)
    if param.type == "AnnotatedData":
        return [(batch, *item), *_annotations(param, batch, item)][:tops]
    return [(batch, *item), *[(batch,)] * (tops - 1)]


def _annotations(param: pb.LayerParameter, batch: int, item: Shape) -> list[Shape]:
    """Shapes of an AnnotatedData layer's labels, and of the pixels' labels of the YOLO fork."""
    p = param.annotated_data_param
    boxes: Shape = (batch, 1, 300, 5) if p.yolo_data_type == 1 else (1, 1, 1, 8)
    size = (p.seg_resize_height, p.seg_resize_width)
    if not all(size):
        size = (item[1] // (p.seg_scales or 1), item[2] // (p.seg_scales or 1))
    return [boxes, (batch, 1, *size)]


def _image_batch(param: pb.LayerParameter) -> tuple[int, Shape]:
    t, images = param.transform_param, param.image_data_param
    several = len(t.mean_value) if len(t.mean_value) > 1 else 3
    channels = 1 if t.force_gray else 3 if t.force_color else several
    height = width = 227
    batch = param.data_param.batch_size
    if param.type == "ImageData":
        batch = images.batch_size
        channels = 3 if images.is_color else 1
        if images.new_height and images.new_width:
            height, width = images.new_height, images.new_width
    elif param.type == "WindowData":
        batch, channels = param.window_data_param.batch_size, 3
    for resize in t.resize_param:
        if resize.height and resize.width:
            height, width = resize.height, resize.width
    if t.crop_size:
        height = width = t.crop_size
    elif t.crop_h and t.crop_w:
        height, width = t.crop_h, t.crop_w
    return batch or 1, (channels, height, width)


def dummy_shapes(param: pb.LayerParameter) -> list[Shape]:
    """Shapes of a DummyData layer: `shape`, or the old num, channels, height, width."""
    p, tops = param.dummy_data_param, len(param.top)
    if len(p.shape):
        return _spread([tuple(s.dim) for s in p.shape], tops, "dummy_data_param.shape")
    old = (p.num, p.channels, p.height, p.width)
    if any(len(v) not in (1, tops) for v in old):
        raise DataError(
            f"num, channels, height and width must be given once, or for each of the {tops} tops"
        )
    return [tuple(int(v[i] if len(v) > 1 else v[0]) for v in old) for i in range(tops)]


def _spread(shapes: list[Shape], tops: int, field: str) -> list[Shape]:
    if len(shapes) not in (1, tops):
        raise DataError(f"{field} must be given once, or for each of the {tops} tops")
    return shapes * tops if len(shapes) == 1 else shapes
