"""How near two arrays are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PIECE = 1 << 15  # numbers at a time, which stay in the processor's cache


def differences(
    mine: np.ndarray, reference: np.ndarray, least: float = 1e-6
) -> tuple[float, float]:
    """max|a - b|, and that over max(max|b|, least); infinite as `absolute_difference`."""
    absolute = absolute_difference(mine, reference)
    if not absolute or not np.isfinite(absolute):
        return absolute, absolute
    return absolute, absolute / max(_largest(reference), least)


def relative_difference(mine: np.ndarray, reference: np.ndarray, least: float = 1e-6) -> float:
    """max|a - b| / max(max|b|, least); infinite when shapes, nans or infinities differ."""
    return differences(mine, reference, least)[1]


def absolute_difference(mine: np.ndarray, reference: np.ndarray) -> float:
    """max|a - b|; infinite when shapes, nans or infinities differ."""
    if np.shape(mine) != np.shape(reference):
        return float("inf")
    largest = 0.0
    for a, b in zip(_pieces(mine), _pieces(reference), strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            off = float(np.abs(a - b).max())
        if not np.isfinite(off):
            off = _with_odd_numbers(a, b)
        largest = max(largest, off)
    return largest


def _with_odd_numbers(a: np.ndarray, b: np.ndarray) -> float:
    """The difference where nans or infinities are."""
    odd = ~np.isfinite(b)
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return float("inf")
    a, b = a[~odd], b[~odd]
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max()) if b.size else 0.0


def _largest(array: np.ndarray) -> float:
    """The largest finite magnitude; 0 if there is none."""
    return max((float(np.abs(b[np.isfinite(b)]).max(initial=0)) for b in _pieces(array)), default=0)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = np.asarray(array).reshape(-1)
    for i in range(0, flat.size, _PIECE):
        yield flat[i : i + _PIECE].astype(np.float64)
