"""What YOLO nets find: YoloDetectionOutput (version 2) and Yolov3DetectionOutput.

Sources: src/caffe/layers/yolo_detection_output_layer.cpp, yolov3_detection_output_layer.cpp of
eric612/MobileNet-YOLO (the CPU forms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.rcnn.proposal import suppress

if TYPE_CHECKING:
    from caffeio.layers.yolo.detection_output import (
        YoloDetectionOutput,
        Yolov3DetectionOutput,
    )


def cells(x: Tensor, boxes: int) -> Tensor:
    """(N, boxes x k, H, W) -> (N, H, W, boxes, k)."""
    n, channels, height, width = x.shape
    return x.view(n, boxes, channels // boxes, height, width).permute(0, 3, 4, 1, 2)


def region_boxes(x: Tensor, anchors: Tensor, scale: tuple[int, int]) -> Tensor:
    """Boxes (..., 4: middle x and y, width, height) of predictions (N, H, W, boxes, 4 or more).

    The first two go through a sigmoid and are relative to the cell; width and height are
    exponents of the anchors (boxes, 2), in units of 1 / scale of the image.
    """
    height, width = x.shape[1:3]
    corner = torch.stack(
        torch.meshgrid(
            torch.arange(height, device=x.device), torch.arange(width, device=x.device),
            indexing="ij",
        )[::-1], -1,
    ).unsqueeze(2)  # fmt: skip
    middle = (corner + x[..., :2].sigmoid()) / x.new_tensor([width, height])
    size = x[..., 2:4].exp() * anchors / x.new_tensor(scale)
    return torch.cat((middle, size), -1)


def found_rows(num: int, boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The top, of boxes (n, 4: middle and size), scores (n) and labels (n) from 0."""
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    half = boxes[:, 2:] / 2
    corners = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), 1)
    kept = suppress(corners, threshold, len(corners), pixel=0, strict=False)
    if not len(kept):
        rows = scores.new_full((num, 7), -1)
        rows[:, 0] = torch.arange(num, device=rows.device)
        return rows.view(1, 1, -1, 7)
    head = torch.stack((torch.zeros_like(scores), labels + 1, scores), 1)
    return torch.cat((head, corners), 1)[kept].view(1, 1, -1, 7)


def yolo_detection_output(layer: YoloDetectionOutput, *bottoms: Tensor) -> Tensor:
    """Return the rows."""
    if bottoms[0].is_meta:
        return bottoms[0].new_empty(1, 1, 1, 7)
    return yolo_detections([x.detach() for x in bottoms], **layer.arguments())


def yolo_detections(
    maps: Sequence[Tensor], *, anchors: Sequence[Sequence[float]], least: float, threshold: float
) -> Tensor:
    """What YOLO version 2 finds, (1, 1, boxes, 7): each box has its likeliest class."""
    parts = []
    for bottom in maps:
        x = cells(bottom, len(anchors))
        side = x.shape[2]  # the source's grid is as high as it is wide
        score, label = x[..., 5:].softmax(-1).max(-1)
        score = score * x[..., 4].sigmoid()
        found = score >= least
        boxes = region_boxes(x, x.new_tensor(anchors), (side, side))
        parts.append((boxes[found], score[found], label[found]))
    boxes, scores, labels = (torch.cat(items) for items in zip(*parts, strict=True))
    return found_rows(len(maps[0]), boxes, scores, labels, threshold)


def yolov3_detection_output(layer: Yolov3DetectionOutput, *bottoms: Tensor) -> Tensor:
    """Return the rows."""
    if bottoms[0].is_meta:
        return bottoms[0].new_empty(1, 1, 1, 7)
    return yolov3_detections([x.detach() for x in bottoms], **layer.arguments())


def yolov3_detections(
    maps: Sequence[Tensor],
    *,
    anchors: Sequence[Sequence[Sequence[float]]],
    scales: Sequence[int],
    least: float,
    threshold: float,
) -> Tensor:
    """What YOLO version 3 finds, (1, 1, boxes, 7): every class that is likely enough.

    Map t has its own anchors, in pixels of an image scales[t] times as large.
    """
    parts = []
    for bottom, pairs, scale in zip(maps, anchors, scales, strict=False):
        x = cells(bottom, len(pairs))
        height, width = x.shape[1:3]
        boxes = region_boxes(x, x.new_tensor(pairs), (width * scale, height * scale))
        scores = x[..., 5:].sigmoid() * x[..., 4:5].sigmoid()
        *place, label = (scores > least).nonzero(as_tuple=True)
        parts.append((boxes[tuple(place)], scores[(*place, label)], label))
    boxes, found, labels = (torch.cat(items) for items in zip(*parts, strict=True))
    return found_rows(len(maps[-1]), boxes, found, labels, threshold)
