"""Random resizing and noise of the sara and Intel forks, as their code does it.

Sources: sara-nl src/caffe/data_transformer.cpp (RandomResizeImage, RandomAlterAspectRatio),
src/caffe/util/im_transforms.cpp (ApplyResize). Real arithmetic is float32 throughout.
Caffe has two streams: `transformer_rng` is the DataTransformer's, `thread_rng` its thread's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.data.transform.cubic import ImagePart, cubic, needed
from caffeio.data.transform.image import INTERPOLATION, Pixels, check_size, resize, uses_ipp
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Word = Callable[[], int]
_F = np.float32
_FLOAT = Struct("f")
_PAD_MODES = {
    pb.ResizeParameter.CONSTANT: cv2.BORDER_CONSTANT,
    pb.ResizeParameter.MIRRORED: cv2.BORDER_REFLECT_101,
    pb.ResizeParameter.REPEAT_NEAREST: cv2.BORDER_REPLICATE,
}
_CODES = {number: INTERPOLATION[name] for name, number in pb.ResizeParameter.Interp_mode.items()}
_ROUNDS_TO_ONE = (1 << 32) - 128  # from here on a word is 2^32 in float32


def pick(next_word: Word, n: int) -> int:
    """`next_word % n`; n must be positive, as Caffe checks."""
    if n <= 0:
        raise DataError(f"a random choice among {n}: the bounds are the wrong way round")
    return next_word() % n


@cache
def grid(low: float, high: float) -> list[float]:
    """The float32 values low, low + 0.001, ... up to high, one of which `ratio` chooses."""
    a, b = _F(low), _F(high)
    steps = int((b - a) * _F(1000) + _F(1))
    if steps <= 0:
        raise DataError(f"a random number between {low:g} and {high:g}: the wrong way round")
    values: list[float] = ((np.arange(steps).astype(_F) + a * _F(1000)) / _F(1000)).tolist()
    return values


def float32(value: float) -> float:
    """`value` rounded to float32."""
    return _FLOAT.unpack(_FLOAT.pack(value))[0]  # type: ignore[no-any-return]


def uniform(next_word: Word, low: float, high: float) -> np.float32:
    """One value of Caffe's uniform(low, high) (see caffeio.boost_random)."""
    a = _F(low)
    top = np.nextafter(_F(high), _F(np.inf), dtype=_F)
    if not a < top:
        raise DataError(f"a random number between {low:g} and {high:g}: the wrong way round")
    while True:
        value = _F(next_word()) / _F(4294967296) * (top - a) + a
        if value < top:
            return _F(value)


# -- ApplyResize -----------------------------------------------------------------------------


@cache
def _cumulative(n: int) -> NDArray[np.float32]:
    return np.cumsum(np.full(n, _F(1) / _F(n)), dtype=_F)


def interpolation(param: pb.ResizeParameter, thread_rng: Word) -> int:
    """OpenCV's code: LINEAR if none is listed, else one of the list at random."""
    modes = param.interp_mode
    if not modes:
        return INTERPOLATION["LINEAR"]
    if len(modes) == 1:  # a number in [0, 1) is drawn all the same; see `uniform`
        while thread_rng() >= _ROUNDS_TO_ONE:
            pass
        return _CODES[modes[0]]
    value = uniform(thread_rng, 0, float(_cumulative(len(modes))[-1]))
    index = int(np.searchsorted(_cumulative(len(modes)), value, side="left"))
    return _CODES[modes[min(index, len(modes) - 1)]]


def apply_resize(
    image: Pixels, param: pb.ResizeParameter, thread_rng: Word, size: tuple[int, int] | None = None
) -> Pixels:
    """Resize as `param` says; `size` (width, height) replaces its own."""
    whole = (0, 0, image.shape[1], image.shape[0])
    return make_cut(whole, param, thread_rng, size or (param.width, param.height)).take(image)


class Cut(NamedTuple):
    """A rectangle of an image, and how it is resized."""

    x: int
    y: int
    width: int
    height: int
    to: tuple[int, int]  # width and height
    mode: int  # OpenCV's code of the interpolation
    padded: pb.ResizeParameter | None = None  # how the content is fitted into `to`

    def rows(self, end: int) -> int:
        """How many rows of the image the rows before `end` of the result depend on."""
        some = self._by_parts()
        return self.y + (needed(self.height, self.to[1], end) if some else self.height)

    def take(self, image: Pixels, part: ImagePart | None = None) -> Pixels:
        """The resized rectangle, or the part of it that is wanted.

        Of the image only as many rows must be there as `rows` tells.
        """
        pixels = image[self.y : self.y + self.height, self.x : self.x + self.width]
        if part is not None and self._by_parts():
            return cubic(pixels, self.height, self.to, part)
        if self.padded is not None:
            pixels = _fit_and_pad(pixels, self.padded, *self.to, self.mode)
        elif (self.width, self.height) != self.to:
            pixels = resize(pixels, *self.to, self.mode)
        if part is None:
            return pixels
        return pixels[part.y : part.y + part.height, part.x : part.x + part.width]

    def _by_parts(self) -> bool:
        return self.mode == cv2.INTER_CUBIC and self.padded is None and not uses_ipp()


def make_cut(
    rectangle: tuple[int, int, int, int], param: pb.ResizeParameter, thread_rng: Word,
    size: tuple[int, int],
) -> Cut:  # fmt: skip
    """Plan to resize a rectangle (x, y, width, height) as `param` says, to `size`."""
    mode = interpolation(param, thread_rng)
    width, height = size
    if param.resize_mode == pb.ResizeParameter.WARP:
        check_size(width, height)
        return Cut(*rectangle, size, mode)
    if width <= 0 or height <= 0:
        raise DataError(f"resize_param needs height and width, not {height} and {width}")
    aspect = _F(rectangle[2]) / _F(rectangle[3])
    if param.resize_mode == pb.ResizeParameter.FIT_SMALL_SIZE:
        if aspect < _F(width) / _F(height):
            size = (width, math.floor(_F(width) / aspect))
        else:
            size = (math.floor(aspect * _F(height)), height)
        check_size(*size)
        return Cut(*rectangle, size, mode)
    if param.resize_mode == pb.ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        return Cut(*rectangle, size, mode, param)
    raise DataError(f"resize mode {param.resize_mode} is not implemented")


def _fit_and_pad(
    image: Pixels, param: pb.ResizeParameter, width: int, height: int, mode: int
) -> Pixels:
    aspect = _F(image.shape[1]) / _F(image.shape[0])
    top = bottom = left = right = 0
    if aspect > _F(width) / _F(height):
        image = resize(image, width, math.floor(_F(width) / aspect), mode)
        top = (height - image.shape[0]) // 2
        bottom = height - image.shape[0] - top
    else:
        image = resize(image, math.floor(aspect * _F(height)), height, mode)
        left = (width - image.shape[1]) // 2
        right = width - image.shape[1] - left
    channels = 1 if image.ndim == 2 else image.shape[2]
    values = list(param.pad_value) or [0.0]
    if len(values) not in (1, channels):
        raise DataError(f"specify either 1 pad_value or as many as channels: {channels}")
    values = values * channels if len(values) == 1 else values
    return np.asarray(
        cv2.copyMakeBorder(
            image, top, bottom, left, right, _PAD_MODES[param.pad_mode], value=values[:4]
        )
    )


def shorter_side(
    height: int, width: int, size: int, param: pb.ResizeParameter, thread_rng: Word
) -> Cut:
    """Plan to bring the shorter side to `size`; the other is cut to an int in float32."""
    if height < width:
        target = (int(_F(width) / _F(height) * _F(size)), size)
    else:
        target = (size, int(_F(height) / _F(width) * _F(size)))
    return make_cut((0, 0, width, height), param, thread_rng, target)


def random_size(height: int, width: int, param: pb.RandomResizeParameter, next_word: Word) -> int:
    """A size for the shorter side in [min_size, max_size]; 0 stands for the image's own sides."""
    low = param.min_size or min(height, width)
    high = param.max_size or max(height, width)
    return pick(next_word, high - low + 1) + low


def random_resize(
    height: int,
    width: int,
    param: pb.RandomResizeParameter,
    transformer_rng: Word,
    thread_rng: Word,
) -> Cut:
    """Plan to bring the shorter side to a random size in [min_size, max_size]."""
    size = random_size(height, width, param, transformer_rng)
    return shorter_side(height, width, size, param.resize_param, thread_rng)


def random_window(
    height: int, width: int, param: pb.RandomAspectRatioParameter, next_word: Word
) -> tuple[int, int, int, int, int] | None:
    """A window (x, y, width, height, attempt) of random area and aspect; None if none fitted."""
    area = float32(height * width)
    change = param.aspect_ratio_change
    shares = grid(param.min_area_ratio, param.max_area_ratio)
    aspects = grid(change, float(_F(1) / _F(change)))
    swaps = grid(0, 1)
    for attempt in range(1, param.max_attempt + 1):
        share = shares[next_word() % len(shares)]
        aspect = aspects[next_word() % len(aspects)]
        # products, quotients and roots of float32 numbers, taken in double and rounded once
        side = float32(math.sqrt(float32(share * area)))
        h, w = int(float32(side * aspect)), int(float32(side / aspect))
        if swaps[next_word() % len(swaps)] < 0.5:
            h, w = w, h
        if h <= height and w <= width:
            y = next_word() % (height - h + 1)
            x = next_word() % (width - w + 1)
            return x, y, w, h, attempt
    return None


def random_aspect_ratio(
    height: int,
    width: int,
    param: pb.RandomAspectRatioParameter,
    crop: int,
    transformer_rng: Word,
    thread_rng: Word,
) -> Cut:
    """Plan to resize a random window to crop x crop; if none fits, the shorter side to `crop`."""
    if param.max_area_ratio < param.min_area_ratio:
        raise DataError("random_aspect_ratio_param.max_area_ratio is below min_area_ratio")
    window = random_window(height, width, param, transformer_rng)
    if window is None:
        return shorter_side(height, width, crop, param.resize_param, thread_rng)
    return make_cut(window[:4], param.resize_param, thread_rng, (crop, crop))
