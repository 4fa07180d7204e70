"""DetectionOutput: the boxes that an SSD net finds.

Source: src/caffe/layers/detection_output_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.ssd.boxes import decode, nms

if TYPE_CHECKING:
    from caffeio.layers.ssd.detection_output import DetectionOutput


def detection_output(layer: DetectionOutput, *bottoms: Tensor) -> Tensor:
    """Return the rows of detections."""
    loc, conf, prior = (x.detach() for x in bottoms[:3])
    if loc.is_meta:
        return loc.new_empty(1, 1, 1, 7)
    num = len(loc)
    corners, variance = prior.reshape(2, -1, 4)
    loc = loc.reshape(num, -1, layer.location_classes, 4).transpose(1, 2)
    boxes = decode(corners, variance, loc, layer.code, layer.in_target)
    labels = [c for c in range(layer.classes) if c != layer.background]
    index = torch.tensor(labels, device=conf.device)
    scores = conf.reshape(num, -1, layer.classes).transpose(1, 2)[:, index]
    boxes = boxes.expand(-1, len(labels), -1, -1) if len(boxes[0]) == 1 else boxes[:, index]
    scores, boxes, keep = _suppress(layer, scores, boxes)
    return _rows(layer, scores, boxes, keep, index)


def _suppress(
    layer: DetectionOutput, scores: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Best first: scores (N, C, n), boxes (N, C, n, 4), and which are kept (N, C, n)."""
    if layer.least is not None:
        valid = scores > layer.least
    else:
        valid = scores > torch.finfo(scores.dtype).min
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    most = int(valid.sum(-1).max()) if valid.numel() else 0
    most = min(most, layer.top_k) if layer.top_k > -1 else most
    order = order[..., :most]
    scores, valid = scores.gather(2, order), valid.gather(2, order)
    boxes = boxes.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, 4))
    flat = boxes.flatten(0, 1), valid.flatten(0, 1)
    keep = nms(*flat, layer.threshold, layer.eta).view_as(valid)
    return scores, boxes, _best(layer, scores, keep)


def _best(layer: DetectionOutput, scores: Tensor, keep: Tensor) -> Tensor:
    """Of the kept boxes of each image only the keep_top_k best."""
    if layer.keep_top_k < 0:
        return keep
    flat = scores.masked_fill(~keep, -torch.inf).flatten(1)
    best = flat.argsort(dim=1, descending=True, stable=True)[:, : layer.keep_top_k]
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, True)
    return keep & chosen.view_as(keep)


def _rows(
    layer: DetectionOutput, scores: Tensor, boxes: Tensor, keep: Tensor, labels: Tensor
) -> Tensor:
    """The top."""
    image, label, place = keep.nonzero(as_tuple=True)
    if not len(image):
        rows = scores.new_full((len(scores), 7), -1)
        rows[:, 0] = torch.arange(len(scores), device=rows.device)
        return rows.view(1, 1, -1, 7)
    head = torch.stack((image, labels[label])).to(scores.dtype)
    found = scores[image, label, place].unsqueeze(0)
    rows = torch.cat((head, found, boxes[image, label, place].T)).T
    return rows.reshape(1, 1, -1, 7)
