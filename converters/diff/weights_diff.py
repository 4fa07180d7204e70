"""Two sets of arrays: weights, solver states, means. Blob by blob, in one pass over both files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.converters.report.model import count
from caffeio.proto.weights.blob_names import blob_name
from caffeio.shape_text import format_shape

Array = NDArray[Any]
Arrays = Mapping[str, Sequence[Array]]  # layer -> its blobs

CHUNK = 1 << 20
DECADES = tuple(10.0**e for e in range(-8, 1))  # upper ends of the histogram's bins but the last
BINS = (
    "equal", "<1e-8", "<1e-7", "<1e-6", "<1e-5", "<1e-4", "<1e-3", "<0.01", "<0.1", "<1", "more",
)  # fmt: skip


@dataclass
class BlobDiff:
    """One pair of blobs. `relative` = largest |a - b| / largest |a| or |b|."""

    layer: str
    index: int
    name: str
    shape: tuple[int, ...]
    values: int
    max_abs: float = 0.0
    mean_abs: float = 0.0
    largest: float = 0.0  # largest magnitude in either
    norm_left: float = 0.0
    norm_right: float = 0.0
    norm_diff: float = 0.0
    unequal: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * len(BINS))
    not_finite: bool = False

    @property
    def relative(self) -> float:
        """Largest difference over the largest magnitude."""
        if self.not_finite:
            return math.inf
        return self.max_abs / self.largest if self.largest else 0.0


@dataclass
class WeightsDiff:
    """How two sets of arrays differ."""

    labels: tuple[str, str]
    kind: str
    blobs: list[BlobDiff]
    removed: list[str]  # layers only in the left
    added: list[str]  # layers only in the right
    renamed: list[tuple[str, str]]  # equal blobs under another name
    reshaped: list[str]  # pairs that cannot be compared, in words
    tol: float = 0.0
    atol: float = 0.0
    facts: list[tuple[str, str, str]] = field(default_factory=list)  # scalars, as text

    @property
    def over(self) -> list[BlobDiff]:
        """Blobs that differ by more than both tolerances."""
        return [b for b in self.blobs if self.exceeds(b)]

    def exceeds(self, blob: BlobDiff) -> bool:
        """Whether a blob differs by more than the relative and the absolute tolerance."""
        if blob.not_finite:
            return True
        return bool(blob.unequal) and blob.relative > self.tol and blob.max_abs > self.atol

    @property
    def same(self) -> bool:
        """Whether all blobs are there and agree within the tolerance."""
        facts = all(a == b for _, a, b in self.facts)
        return facts and not (
            self.over or self.removed or self.added or self.renamed or self.reshaped
        )


def diff_arrays(
    left: Arrays,
    right: Arrays,
    labels: tuple[str, str],
    *,
    kind: str = "weights",
    types: Mapping[str, str] | None = None,
    tol: float = 0.0,
    atol: float = 0.0,
) -> WeightsDiff:
    """Compare all blobs of two mappings.

    A blob is the same if it differs by no more than `tol` times its largest magnitude, or by no
    more than `atol`.
    """
    types = types or {}
    blobs: list[BlobDiff] = []
    reshaped: list[str] = []
    for layer in left:
        if layer not in right:
            continue
        a, b = left[layer], right[layer]
        if len(a) != len(b):
            reshaped.append(f"{layer}: {count(len(a), 'blob')} and {len(b)}")
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            if not _comparable(x, y):
                shapes = f"{format_shape(x.shape)} and {format_shape(y.shape)}"
                reshaped.append(f"{layer}[{index}]: {shapes}")
                continue
            name = blob_name(types.get(layer, ""), index)
            blobs.append(_compare(BlobDiff(layer, index, name, y.shape, x.size), x, y))
    removed = [name for name in left if name not in right]
    added = [name for name in right if name not in left]
    renamed = _renamed(left, right, removed, added)
    return WeightsDiff(labels, kind, blobs, removed, added, renamed, reshaped, tol, atol)


def _comparable(a: Array, b: Array) -> bool:
    """Equal shapes, or equal but for axes of 1 (legacy 4-D shapes)."""
    if a.shape == b.shape:
        return True
    squeezed = [tuple(n for n in x.shape if n != 1) for x in (a, b)]
    return squeezed[0] == squeezed[1] and 4 in (a.ndim, b.ndim)


def _chunks(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    x, y = a.reshape(-1), b.reshape(-1)
    for start in range(0, x.size, CHUNK):
        stop = start + CHUNK
        yield x[start:stop].astype(np.float64), y[start:stop].astype(np.float64)


def _compare(out: BlobDiff, a: Array, b: Array) -> BlobDiff:
    """Fill in the figures of one pair: one pass for the sizes, one for the histogram."""
    sums = np.zeros(4)
    with np.errstate(all="ignore"):
        for x, y in _chunks(a, b):
            d = np.abs(x - y)
            equal = (x == y) | (np.isnan(x) & np.isnan(y))
            d[equal] = 0
            out.unequal += int(x.size - np.count_nonzero(equal))
            out.not_finite |= not bool(np.isfinite(d).all())
            out.max_abs = max(out.max_abs, float(np.nanmax(d, initial=0)))
            magnitude = np.maximum(np.abs(x), np.abs(y))
            out.largest = max(out.largest, float(np.nanmax(magnitude, initial=0)))
            sums += (np.nansum(d), np.nansum(x * x), np.nansum(y * y), np.nansum(d * d))
        out.mean_abs = float(sums[0]) / max(out.values, 1)
        out.norm_left, out.norm_right, out.norm_diff = map(float, np.sqrt(sums[1:]))
        if out.unequal and out.largest:
            _fill_histogram(out, a, b)
        else:
            out.histogram[0] = out.values
    return out


def _fill_histogram(out: BlobDiff, a: Array, b: Array) -> None:
    edges = np.array(DECADES) * out.largest
    bins = np.zeros(len(BINS), np.int64)
    for x, y in _chunks(a, b):
        d = np.abs(x - y)
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        bins[0] += np.count_nonzero(equal)
        bins[1:] += np.bincount(np.searchsorted(edges, d[~equal]), minlength=len(BINS) - 1)
    out.histogram = bins.tolist()


def _renamed(
    left: Arrays, right: Arrays, removed: list[str], added: list[str]
) -> list[tuple[str, str]]:
    """Take pairs of layers with the very same blobs out of `removed` and `added`."""
    out = []
    for old in list(removed):
        blobs = left[old]
        for new in added:
            others = right[new]
            if [x.shape for x in blobs] != [y.shape for y in others] or not blobs:
                continue
            if all(np.array_equal(x, y) for x, y in zip(blobs, others, strict=True)):
                out.append((old, new))
                removed.remove(old)
                added.remove(new)
                break
    return out


def as_data(diff: WeightsDiff) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "kind": diff.kind,
        "same": diff.same,
        "left": diff.labels[0],
        "right": diff.labels[1],
        "tolerance": diff.tol,
        "absolute_tolerance": diff.atol,
        "fields": [{"name": n, "left": a, "right": b} for n, a, b in diff.facts],
        "removed": diff.removed,
        "added": diff.added,
        "renamed": diff.renamed,
        "reshaped": diff.reshaped,
        "histogram_bins": list(BINS),
        "blobs": [
            {
                "layer": b.layer,
                "index": b.index,
                "name": b.name,
                "shape": list(b.shape),
                "max_abs": b.max_abs,
                "mean_abs": b.mean_abs,
                "relative": b.relative if math.isfinite(b.relative) else None,
                "norm_left": b.norm_left,
                "norm_right": b.norm_right,
                "norm_diff": b.norm_diff,
                "unequal": b.unequal,
                "histogram": b.histogram,
            }
            for b in diff.blobs
        ],
    }
