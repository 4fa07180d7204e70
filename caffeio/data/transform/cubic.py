"""Real Caffe's CUBIC of the part of an image that is wanted, bit for bit, and nothing besides.

An output pixel depends on its own sixteen neighbours alone, so a crop of a resized image is made
without the rest. With numba (the extra `fast`) about four times as fast as OpenCV without IPP;
otherwise OpenCV leaves out what lies below and to the right of the crop.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from caffeio.data.transform.image import Pixels

_MARGIN = 32  # columns; OpenCV treats the last ones of a row otherwise (see kernels)


class ImagePart(NamedTuple):
    """A window of an image."""

    y: int
    x: int
    height: int
    width: int


@cache
def kernels() -> Any:
    """The compiled loops; None where numba is missing or cannot compile: OpenCV does it then.

    Not only ImportError: a cache that is damaged, a full disk, an LLVM that cannot be loaded.
    """
    try:
        return import_module("caffeio.data.transform.kernels")
    except Exception:  # noqa: BLE001
        return None


def loaded_kernels() -> Any:
    """The compiled loops if CUBIC has loaded them: loading takes about a second."""
    return kernels() if kernels.cache_info().currsize else None


def needed(size: int, to: int, end: int) -> int:
    """How many of `size` rows (or columns) the ones before `end` of `to` depend on.

    All, where OpenCV would copy what this leaves, since that keeps its size.
    """
    at = (end - 0.5) * size / to - 0.5
    taps = math.floor(at) + 4  # two behind it, and one for float32's rounding
    count = max(1, taps, math.ceil((end + 0.5) * size / to))
    return size if count >= size or (to != size and round(count * (to / size)) == count) else count


def cubic(image: Pixels, height: int, to: tuple[int, int], part: ImagePart) -> Pixels:
    """Resize to `to` (width, height) and cut out `part`.

    image: (H, W) or (H, W, C) uint8, the top of an image of `height` rows; rows that the part does
    not need may be missing.
    """
    if in_rows(image) and kernels() is not None:
        out = np.empty((part.height, part.width, 3), np.uint8)
        kernels().cubic_part(rows(image), height, to[1], to[0], part.y, part.x, rows(out))
        return out
    return _by_opencv(image, height, to, part)


def in_rows(image: NDArray[Any]) -> bool:
    """Whether pixels of three bytes stand side by side: what the compiled loops take."""
    three = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    return three and image.strides[1:] == (3, 1)


def rows(image: Pixels) -> Pixels:
    """The same memory as (H, W * 3)."""
    return image.reshape(len(image), -1)  # no copy: the pixels of a row have no holes


def _by_opencv(image: Pixels, height: int, to: tuple[int, int], part: ImagePart) -> Pixels:
    """Let OpenCV resize what is not below or to the right of the part, with the whole's factors."""
    fx, fy = to[0] / image.shape[1], to[1] / height
    right = needed(image.shape[1], to[0], part.x + part.width + _MARGIN)
    below = needed(height, to[1], part.y + part.height)
    if to == (image.shape[1], height):
        whole: Any = image
    elif below == height and right == image.shape[1]:
        whole = cv2.resize(image, to, interpolation=cv2.INTER_CUBIC)
    else:
        corner = image[:below, :right]
        whole = cv2.resize(corner, None, fx=fx, fy=fy, interpolation=cv2.INTER_CUBIC)
    return np.asarray(whole[part.y : part.y + part.height, part.x : part.x + part.width])
