"""DetectionOutput: the boxes that an SSD net finds.

Source: src/caffe/layers/detection_output_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.ssd.boxes import decode, nms
from caffeio.ops.tracing import falling, is_traced

if TYPE_CHECKING:
    from caffeio.layers.ssd.detection_output import DetectionOutput


def detection_output(layer: DetectionOutput, *bottoms: Tensor) -> Tensor:
    """Return the rows of detections."""
    if bottoms[0].is_meta:
        return bottoms[0].new_empty(1, 1, 1, 7)
    loc, conf, prior = (x.detach() for x in bottoms[:3])
    return detections(loc, conf, prior, **layer.arguments())


def detections(
    loc: Tensor,
    conf: Tensor,
    prior: Tensor,
    *,
    classes: int,
    background: int,
    location_classes: int = 1,
    code: str = "CENTER_SIZE",
    in_target: bool = False,
    least: float | None = None,
    threshold: float = 0.3,
    eta: float = 1.0,
    top_k: int = -1,
    keep_top_k: int = -1,
) -> Tensor:
    """Decode SSD's predictions and suppress boxes that overlap better ones of their class.

    Returns (1, 1, boxes, 7): image, label, score, xmin, ymin, xmax, ymax; without any box one row
    for each image, its number and six times -1.
    """
    num = loc.shape[0]
    corners, variance = prior.reshape(2, -1, 4)
    loc = loc.reshape(num, -1, location_classes, 4).transpose(1, 2)
    boxes = decode(corners, variance, loc, code, in_target)
    labels = torch.tensor([c for c in range(classes) if c != background], device=conf.device)
    scores = conf.reshape(num, -1, classes).transpose(1, 2)[:, labels]
    many = location_classes > 1
    boxes = boxes[:, labels] if many else boxes.expand(-1, labels.shape[0], -1, -1)
    scores, boxes, valid = best_first(scores, boxes, least, top_k)
    keep = nms(boxes.flatten(0, 1), valid.flatten(0, 1), threshold, eta).view_as(valid)
    if keep_top_k >= 0:
        keep = keep & best_of(scores, keep, keep_top_k)
    return detection_rows(scores, boxes, keep, labels)


def best_first(
    scores: Tensor, boxes: Tensor, least: float | None, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The top_k best of each class: scores (N, C, n), boxes (N, C, n, 4), and which count."""
    valid = scores > (torch.finfo(scores.dtype).min if least is None else least)
    most = scores.shape[-1]
    if not is_traced():  # there are as many places to look at as a class has valid ones
        most = int(valid.sum(-1).max()) if valid.numel() else 0
    most = min(most, top_k) if top_k > -1 else most
    order = falling(scores.masked_fill(~valid, -torch.inf), most)
    boxes = boxes.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, 4))
    return scores.gather(2, order), boxes, valid.gather(2, order)


def best_of(scores: Tensor, keep: Tensor, most: int) -> Tensor:
    """Which of what is kept belongs to the `most` best of its image."""
    order = falling(scores.masked_fill(~keep, -torch.inf).flatten(1))
    rank = falling(-order)  # the place of each one in that order
    return (rank < most).view_as(keep)


def detection_rows(scores: Tensor, boxes: Tensor, keep: Tensor, labels: Tensor) -> Tensor:
    """Image, label, score and corners of what is kept; of nothing, a row for each image."""
    image, label, place = keep.nonzero(as_tuple=True)
    head = torch.stack((image, labels[label])).to(scores.dtype)
    found = scores[image, label, place].unsqueeze(0)
    rows = torch.cat((head, found, boxes[image, label, place].T)).T
    number = torch.arange(keep.shape[0], device=keep.device).to(scores.dtype).unsqueeze(1)
    nothing = torch.cat((number, torch.full_like(number, -1).expand(-1, 6)), 1)
    none = ~keep.flatten().any()
    return torch.cat((rows, nothing[none.expand(keep.shape[0])])).unsqueeze(0).unsqueeze(0)
