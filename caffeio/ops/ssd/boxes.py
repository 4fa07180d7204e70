"""Boxes of SSD: decoding, encoding, overlaps and non-maximum suppression, whole tensors at a time.

A box is (xmin, ymin, xmax, ymax) in the last axis, divided by the image's width and height.
Source: src/caffe/util/bbox_util.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffeio.ops.tracing import is_traced, keep_in_turn

MATRIX_LIMIT = 1 << 26  # overlaps kept at once by `nms`; more are computed row by row
CACHED = 1 << 18  # overlaps computed at once


def size(boxes: Tensor, *, normalized: bool = True) -> Tensor:
    """Areas; 0 where a box is inside out. Pixels count both ends unless `normalized`."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    area = width * height if normalized else (width + 1) * (height + 1)
    return torch.where((width < 0) | (height < 0), 0.0, area)


def jaccard(a: Tensor, b: Tensor, *, normalized: bool = True) -> Tensor:
    """Intersection over union of boxes a and b, broadcast; 0 where they do not meet.

    Pixel boxes (not `normalized`) that do not meet share one pixel all the same, as in
    IntersectBBox and JaccardOverlap.
    """
    (left, top, right, bottom), (left_b, top_b, right_b, bottom_b) = a.unbind(-1), b.unbind(-1)
    width = torch.minimum(right, right_b) - torch.maximum(left, left_b)
    height = torch.minimum(bottom, bottom_b) - torch.maximum(top, top_b)
    if normalized:
        both = width.clamp_(min=0).mul_(height.clamp_(min=0))
    else:
        both = torch.where((width < 0) | (height < 0), 1.0, (width + 1) * (height + 1))
    union = size(a, normalized=normalized) + size(b, normalized=normalized) - both
    return torch.where(both > 0, both / union, 0.0)


def decode(prior: Tensor, variance: Tensor, loc: Tensor, code: str, in_target: bool) -> Tensor:
    """Boxes that the predictions `loc` mean (DecodeBBox); all (..., P, 4) and broadcast.

    `in_target`: the variances are in the training targets, the predictions are plain.
    """
    offset = loc if in_target else variance * loc
    if code == "CORNER":
        return prior + offset
    extent = prior[..., 2:] - prior[..., :2]
    if code == "CORNER_SIZE":
        return prior + offset * torch.cat((extent, extent), -1)
    center = (prior[..., :2] + prior[..., 2:]) / 2 + offset[..., :2] * extent
    half = offset[..., 2:].exp() * extent / 2
    return torch.cat((center - half, center + half), -1)


def encode(prior: Tensor, variance: Tensor, box: Tensor, code: str, in_target: bool) -> Tensor:
    """The predictions that would mean `box` (EncodeBBox)."""
    if code == "CENTER_SIZE":
        extent = prior[..., 2:] - prior[..., :2]
        shift = (box[..., :2] + box[..., 2:]) / 2 - (prior[..., :2] + prior[..., 2:]) / 2
        ratio = (box[..., 2:] - box[..., :2]) / extent
        out = torch.cat((shift / extent, ratio.log()), -1)
    else:
        out = box - prior
        if code == "CORNER_SIZE":
            extent = prior[..., 2:] - prior[..., :2]
            out = out / torch.cat((extent, extent), -1)
    return out if in_target else out / variance


def nms(boxes: Tensor, valid: Tensor, threshold: float, eta: float = 1.0) -> Tensor:
    """Which boxes greedy suppression keeps (ApplyNMSFast), many problems at once.

    `boxes` is (B, n, 4), best first, `valid` (B, n). A box stays if it overlaps no box that was
    kept before by more than the threshold, which every kept box multiplies by `eta` while it is
    above 0.5 and `eta` is below 1. The only loop is over the n places.
    """
    if eta < 1:
        return _adaptive_nms(boxes, valid, threshold, eta)
    whole = _overlaps(boxes, threshold)
    if whole is not None:
        return keep_in_turn(whole & _others(boxes), valid)
    keep = valid
    for i in range(valid.shape[1]):
        hits = jaccard(boxes[:, i : i + 1], boxes) > threshold
        hits[:, i] = False
        keep = keep & ~(hits & keep[:, i : i + 1])  # one before i that overlaps it is gone
    return keep


def _others(boxes: Tensor) -> Tensor:
    """Mark for each of n boxes the others: (n, n)."""
    place = torch.arange(boxes.shape[1], device=boxes.device)
    return place != place.unsqueeze(1)


def _adaptive_nms(boxes: Tensor, valid: Tensor, threshold: float, eta: float) -> Tensor:
    """`nms` with a threshold that falls."""
    keep = torch.zeros_like(valid)
    bound = boxes.new_full((len(valid), 1), threshold)
    whole = _overlaps(boxes, None)
    for i in range(valid.shape[1]):
        overlap = jaccard(boxes[:, i : i + 1], boxes) if whole is None else whole[:, i]
        stays = valid[:, i] & ~((overlap > bound) & keep).any(1)
        keep[:, i] = stays
        shrink = stays.unsqueeze(1) & (bound > 0.5)
        bound = torch.where(shrink, bound * eta, bound)
    return keep


def _overlaps(boxes: Tensor, threshold: float | None) -> Tensor | None:
    """Overlaps (B, n, n) of each problem's boxes, or which are above the threshold.

    Some problems at a time, so that what is in between stays in the cache; None if all together
    would take too much memory.
    """
    count, n = boxes.shape[:2]
    if is_traced():  # the number of problems may be a symbol
        parts: Sequence[Tensor] = (boxes,)
    elif count * n * n > MATRIX_LIMIT or not count:
        return None
    else:
        parts = torch.split(boxes, max(1, CACHED // (n * n or 1)))
    found = [jaccard(part.unsqueeze(2), part.unsqueeze(1)) for part in parts]
    return torch.cat(found if threshold is None else [part > threshold for part in found])
