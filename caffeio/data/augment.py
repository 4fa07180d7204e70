"""Random resizing and noise of the sara and Intel forks, as their code does it.

Sources: sara-nl src/caffe/data_transformer.cpp (RandomResizeImage, RandomAlterAspectRatio),
src/caffe/util/im_transforms.cpp (ApplyResize, ApplyNoise). Real arithmetic is float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from caffeio.data.image import INTERPOLATION, Pixels, resize
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

Word = Callable[[], int]
_F = np.float32
_PAD_MODES = {
    pb.ResizeParameter.CONSTANT: cv2.BORDER_CONSTANT,
    pb.ResizeParameter.MIRRORED: cv2.BORDER_REFLECT_101,
    pb.ResizeParameter.REPEAT_NEAREST: cv2.BORDER_REPLICATE,
}


def pick(word: Word, n: int) -> int:
    """`word % n`; n must be positive, as Caffe checks."""
    if n <= 0:
        raise DataError(f"a random choice among {n}: the bounds are the wrong way round")
    return word() % n


def ratio(word: Word, low: float, high: float) -> np.float32:
    """A float32 on the grid low, low + 0.001, ... up to high."""
    a, b = _F(low), _F(high)
    steps = int((b - a) * _F(1000) + _F(1))
    return _F((_F(pick(word, steps)) + a * _F(1000)) / _F(1000))


def uniform(word: Word, low: float, high: float) -> np.float32:
    """One value of Caffe's uniform(low, high) (see caffeio.rng)."""
    a = _F(low)
    top = np.nextafter(_F(high), _F(np.inf), dtype=_F)
    while True:
        value = _F(word()) / _F(4294967296) * (top - a) + a
        if value < top:
            return _F(value)


# -- ApplyResize -----------------------------------------------------------------------------


def interpolation(param: pb.ResizeParameter, word: Word) -> int:
    """OpenCV's code: LINEAR if none is listed, else one of the list, all equally likely."""
    modes = param.interp_mode
    if not modes:
        return INTERPOLATION["LINEAR"]
    index = 0
    if len(modes) > 1:
        cumulative = np.cumsum(np.full(len(modes), _F(1) / _F(len(modes))), dtype=_F)
        value = uniform(word, 0, float(cumulative[-1]))
        index = int(np.searchsorted(cumulative, value, side="left"))
    name = pb.ResizeParameter.Interp_mode.Name(modes[min(index, len(modes) - 1)])
    return INTERPOLATION[name]


def apply_resize(image: Pixels, param: pb.ResizeParameter, word: Word,
                 size: tuple[int, int] | None = None) -> Pixels:  # fmt: skip
    """Resize as `param` says; `size` (width, height) replaces its own."""
    width, height = size or (param.width, param.height)
    mode = interpolation(param, word)
    if param.resize_mode == pb.ResizeParameter.WARP:
        return resize(image, width, height, mode)
    if width <= 0 or height <= 0:
        raise DataError(f"resize_param needs height and width, not {height} and {width}")
    aspect = _F(image.shape[1]) / _F(image.shape[0])
    wanted = _F(width) / _F(height)
    if param.resize_mode == pb.ResizeParameter.FIT_SMALL_SIZE:
        if aspect < wanted:
            return resize(image, width, math.floor(_F(width) / aspect), mode)
        return resize(image, math.floor(aspect * _F(height)), height, mode)
    if param.resize_mode == pb.ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        return _fit_and_pad(image, param, width, height, mode, aspect > wanted)
    raise DataError(f"resize mode {param.resize_mode} is not implemented")


def _fit_and_pad(
    image: Pixels, param: pb.ResizeParameter, width: int, height: int, mode: int, wide: bool
) -> Pixels:
    aspect = _F(image.shape[1]) / _F(image.shape[0])
    top = bottom = left = right = 0
    if wide:
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


def shorter_side(image: Pixels, size: int, param: pb.ResizeParameter, word: Word) -> Pixels:
    """Resize so that the shorter side is `size`; the other is cut to an int in float32."""
    height, width = image.shape[:2]
    if height < width:
        target = (int(_F(width) / _F(height) * _F(size)), size)
    else:
        target = (size, int(_F(height) / _F(width) * _F(size)))
    return apply_resize(image, param, word, target)


def random_resize(image: Pixels, param: pb.RandomResizeParameter, word: Word) -> Pixels:
    """Resize so that the shorter side is a random size in [min_size, max_size]."""
    height, width = image.shape[:2]
    low = param.min_size or min(height, width)
    high = param.max_size or max(height, width)
    size = pick(word, high - low + 1) + low
    return shorter_side(image, size, param.resize_param, word)


def random_window(
    height: int, width: int, param: pb.RandomAspectRatioParameter, word: Word
) -> tuple[int, int, int, int, int] | None:
    """A window (x, y, width, height, attempt) of random area and aspect; None if none fitted."""
    area = _F(height * width)
    change = _F(param.aspect_ratio_change)
    for attempt in range(1, param.max_attempt + 1):
        share = ratio(word, param.min_area_ratio, param.max_area_ratio)
        aspect = ratio(word, float(change), float(_F(1) / change))
        side = np.sqrt(share * area)
        h, w = int(side * aspect), int(side / aspect)
        if ratio(word, 0, 1) < 0.5:
            h, w = w, h
        if h <= height and w <= width:
            y = pick(word, height - h + 1)
            x = pick(word, width - w + 1)
            return x, y, w, h, attempt
    return None


def random_aspect_ratio(
    image: Pixels, param: pb.RandomAspectRatioParameter, crop: int, word: Word
) -> Pixels:
    """Resize a random window to crop x crop; if none fits, the shorter side to `crop`."""
    if param.max_area_ratio < param.min_area_ratio:
        raise DataError("random_aspect_ratio_param.max_area_ratio is below min_area_ratio")
    window = random_window(image.shape[0], image.shape[1], param, word)
    if window is None:
        return shorter_side(image, crop, param.resize_param, word)
    x, y, width, height, _ = window
    part = image[y : y + height, x : x + width]
    return apply_resize(part, param.resize_param, word, (crop, crop))


# -- ApplyNoise ------------------------------------------------------------------------------


def apply_noise(image: Pixels, param: pb.NoiseParameter, word: Word) -> Pixels:
    """The image effects of SSD's noise_param, in its order."""
    if param.decolorize:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)  # type: ignore[assignment]
    if param.gauss_blur:
        image = cv2.GaussianBlur(image, (7, 7), 1.5)  # type: ignore[assignment]
    if param.hist_eq:
        image = _on_luma(image, cv2.equalizeHist)
    if param.clahe:
        image = _on_luma(image, cv2.createCLAHE(clipLimit=4).apply)
    if param.jpeg > 0:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(param.jpeg)])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    if param.erode:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3), (1, 1))
        image = cv2.erode(image, kernel)  # type: ignore[assignment]
    if param.posterize:
        levels = np.arange(256) // 64 * 64 + 32
        image = cv2.LUT(image, levels.astype(np.uint8))  # type: ignore[assignment]
    if param.inverse:
        image = cv2.bitwise_not(image)  # type: ignore[assignment]
    if param.saltpepper:
        image = _salt_and_pepper(image, param.saltpepper_param, word)
    if param.convert_to_hsv:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)  # type: ignore[assignment]
    if param.convert_to_lab:
        raise DataError("noise_param.convert_to_lab makes float images, which Caffe refuses itself")
    return np.asarray(image)


def _on_luma(image: Pixels, change: Callable[[Pixels], Pixels]) -> Pixels:
    if image.ndim == 2:
        return change(image)
    planes = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)))
    planes[0] = change(planes[0])  # type: ignore[arg-type]
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YCrCb2BGR))


def _salt_and_pepper(image: Pixels, param: pb.SaltPepperParameter, word: Word) -> Pixels:
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    values = np.array([int(v) & 255 for v in param.value], np.uint8)
    if len(values) not in (1, channels):
        raise DataError(
            f"specify either 1 saltpepper_param.value or as many as channels: {channels}"
        )
    image = image.copy()
    count = math.floor(_F(param.fraction) * _F(width) * _F(height))
    for _ in range(count):
        x = word() % width
        image[word() % height, x] = values if image.ndim == 3 else values[0]
    return image
