"""Yolov3: the loss of YOLO version 3; YoloSeg and SegmentationEvaluate of the same fork.

Sources: src/caffe/layers/yolov3_layer.cpp, yolo_seg.cpp, segmentation_evaluate_layer.cpp
(eric612/MobileNet-YOLO, the CPU forms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.yolo.detection_output import cells, region_boxes
from caffeio.ops.yolo.region import center_iou, centred, given_gradient, last_of

if TYPE_CHECKING:
    from caffeio.layers.yolo.yolov3 import SegmentationEvaluate, YoloSeg, Yolov3


def yolov3(layer: Yolov3, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    x = bottoms[0]
    if x.is_meta:
        return x.new_empty(())
    with torch.no_grad():
        p = layer.param.yolov3_param
        maps = cells(x, layer.boxes)
        diff = _gradient(layer, maps, bottoms[1].detach().reshape(len(x), -1, 5))
        loss = (diff * diff).sum() / len(x)
        if p.use_logic_gradient:
            slope = maps.sigmoid() * (1 - maps.sigmoid())
            slope[..., 2:4] = 1
            diff = diff * slope
        grad = diff.permute(0, 3, 4, 1, 2).reshape(x.shape)
    return given_gradient(x, loss, grad / len(x))


def _gradient(layer: Yolov3, x: Tensor, rows: Tensor) -> Tensor:
    """YOLO's gradient of predictions (N, H, W, boxes, 5 + classes); rows (N, T, 5)."""
    p = layer.param.yolov3_param
    height, width = x.shape[1:3]
    scale = (width * p.anchors_scale, height * p.anchors_scale)
    boxes = region_boxes(x, layer.anchors[layer.mask], scale)
    diff = torch.zeros_like(x)
    diff[..., 4] = x[..., 4].sigmoid()
    seen = (rows[..., 1] == 0).cumsum(1) == 0
    for i in range(len(x)):
        mine = rows[i, seen[i], 1:]
        if len(mine):
            best = center_iou(boxes[i].unsqueeze(-2), mine).amax(-1)
            diff[i, ..., 4].masked_fill_(best > p.thresh, 0.0)
    used = (rows[..., 3] == 0).cumsum(1) == 0
    image, number = used.nonzero(as_tuple=True)
    truth = rows[image, number]
    owner, anchor = _anchors(layer, truth, scale)
    _write_gradient(layer, diff, x, image[owner], truth[owner], anchor, scale)
    return diff


def _anchors(layer: Yolov3, truth: Tensor, scale: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pairs of a truth's index and a box's number (in mask), in the source's order."""
    p = layer.param.yolov3_param
    shapes = centred(layer.anchors / layer.anchors.new_tensor(scale))
    overlap = center_iou(shapes, centred(truth[:, 3:5]).unsqueeze(1))
    best = overlap.argmax(1, keepdim=True)
    mask = torch.tensor(layer.mask, device=truth.device)
    first = best == mask  # (T, boxes)
    # the source compares the number of an anchor with the place of the best one in mask
    place = torch.where(first.any(1, keepdim=True), first.int().argmax(1, keepdim=True), best)
    more = (overlap[:, mask] > p.iou_thresh) & (mask != place)
    if p.iou_thresh >= 1:
        more = torch.zeros_like(more)
    owner, anchor = (first | more).nonzero(as_tuple=True)
    return owner, anchor


def _write_gradient(
    layer: Yolov3, diff: Tensor, x: Tensor, image: Tensor, truth: Tensor, anchor: Tensor,
    scale: tuple[int, int],
) -> None:  # fmt: skip
    """Let the boxes that a truth belongs to learn it."""
    p = layer.param.yolov3_param
    count, height, width = x.shape[:3]
    grid = x.new_tensor([width, height])
    column = (truth[:, 1] * width).long().clamp(0, width - 1)
    row = (truth[:, 2] * height).long().clamp(0, height - 1)
    place = ((image * height + row) * width + column) * layer.boxes + anchor
    kept = last_of(place, count * height * width * layer.boxes)
    label = torch.zeros(count * height * width * layer.boxes, layer.classes, device=x.device)
    label[place, truth[:, 0].long()] = 1
    target = label[place[kept]]
    target = target * (1 - p.label_smooth_eps) + 0.5 * p.label_smooth_eps
    at = tuple(t[kept] for t in (image, row, column, anchor))
    box, cell, found = truth[kept, 1:], torch.stack((at[2], at[1]), 1), x[at]
    anchors = layer.anchors[layer.mask][at[3]]
    weight = p.coord_scale * (2 - box[:, 2:3] * box[:, 3:4])
    shift = box[:, :2] * grid - cell - found[:, :2].sigmoid()
    extent = (box[:, 2:] * x.new_tensor(scale) / anchors).log() - found[:, 2:4]
    there = 1 - found[:, 4:5].sigmoid()
    there = there * p.object_scale if p.use_logic_gradient else there
    classes = p.class_scale * (target - found[:, 5:].sigmoid())
    diff[at] = -torch.cat((weight * shift, weight * extent, there, classes), 1)


def yolo_seg(layer: YoloSeg, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    x = bottoms[0]
    with torch.no_grad():
        label = bottoms[1].reshape(x.shape)
        diff = layer.param.yolo_seg_param.object_scale * (x.sigmoid() - label)
        if len(bottoms) == 3:
            pixels = bottoms[2].reshape(-1, x.shape[1])
            ratio = pixels.sum(0) / (x[0, 0].numel() - pixels).sum(0)
            weight = (2 - ratio).view(-1, *[1] * (x.dim() - 2))
            diff = torch.where(label > 0.5, diff * weight, diff)
        loss = (diff * diff).sum() / len(x)
    return given_gradient(x, loss, diff / len(x))


def segmentation_evaluate(layer: SegmentationEvaluate, *bottoms: Tensor) -> Tensor:
    """Return the ratios."""
    least = layer.param.segmentation_evaluate_param.threshold
    found, truth = (x[0].flatten(1) > least for x in bottoms)
    both = (found & truth).sum(1)
    union = (found | truth).sum(1).clamp(min=1)
    return (both / union).to(bottoms[0].dtype).view(1, 1, 1, -1)
