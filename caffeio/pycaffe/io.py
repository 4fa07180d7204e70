"""Arrays and images in and out: blobs, datums, and what a net wants an image to look like.

Images are arrays of shape (height, width, channels). scikit-image and SciPy are not needed: the
numbers are those that pycaffe had with scikit-image 0.14 (see caffeio.pycaffe._resize).

Source of the behaviour: python/caffe/io.py (BVLC).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.pycaffe._resize import scipy_zoom, skimage_resize
from caffeio.pycaffe.proto import caffe_pb2

Array = NDArray[Any]
_GRAY = (0.2125, 0.7154, 0.0721)  # rgb2gray of scikit-image


def blobproto_to_array(blob: Any, return_diff: bool = False) -> Array:
    """The data, or the diff, of a BlobProto, as an array of doubles.

    num, channels, height and width give the shape if any of them is set, `shape` else. Raises
    ValueError if the number of values is another.
    """
    data = np.array(blob.diff if return_diff else blob.data, dtype=np.float64)
    legacy = ("num", "channels", "height", "width")
    if any(blob.HasField(name) for name in legacy):
        return data.reshape([getattr(blob, name) for name in legacy])
    return data.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: Array, diff: Array | None = None) -> Any:
    """A BlobProto of any shape; `diff` must have the same number of values."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).flat)
    if diff is not None:
        blob.diff.extend(diff.astype(float).flat)
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[Array]) -> bytes:
    """The bytes of a BlobProtoVector of these arrays."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend(map(array_to_blobproto, arraylist))
    data: bytes = vector.SerializeToString()
    return data


def blobprotovector_str_to_arraylist(str: bytes) -> list[Array]:
    """The arrays in the bytes of a BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(str).blobs]


def array_to_datum(arr: Array, label: int | None = None) -> Any:
    """A Datum of a (channels, height, width) array: uint8 as bytes, all else as floats.

    Raises ValueError if the array has another number of axes.
    """
    if arr.ndim != 3:
        raise ValueError("Incorrect array shape.")
    datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Any) -> Array:
    """A Datum's values, (channels, height, width), as uint8 or double; encoded ones are not read.

    Raises ValueError if the number of values is another.
    """
    if len(datum.data):
        values = np.frombuffer(datum.data, dtype=np.uint8).copy()
    else:
        values = np.array(datum.float_data, dtype=np.float64)
    return values.reshape(datum.channels, datum.height, datum.width)


class Transformer:
    """What is done to an image before it goes into a net, and how to undo it.

    `inputs` maps names of inputs to their shapes (num, channels, height, width), as tuples. Each
    setting is a dict of its own (`transpose`, `channel_swap`, `raw_scale`, `mean`, `input_scale`)
    by the same names; what is not set is not done.
    """

    def __init__(self, inputs: Mapping[str, tuple[int, ...]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, Any] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, Any] = {}

    def __check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise Exception(  # noqa: TRY002 (scripts know it so)
                f"{in_} is not one of the net inputs: {self.inputs}"
            )

    def preprocess(self, in_: str, data: Array) -> Array:
        """Make an (H', W', K) image what input `in_` wants: a float32 array (K, H, W).

        In this order: float32, resized to the input's height and width, axes transposed, channels
        swapped, times raw_scale, minus mean, times input_scale. The last three work in place: a
        float32 image that is neither resized nor swapped is changed itself, as in pycaffe.
        """
        self.__check_input(in_)
        caffe_in = data.astype(np.float32, copy=False)
        size = self.inputs[in_][2:]
        if caffe_in.shape[:2] != size:
            caffe_in = resize_image(caffe_in, size)
        if (transpose := self.transpose.get(in_)) is not None:
            caffe_in = caffe_in.transpose(transpose)
        if (swap := self.channel_swap.get(in_)) is not None:
            caffe_in = caffe_in[swap, :, :]
        if (raw_scale := self.raw_scale.get(in_)) is not None:
            caffe_in *= raw_scale
        if (mean := self.mean.get(in_)) is not None:
            caffe_in -= mean
        if (input_scale := self.input_scale.get(in_)) is not None:
            caffe_in *= input_scale
        return caffe_in

    def deprocess(self, in_: str, data: Array) -> Array:
        """Undo `preprocess`, all but the resizing; axes of length 1 are taken out first."""
        self.__check_input(in_)
        image = data.copy().squeeze()
        if (input_scale := self.input_scale.get(in_)) is not None:
            image /= input_scale
        if (mean := self.mean.get(in_)) is not None:
            image += mean
        if (raw_scale := self.raw_scale.get(in_)) is not None:
            image /= raw_scale
        if (swap := self.channel_swap.get(in_)) is not None:
            image = image[np.argsort(swap), :, :]
        if (transpose := self.transpose.get(in_)) is not None:
            image = image.transpose(np.argsort(transpose))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of axes: (2, 0, 1) makes (K, H, W) of (H, W, K)."""
        self.__check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise Exception(  # noqa: TRY002
                "Transpose order needs to have the same number of dimensions as the input."
            )
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of channels: (2, 1, 0) makes BGR of RGB. Channels are the first axis."""
        self.__check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise Exception(  # noqa: TRY002
                "Channel swap needs to have the same number of dimensions as the input channels."
            )
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: Any) -> None:
        """Set the factor before the mean is subtracted, such as 255 for images from 0 to 1."""
        self.__check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """Set what is subtracted: (K,), one number a channel, or (K, H, W).

        A mean image of another size is resized. Raises ValueError if its channels do not fit.
        """
        self.__check_input(in_)
        shape = mean.shape
        if mean.ndim == 1:
            if shape[0] != self.inputs[in_][1]:
                raise ValueError("Mean channels incompatible with input.")
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            if len(shape) == 2:
                shape = (1, *shape)
            if len(shape) != 3:
                raise ValueError("Mean shape invalid")
            if shape != self.inputs[in_][1:]:
                mean = _resized_mean(mean, self.inputs[in_][2:])
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: Any) -> None:
        """Set the factor behind the mean."""
        self.__check_input(in_)
        self.input_scale[in_] = scale


def _resized_mean(mean: Array, size: Sequence[int]) -> Array:
    low, high = mean.min(), mean.max()
    image = resize_image(((mean - low) / (high - low)).transpose((1, 2, 0)), size)
    out: Array = image.transpose((2, 0, 1)) * (high - low) + low
    return out


def load_image(filename: Any, color: bool = True) -> NDArray[np.float32]:
    """Read an image as (H, W, 3) RGB, or as (H, W, 1) if not `color`; float32 from 0 to 1.

    `filename` is a path or an open file. Transparency is dropped; a picture's orientation tag does
    not turn it. Raises OSError if it cannot be read or is no image.
    """
    image = _decode(_read_source(filename), filename)
    scale = 1.0 / np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1.0
    if image.ndim == 2:
        plane = (image * scale).astype(np.float32)[:, :, np.newaxis]
        return np.tile(plane, (1, 1, 3)) if color else plane
    rgb = image[:, :, 2::-1] * scale
    if not color:
        rgb = np.dot(rgb, np.array(_GRAY))[:, :, np.newaxis]
    return np.ascontiguousarray(rgb, dtype=np.float32)


def _read_source(source: Any) -> bytes:
    if hasattr(source, "read"):
        data: bytes = source.read()
        return data
    with open(os.fspath(source), "rb") as file:
        return file.read()


def _decode(data: bytes, name: Any) -> Array:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise OSError(f"cannot identify image file {name!r}")
    return np.asarray(image)


def resize_image(im: Array, new_dims: Sequence[int], interp_order: int = 1) -> NDArray[np.float32]:
    """Resize an (H, W, K) image to `new_dims`, (height, width); float32.

    Of 1 or 3 channels as skimage.transform.resize does it (the border mixes with the smallest
    value), of other numbers as scipy.ndimage.zoom. Neither smooths before it shrinks.
    """
    rows, columns = (int(n) for n in new_dims)
    if im.shape[-1] not in (1, 3):
        return scipy_zoom(im, rows, columns, interp_order).astype(np.float32)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((rows, columns, im.shape[-1]), low, dtype=np.float32)
    unit = skimage_resize((im - low) / (high - low), rows, columns, interp_order)
    return np.asarray(unit * (high - low) + low, dtype=np.float32)


def oversample(images: Sequence[Array], crop_dims: Sequence[int]) -> NDArray[np.float32]:
    """Ten crops of each (H, W, K) image: corners, centre, and the mirrors of these five.

    Returns (10 * N, height, width, K); all images have the first one's size.
    """
    height, width = (int(n) for n in crop_dims)
    rows, columns = images[0].shape[:2]
    places = [(y, x) for y in (0, rows - height) for x in (0, columns - width)]
    places.append((int(rows / 2.0 - height / 2.0), int(columns / 2.0 - width / 2.0)))
    crops = np.empty((10 * len(images), height, width, images[0].shape[-1]), dtype=np.float32)
    for number, image in enumerate(images):
        ten = crops[10 * number : 10 * number + 10]
        for i, (y, x) in enumerate(places):
            ten[i] = image[y : y + height, x : x + width]
        ten[5:] = ten[:5, :, ::-1]
    return crops
