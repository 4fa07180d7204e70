"""DataTransformer: decode, resize, crop, subtract the mean, scale, mirror; bit for bit Caffe's.

Sources: src/caffe/data_transformer.cpp of BVLC and of the sara fork. Order of one sample: mirror
draw, random resize, resize and noise, crop draws, then (pixel - mean) * scale in float32, written
mirrored. A mean file is indexed where the pixel was, before cropping and mirroring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.data import augment
from caffeio.data.datum import Datum
from caffeio.data.image import COLOR, GRAY, NATIVE, decode
from caffeio.data.rng import Draws
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Array = NDArray[Any]
Fail = Callable[[str, str], DataError]  # (message, field) -> error that names the layer


class Image(NamedTuple):
    """Pixels and their order: planar (C, H, W) uint8 or float32, or (H, W[, C]) uint8."""

    pixels: Array
    planar: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        p = self.pixels
        if self.planar:
            return p.shape[0], p.shape[1], p.shape[2]
        return (p.shape[2] if p.ndim == 3 else 1), p.shape[0], p.shape[1]


class Window(NamedTuple):
    """Where the output lies in an image, and how it is written."""

    y: int
    x: int
    height: int
    width: int
    mirror: bool
    full: tuple[int, int]  # height and width of the image that y and x refer to


def _default_fail(message: str, field: str) -> DataError:
    return DataError(f"transform_param.{field}: {message}" if field else message)


class Transformer:
    """What `transform_param` makes of an image.

    `mean` is the mean file's array (C, H, W) float32, already read. `crop_fields`: do crop_h and
    crop_w count (SSD; the sara fork ignores them)?
    """

    def __init__(
        self,
        param: pb.TransformationParameter,
        phase: str,
        *,
        mean: NDArray[np.float32] | None = None,
        fail: Fail = _default_fail,
    ) -> None:
        self.param, self.phase, self.mean, self.fail = param, phase, mean, fail
        self.scale = np.float32(param.scale)
        self.means = np.array(param.mean_value, np.float32)
        self.crop = int(param.crop_size)
        self.mirror = bool(param.mirror)
        self.train = phase == "TRAIN"
        self.flag = COLOR if param.force_color else GRAY if param.force_gray else NATIVE
        self.resizes = bool(param.resize_param) or bool(param.noise_param)
        self._tables: dict[int, tuple[list[Array], Array]] = {}
        self._check()
        self.randomly_resized = param.HasField("random_resize_param") or param.HasField(
            "random_aspect_ratio_param"
        )
        # words that a sample draws beforehand, and a guess of how many more it will want
        self.fixed_draws = int(self.mirror) + 2 * int(self.train and self.crop > 0)
        self.lookahead = 13 if param.HasField("random_aspect_ratio_param") else 1
        if not self.randomly_resized and not self.resizes:
            self.lookahead = 0

    def _check(self) -> None:
        p = self.param
        if p.mean_file and len(p.mean_value):
            self._fail("cannot specify mean_file and mean_value at the same time", "mean_file")
        if p.force_color and p.force_gray:
            self._fail("cannot set both force_color and force_gray", "force_color")
        for field in ("resize_param", "noise_param"):
            if len(getattr(p, field)) > 1:
                self._fail("more than one is not implemented", field)
        for resize in p.resize_param:
            if resize.height <= 0 or resize.width <= 0:
                self._fail("height and width must be positive", "resize_param")
        random = p.HasField("random_resize_param") or p.HasField("random_aspect_ratio_param")
        if random and not self.crop:
            name = "random_resize_param" if p.HasField("random_resize_param") else (
                "random_aspect_ratio_param")  # fmt: skip
            self._fail("needs crop_size", name)

    def _fail(self, message: str, field: str = "") -> NoReturn:
        raise self.fail(message, field)

    def needs_exact_cubic(self) -> bool:
        """Whether any resizing may be CUBIC, where OpenCV's IPP gives other pixels."""
        p = self.param
        params = [*p.resize_param]
        if p.HasField("random_resize_param"):
            params.append(p.random_resize_param.resize_param)
        if p.HasField("random_aspect_ratio_param"):
            params.append(p.random_aspect_ratio_param.resize_param)
        return any(pb.ResizeParameter.CUBIC in r.interp_mode for r in params)

    # -- image -> window -------------------------------------------------------------------

    def load(self, datum: Datum) -> Image:
        """The pixels of a Datum; encoded ones are decoded as force_color and force_gray say."""
        if datum.encoded:
            return Image(decode(datum.data, self.flag), False)
        return Image(datum.pixels(), True)

    def output_shape(self, image: Image) -> tuple[int, int, int]:
        """(C, H, W) that this image becomes, without drawing anything (InferBlobShape)."""
        channels, height, width = image.shape
        if self.crop:
            if not self.randomly_resized:
                self._check_crop(height, width)
            return channels, self.crop, self.crop
        for resize in self.param.resize_param:
            height, width = new_size(resize, height, width)
        return channels, height, width

    def _check_crop(self, height: int, width: int) -> None:
        if height < self.crop or width < self.crop:
            self._fail(
                f"{self.crop} is larger than the image, whose height is {height} and width {width}",
                "crop_size",
            )

    def place(self, image: Image, draws: Draws) -> tuple[Image, Window]:
        """Resize `image` and choose the window that is written."""
        mirror = self.mirror and draws.word() % 2 != 0
        if self.randomly_resized:
            image = self._random_resize(image, draws)
        other = image
        if self.resizes and not image.planar:
            pixels = image.pixels
            for resize in self.param.resize_param:
                pixels = augment.apply_resize(pixels, resize, draws.more)
            for noise in self.param.noise_param:
                pixels = augment.apply_noise(pixels, noise, draws.more)
            other = Image(pixels, False)
        _, height, width = other.shape
        if not self.crop:
            return other, Window(0, 0, height, width, mirror, (height, width))
        self._check_crop(height, width)
        if self.train:
            y = draws.word() % (height - self.crop + 1)
            x = draws.word() % (width - self.crop + 1)
        else:
            y, x = (height - self.crop) // 2, (width - self.crop) // 2
        # the fork cuts the crop out of the image before resize_param and noise_param
        if y + self.crop > image.shape[1] or x + self.crop > image.shape[2]:
            self._fail(
                f"the crop of {self.crop} at row {y}, column {x} of the resized image lies outside "
                f"of the image before resize_param ({image.shape[1]} x {image.shape[2]}), from "
                "which real Caffe takes the pixels",
                "resize_param",
            )
        return image, Window(y, x, self.crop, self.crop, mirror, (height, width))

    def _random_resize(self, image: Image, draws: Draws) -> Image:
        pixels = image.pixels
        if image.planar:  # the fork reads the planes as if they were interleaved
            if pixels.dtype != np.uint8:
                self._fail("a Datum of floats cannot be resized", "random_resize_param")
            channels, height, width = image.shape
            pixels = np.ascontiguousarray(pixels).reshape(height, width, channels)
        if self.param.HasField("random_resize_param"):
            out = augment.random_resize(pixels, self.param.random_resize_param, draws.more)
        else:
            p = self.param.random_aspect_ratio_param
            out = augment.random_aspect_ratio(pixels, p, self.crop, draws.more)
        return Image(out, False)

    # -- window -> output ------------------------------------------------------------------

    def write(self, image: Image, window: Window, out: NDArray[np.float32]) -> None:
        """Write the window's (pixel - mean) * scale into `out`, float32 (C, height, width)."""
        y, x, height, width, mirror, full = window
        pixels, channels = image.pixels, image.shape[0]
        if self.mean is not None:
            self._check_mean(channels, full)
        if image.planar:
            planes: Any = pixels[:, y : y + height, x : x + width]
        else:
            part = pixels[y : y + height, x : x + width]
            planes = cv2.split(part) if pixels.ndim == 3 else (part,)
        if self.mean is None and pixels.dtype == np.uint8:
            tables, _ = self._table(channels)
            for table, plane, target in zip(tables, planes, out, strict=True):
                cv2.LUT(cv2.flip(plane, 1) if mirror else plane, table, target)
            return
        target = out[:, :, ::-1] if mirror else out
        for i, plane in enumerate(planes):
            np.copyto(target[i], plane)
        if self.mean is not None:
            np.subtract(target, self.mean[:, y : y + height, x : x + width], out=target)
        elif len(self.means):
            np.subtract(target, self._means(channels)[:, None, None], out=target)
        np.multiply(out, self.scale, out=out)

    def write_interleaved(self, image: Image, window: Window, out: NDArray[Any]) -> None:
        """The same into `out` of shape (height, width, C): float32, or the bare uint8 pixels."""
        y, x, height, width, mirror, full = window
        channels = image.shape[0]
        if out.dtype == np.uint8 or (self.mean is None and image.pixels.dtype == np.uint8):
            if image.planar:
                part: Any = image.pixels[:, y : y + height, x : x + width].transpose(1, 2, 0)
                part = np.ascontiguousarray(part)
            else:
                part = image.pixels[y : y + height, x : x + width].reshape(height, width, -1)
            if out.dtype == np.uint8:
                np.copyto(out, part[:, ::-1] if mirror else part)
                return
            part = cv2.flip(part, 1).reshape(out.shape) if mirror else part
            cv2.LUT(part, self._table(channels)[1], out)
            return
        rows = np.empty((channels, height, width), np.float32)
        self.write(image, window, rows)
        np.copyto(out, rows.transpose(1, 2, 0))

    def _check_mean(self, channels: int, full: tuple[int, int]) -> None:
        assert self.mean is not None
        if (channels, *full) != self.mean.shape:
            want = " x ".join(map(str, self.mean.shape))
            have = " x ".join(map(str, (channels, *full)))
            self._fail(f"the mean is {want} (channels, height, width), the image {have}",
                       "mean_file")  # fmt: skip

    def _means(self, channels: int) -> NDArray[np.float32]:
        if len(self.means) not in (1, channels):
            self._fail(
                f"specify either 1 mean_value or as many as channels: {channels}, "
                f"not {len(self.means)}",
                "mean_value",
            )
        return np.broadcast_to(self.means, (channels,))

    def _table(self, channels: int) -> tuple[list[Array], Array]:
        """What each of the 256 pixel values becomes, by channel: planar and interleaved."""
        if channels not in self._tables:
            values = np.arange(256, dtype=np.float32)
            rows = np.broadcast_to(values, (channels, 256))
            if len(self.means):
                rows = rows - self._means(channels)[:, None]
            rows = np.ascontiguousarray(rows * self.scale)
            together = np.ascontiguousarray(rows.T).reshape(1, 256, channels)
            self._tables[channels] = ([row.reshape(1, 256) for row in rows], together)
        return self._tables[channels]


def new_size(resize: pb.ResizeParameter, height: int, width: int) -> tuple[int, int]:
    """Height and width that an image of this size is resized to (InferNewSize)."""
    if resize.resize_mode != pb.ResizeParameter.FIT_SMALL_SIZE:
        return int(resize.height), int(resize.width)
    aspect = np.float32(width) / np.float32(height)
    if aspect < np.float32(resize.width) / np.float32(resize.height):
        return int(np.float32(resize.width) / aspect), int(resize.width)
    return int(resize.height), int(aspect * np.float32(resize.height))
