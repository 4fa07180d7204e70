"""Mean average precision of detections, as a solver with eval_type "detection" reports it.

Sources: src/caffe/solver.cpp (TestDetection), src/caffe/util/bbox_util.cpp (ComputeAP) of
weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from caffeio.errors import SolverError

VERSIONS = ("11point", "MaxIntegral", "Integral")
STEP = 1e-6  # rises of the recall that are smaller count for nothing


class DetectionMap(NamedTuple):
    """The mean over the labels, and each label's average precision."""

    mean: float
    by_label: dict[int, float]  # labels without a detection are missing: they count 0


def detection_map(rows: np.ndarray, ap_version: str = "Integral") -> DetectionMap:
    """The mAP of all rows (N, 5) that DetectionEvaluate made.

    Rows are (-1, label, number of truths, -1, -1) or (image, label, score, true, false); a row
    that is neither true nor false does not count. The mean is over all labels that have a row of
    the first kind. `ap_version` is "11point" (VOC 2007), "MaxIntegral" (VOC 2012) or "Integral".
    Raises SolverError for another one, and for rows of another width.
    """
    if ap_version not in VERSIONS:
        raise SolverError(f"ap_version must be one of {', '.join(VERSIONS)}, not {ap_version!r}")
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise SolverError(f"detections are rows of 5 numbers, not an array of shape {rows.shape}")
    rows = rows.astype(np.float32, copy=False)
    head = rows[:, 0] == -1
    truths: dict[int, int] = {}
    for label, count in rows[head][:, 1:3].astype(np.int64).tolist():
        truths[label] = truths.get(label, 0) + count
    found = rows[~head]
    found = found[(found[:, 3:] != 0).any(1)]
    labels = found[:, 1].astype(np.int64)
    by_label: dict[int, float] = {}
    total = np.float32(0)
    for label in sorted(truths):
        mine = found[labels == label]
        if len(mine):
            value = average_precision(mine[:, 2], mine[:, 3], truths[label], ap_version)
            by_label[label] = float(value)
            total += value
    mean = total / np.float32(len(truths)) if truths else np.float32(0)
    return DetectionMap(float(mean), by_label)


def average_precision(
    scores: np.ndarray, right: np.ndarray, truths: int, ap_version: str
) -> np.float32:
    """The average precision of one label, in float32 as Caffe sums it.

    `scores` (n,) and `right` (n,), 1 for a true detection and 0 for a false one.
    """
    if not len(scores) or not truths:
        return np.float32(0)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order].astype(np.int64))
    precision = hits.astype(np.float32) / np.arange(1, len(hits) + 1).astype(np.float32)
    recall = hits.astype(np.float32) / np.float32(truths)
    if ap_version == "11point":
        return _eleven_points(precision, recall)
    if ap_version == "MaxIntegral":
        greatest = np.maximum.accumulate(precision[::-1])[::-1]
        total = _sum(greatest[-2::-1], np.abs(recall[-1:0:-1] - recall[-2::-1]))
        return np.float32(total + recall[0] * greatest[0])
    return _sum(precision, np.abs(np.diff(recall, prepend=np.float32(0))))


def _sum(heights: np.ndarray, widths: np.ndarray) -> np.float32:
    """Sum of the products in order, rounded to float32 each time; tiny widths are left out."""
    wide = widths > STEP
    total = np.float32(0)
    for term in heights[wide].astype(np.float64) * widths[wide]:
        total = np.float32(total + term)
    return total


def _eleven_points(precision: np.ndarray, recall: np.ndarray) -> np.float32:
    """Mean of the best precisions at recalls 0, 0.1 ... 1.

    Caffe's scan goes on for each recall where it stopped for the one above.
    """
    best = np.zeros(11, np.float32)
    start = len(recall) - 1
    for j in range(10, -1, -1):
        stop = int(np.searchsorted(recall[: start + 1], j / 10.0)) - 1
        best[j] = max(best[j], precision[stop + 1 : start + 1].max(initial=0))
        if stop >= 0:
            start = stop
            if j > 0:
                best[j - 1] = best[j]
    total = np.float32(0)
    for value in best[::-1]:
        total += value / np.float32(11)
    return total


__all__ = ["VERSIONS", "DetectionMap", "average_precision", "detection_map"]
