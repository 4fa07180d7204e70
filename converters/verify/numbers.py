"""How near two arrays are."""

from __future__ import annotations

import numpy as np


def relative_difference(mine: np.ndarray, reference: np.ndarray, least: float = 1e-6) -> float:
    """max|a - b| / max(max|b|, least); infinite when shapes, nans or infinities differ."""
    absolute = absolute_difference(mine, reference)
    if not absolute or not np.isfinite(absolute):
        return absolute
    b = np.asarray(reference, np.float64)
    return absolute / max(float(np.abs(b[np.isfinite(b)]).max()), least)


def absolute_difference(mine: np.ndarray, reference: np.ndarray) -> float:
    """max|a - b|; infinite when shapes, nans or infinities differ."""
    a, b = np.asarray(mine, np.float64), np.asarray(reference, np.float64)
    odd = ~np.isfinite(b)
    if a.shape != b.shape or not np.array_equal(a[odd], b[odd], equal_nan=True):
        return float("inf")
    a, b = a[~odd], b[~odd]
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max()) if b.size else 0.0
