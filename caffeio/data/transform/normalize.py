"""From chosen pixels to float32 values: mean, scale, mirror, and the order of the memory.

Source: src/caffe/data_transformer.cpp of BVLC and of NVIDIA. Of bytes each output depends on the
pixel and the channel alone (unless there is a mean image): a table of 256 values, exact and quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.data.transform.cubic import in_rows, loaded_kernels, rows
from caffeio.errors import DataError
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import format_shape

Array = NDArray[Any]
Fail = Callable[[str, str], DataError]  # (message, field) -> error that names the layer


class Image(NamedTuple):
    """Pixels and their order: planar (C, H, W) uint8 or float32, or (H, W[, C]) uint8."""

    pixels: Array
    planar: bool
    corner: tuple[int, int] = (0, 0)  # row and column of the whole image where the pixels begin

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pixels."""
        p = self.pixels
        if self.planar:
            return p.shape[0], p.shape[1], p.shape[2]
        return (p.shape[2] if p.ndim == 3 else 1), p.shape[0], p.shape[1]


class CropWindow(NamedTuple):
    """Where the output lies in an image, and how it is written."""

    y: int
    x: int
    height: int
    width: int
    mirror: bool
    full: tuple[int, int]  # height and width of the image that y and x refer to


def default_fail(message: str, field: str) -> DataError:
    """An error that names the field of transform_param."""
    return DataError(f"transform_param.{field}: {message}" if field else message)


class Normalizer:
    """Writes (pixel - mean) * scale of a window of an image."""

    def __init__(
        self,
        param: pb.TransformationParameter,
        profile: Profile,
        mean: NDArray[np.float32] | None,
        fail: Fail,
    ) -> None:
        self.param, self.profile, self.mean, self.fail = param, profile, mean, fail
        self.scale = np.float32(param.scale)
        self.means = np.array(param.mean_value, np.float32)
        self._tables: dict[tuple[int, bool], tuple[list[Array], Array, NDArray[np.float32]]] = {}

    def _fail(self, message: str, field: str = "") -> NoReturn:
        raise self.fail(message, field)

    def write(self, image: Image, window: CropWindow, out: NDArray[np.float32]) -> None:
        """Write the window's (pixel - mean) * scale into `out`, float32 (C, height, width)."""
        y, x, height, width, mirror, full = window
        pixels, channels = image.pixels, image.shape[0]
        if self.mean is not None and not self.scales_first(image):
            self.check_mean(channels, full)
        top, left = y - image.corner[0], x - image.corner[1]
        inside = slice(top, top + height), slice(left, left + width)
        part = pixels[(slice(None), *inside) if image.planar else inside]
        if self.mean is None and pixels.dtype == np.uint8:
            if self._written_at_once(part, image, mirror, out):
                return
            if mirror and not image.planar:
                part = cv2.flip(part, 1).reshape(part.shape)
            planes = _planes(part, image.planar)
            if mirror and image.planar:
                planes = [cv2.flip(plane, 1) for plane in planes]
            self._write_bytes(planes, self.scales_first(image), out)
            return
        planes = _planes(part, image.planar)
        target = out[:, :, ::-1] if mirror else out
        for i, plane in enumerate(planes):
            np.copyto(target[i], plane)
        if self.scales_first(image):
            self._write_scaled(target, height, width, channels)
            return
        if self.mean is not None:
            np.subtract(target, self.mean[:, y : y + height, x : x + width], out=target)
        elif len(self.means):
            np.subtract(target, self.means_of(channels)[:, None, None], out=target)
        np.multiply(out, self.scale, out=out)

    def _written_at_once(self, part: Array, image: Image, mirror: bool, out: Array) -> bool:
        """Write pixels of three bytes by one compiled loop, if it is loaded; say whether."""
        loops = loaded_kernels()
        if loops is None or image.planar or not (in_rows(part) and out.flags.c_contiguous):
            return False
        scaled = self.scales_first(image)
        means = self._table(3, scaled)[2]
        loops.write_pixels(rows(part), mirror, scaled, self.scale, means, out)
        return True

    def _write_bytes(self, planes: Sequence[Array], scaled: bool, out: Array) -> None:
        """Write planes of bytes: by the compiled loop if it is loaded, by tables otherwise."""
        loops = loaded_kernels()
        tables, _, means = self._table(len(planes), scaled)
        for i, plane in enumerate(planes):
            if loops is not None and plane.flags.c_contiguous and out.flags.c_contiguous:
                loops.write_plane(plane, scaled, self.scale, means[i], out[i])
            else:
                cv2.LUT(plane, tables[i], out[i])

    def scales_first(self, image: Image) -> bool:
        """Whether NVIDIA's formula is used, whose roundings differ: for decoded images."""
        return self.profile.data_scaled_mean and not image.planar

    def _write_scaled(
        self, target: NDArray[np.float32], height: int, width: int, channels: int
    ) -> None:
        """NVIDIA's pixel * scale - mean * scale; a mean file's centre is what counts."""
        np.multiply(target, self.scale, out=target)
        if self.mean is not None:
            top, left = (self.mean.shape[1] - height) // 2, (self.mean.shape[2] - width) // 2
            mean = self.mean[:, max(top, 0) : top + height, max(left, 0) : left + width]
            if mean.shape != target.shape:
                self._fail("the mean is smaller than the image or has other channels", "mean_file")
            np.subtract(target, mean * self.scale, out=target)
        elif len(self.means):
            np.subtract(target, (self.means_of(channels) * self.scale)[:, None, None], out=target)

    def write_interleaved(self, image: Image, window: CropWindow, out: NDArray[Any]) -> None:
        """The same into `out` of shape (height, width, C): float32, or the bare uint8 pixels."""
        y, x, height, width, mirror, _ = window
        channels = image.shape[0]
        if out.dtype == np.uint8 or (self.mean is None and image.pixels.dtype == np.uint8):
            y, x = y - image.corner[0], x - image.corner[1]
            if image.planar:
                part: Any = image.pixels[:, y : y + height, x : x + width].transpose(1, 2, 0)
                part = np.ascontiguousarray(part)
            else:
                part = image.pixels[y : y + height, x : x + width].reshape(height, width, -1)
            part = cv2.flip(part, 1).reshape(out.shape) if mirror else part
            if out.dtype == np.uint8:
                np.copyto(out, part)
                return
            cv2.LUT(part, self._table(channels, self.scales_first(image))[1], out)
            return
        rows = np.empty((channels, height, width), np.float32)
        self.write(image, window, rows)
        np.copyto(out, rows.transpose(1, 2, 0))

    def check_mean(self, channels: int, full: tuple[int, int]) -> None:
        """Raise DataError unless the mean image is of this size."""
        assert self.mean is not None
        if (channels, *full) != self.mean.shape:
            want = format_shape(self.mean.shape, " x ")
            have = format_shape((channels, *full), " x ")
            self._fail(f"the mean is {want} (channels, height, width), the image {have}",
                       "mean_file")  # fmt: skip

    def means_of(self, channels: int) -> NDArray[np.float32]:
        """mean_value, one for each channel; none at all if there is none."""
        if len(self.means) not in (1, channels):
            self._fail(
                f"specify either 1 mean_value or as many as channels: {channels}, "
                f"not {len(self.means)}",
                "mean_value",
            )
        return np.broadcast_to(self.means, (channels,))

    def _table(self, channels: int, scaled: bool) -> tuple[list[Array], Array, NDArray[np.float32]]:
        """What each of the 256 pixel values becomes, by channel: planar, interleaved; the means."""
        key = channels, scaled
        if key not in self._tables:
            values: Array = np.broadcast_to(np.arange(256, dtype=np.float32), (channels, 256))
            means = self.means_of(channels) if len(self.means) else np.zeros(channels, np.float32)
            means = means * self.scale if scaled else means
            column = means[:, None]
            values = values * self.scale - column if scaled else (values - column) * self.scale
            values = np.ascontiguousarray(values)
            together = np.ascontiguousarray(values.T).reshape(1, 256, channels)
            means = np.array(means, np.float32)
            self._tables[key] = ([row.reshape(1, 256) for row in values], together, means)
        return self._tables[key]


def _planes(part: Array, planar: bool) -> Sequence[Array]:
    """The channels of a part of an image."""
    if planar:
        return list(part)
    return cv2.split(part) if part.ndim == 3 else [part]
