"""Resizes images to the numbers that pycaffe gave with scikit-image 0.14 and SciPy.

`skimage_resize` is skimage.transform.resize of scikit-image 0.11 to 0.14, without anti-aliasing
(0.15 made that the default, and with it smaller images became blurred): pixel centres lie at
(i + 0.5) * old / new - 0.5, what lies outside the image counts as 0, sums are double. `scipy_zoom`
is scipy.ndimage.zoom: the first and the last pixels of old and new lie on one another.

Sources of the formulas: skimage/transform/_warps.py, _warps_cy.pyx and
skimage/_shared/interpolation.pxd of scikit-image 0.14; scipy/ndimage/interpolation.py and
src/ni_interpolation.c of SciPy 1.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float = NDArray[np.float64]


def skimage_resize(image: Array, rows: int, columns: int, order: int) -> Float:
    """Resize an (H, W, ...) image to (rows, columns, ...); values stay within the image's.

    `order` is 0 (nearest pixel), 1 (linear) or 3 (cubic). Raises NotImplementedError for others.
    """
    out = np.asarray(image, dtype=np.float64)
    if order not in _TAPS:
        raise NotImplementedError(f"interp_order {order}: 0, 1 and 3 are there")
    for axis, size in ((1, columns), (0, rows)):
        place = (np.arange(size) + 0.5) * (out.shape[axis] / size) - 0.5
        out = _TAPS[order](out, place, axis)
    low, high = np.min(image), np.max(image)
    return np.clip(out, low, high)  # as warp(clip=True)


def _pixels(image: Float, index: NDArray[np.intp], axis: int) -> Float:
    """The rows or columns of that index; those outside are 0."""
    inside = (index >= 0) & (index < image.shape[axis])
    found = np.take(image, np.where(inside, index, 0), axis=axis)
    found[(slice(None),) * axis + (~inside,)] = 0
    return found


def _weights(values: Float, image: Float, axis: int) -> Float:
    return values.reshape([-1 if i == axis else 1 for i in range(image.ndim)])


def _nearest(image: Float, place: Float, axis: int) -> Float:
    away_from_zero = np.copysign(np.floor(np.abs(place) + 0.5), place)
    return _pixels(image, away_from_zero.astype(np.intp), axis)


def _linear(image: Float, place: Float, axis: int) -> Float:
    first = np.floor(place)
    part = _weights(place - first, image, axis)
    index = first.astype(np.intp)
    return (1 - part) * _pixels(image, index, axis) + part * _pixels(image, index + 1, axis)


def _cubic(image: Float, place: Float, axis: int) -> Float:
    """Catmull and Rom's cubic through four pixels."""
    first = np.floor(place)
    x = _weights(place - first, image, axis)
    a, b, c, d = (_pixels(image, first.astype(np.intp) + i, axis) for i in (-1, 0, 1, 2))
    third = 3.0 * (b - c) + d - a
    return b + 0.5 * x * (c - a + x * (2.0 * a - 5.0 * b + 4.0 * c - d + x * third))


_TAPS = {0: _nearest, 1: _linear, 3: _cubic}


def scipy_zoom(image: Array, rows: int, columns: int, order: int) -> Array:
    """Resize an (H, W, ...) image to (rows, columns, ...); the dtype stays.

    `order` is 0 (nearest pixel) or 1 (linear). Raises NotImplementedError for others.
    """
    if order not in (0, 1):
        raise NotImplementedError(f"interp_order {order} of many channels: 0 and 1 are there")
    out = np.asarray(image, dtype=np.float64)
    for axis, size in ((0, rows), (1, columns)):
        last = out.shape[axis] - 1
        place = np.arange(size) * (last / (size - 1) if size > 1 else 1.0)
        outside = place > last  # by a rounding: SciPy takes such pixels for 0
        place = np.minimum(place, last)
        if order:
            out = _linear(out, place, axis)
        else:
            out = _pixels(out, np.floor(place + 0.5).astype(np.intp), axis)
        out[(slice(None),) * axis + (outside,)] = 0
    if np.issubdtype(image.dtype, np.integer):
        out = np.floor(out + 0.5)
    return out.astype(image.dtype)
