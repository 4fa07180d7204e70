"""What transform_param makes of an image's shape, and what it may not say. No pixels here.

Sources: src/caffe/data_transformer.cpp (InferBlobShape) of BVLC and of the sara fork,
src/caffe/util/im_transforms.cpp (InferNewSize) of SSD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caffeio.layers.dims import ANY, known
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb

Shape = tuple[int, ...]
Fail = Callable[[str, str], Any]  # message and field: raises


def check_transform(t: pb.TransformationParameter, fail: Fail) -> None:
    """Let `fail` raise for what DataTransformer refuses whatever the images are."""
    if t.mean_file and len(t.mean_value):
        fail("cannot specify mean_file and mean_value at the same time", "mean_file")
    if t.force_color and t.force_gray:
        fail("cannot set both force_color and force_gray", "force_color")
    for resize in t.resize_param:
        if resize.height <= 0 or resize.width <= 0:
            fail("height and width must be positive", "resize_param")
    for field in ("random_resize_param", "random_aspect_ratio_param"):
        if t.HasField(field) and not t.crop_size:
            fail("needs crop_size", field)


def crop_of(t: pb.TransformationParameter, profile: Profile) -> tuple[int, int] | None:
    """Height and width of the crop; None without one."""
    if t.crop_size:
        return int(t.crop_size), int(t.crop_size)
    if t.crop_h and t.crop_w and profile.data_crop_fields:
        return int(t.crop_h), int(t.crop_w)
    return None


def transformed(t: pb.TransformationParameter, profile: Profile, item: Shape) -> Shape:
    """(C, H, W) that a loaded image of shape `item` becomes; dimensions may be unknown."""
    channels, height, width = item
    crop = crop_of(t, profile)
    if crop is not None:
        return (channels, *crop)
    for resize in t.resize_param:
        height, width = new_size(resize, height, width)
    return channels, height, width


def new_size(resize: pb.ResizeParameter, height: int, width: int) -> tuple[int, int]:
    """Height and width that an image of this size is resized to (InferNewSize)."""
    if resize.resize_mode != pb.ResizeParameter.FIT_SMALL_SIZE:
        return int(resize.height), int(resize.width)
    if not known(height, width):
        return ANY, ANY
    import numpy as np

    aspect = np.float32(width) / np.float32(height)
    if aspect < np.float32(resize.width) / np.float32(resize.height):
        return int(np.float32(resize.width) / aspect), int(resize.width)
    return int(resize.height), int(aspect * np.float32(resize.height))


def listed_size(p: pb.ImageDataParameter, height: int, width: int) -> tuple[int, int]:
    """Height and width of a list's image: new_height x new_width, or min_height and min_width met.

    The least sizes are Intel's.
    """
    if p.new_height and p.new_width:
        return int(p.new_height), int(p.new_width)
    if not (p.min_height and p.min_width):
        return height, width
    if not known(height, width):
        return ANY, ANY
    if height >= p.min_height and width >= p.min_width:
        return height, width
    import numpy as np

    f = np.float32
    if p.min_width - width > p.min_height - height:
        return int(float(f(p.min_width) * (f(height) / f(width))) + 0.5), int(p.min_width)
    return int(p.min_height), int(float(f(p.min_height) * (f(width) / f(height))) + 0.5)
