"""Figures and histograms of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 40
CHUNK = 1 << 20


@dataclass(frozen=True)
class Stats:
    """Figures of one blob; `histogram` has BINS equal steps from `low` to `high`."""

    shape: tuple[int, ...]
    values: int
    low: float
    high: float
    mean: float
    std: float
    norm: float
    zeros: int
    not_finite: int
    histogram: list[int]

    def as_data(self) -> dict[str, Any]:
        """The same as plain data; figures that are not finite become None."""
        out: dict[str, Any] = dict(vars(self)) if hasattr(self, "__dict__") else {}
        out["shape"] = list(self.shape)
        for name in ("low", "high", "mean", "std", "norm"):
            value = getattr(self, name)
            out[name] = value if np.isfinite(value) else None
        return out


def stats_of(array: NDArray[Any]) -> Stats:
    """Figures of an array of any floating type, read in pieces; nan and inf are counted apart."""
    flat = array.reshape(-1)
    finite = total = squares = 0.0
    low, high, zeros = np.inf, -np.inf, 0
    for piece in _pieces(flat):
        known = np.isfinite(piece)
        good = piece if known.all() else piece[known]
        finite += good.size
        zeros += int(good.size - np.count_nonzero(good))
        if good.size:
            low, high = min(low, float(good.min())), max(high, float(good.max()))
            total += float(good.sum())
            squares += float((good * good).sum())
    if not finite:
        low = high = float("nan")
    mean = total / finite if finite else float("nan")
    variance = max(squares / finite - mean * mean, 0.0) if finite else float("nan")
    return Stats(
        tuple(array.shape),
        flat.size,
        low,
        high,
        mean,
        float(np.sqrt(variance)),
        float(np.sqrt(squares)),
        zeros,
        int(flat.size - finite),
        _histogram(flat, low, high),
    )


def _pieces(flat: NDArray[Any]) -> Any:
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK].astype(np.float64)


def _histogram(flat: NDArray[Any], low: float, high: float) -> list[int]:
    if not low < high:
        return [int(np.isfinite(low)) * flat.size]
    counts = np.zeros(BINS, np.int64)
    for piece in _pieces(flat):
        counts += np.histogram(piece[np.isfinite(piece)], BINS, (low, high))[0]
    return counts.tolist()
