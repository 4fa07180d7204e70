"""YOLO version 2 in Intel's Caffe: RegionLoss and EvalDetection.

Sources: src/caffe/layers/region_loss_layer.cpp, eval_detection_layer.cpp (intel/caffe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.yolo.region import LEAST_SCORE
from caffeio.ops.rcnn.proposal import suppress
from caffeio.ops.yolo.detection_output import cells, region_boxes

if TYPE_CHECKING:
    from caffeio.layers.yolo.region import EvalDetection, RegionLoss


class _GivenGradient(torch.autograd.Function):
    """A loss whose gradient is written down, not derived: top's gradient times `grad`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grads[0] * grad, None, None


def given_gradient(x: Tensor, loss: Tensor, grad: Tensor) -> Tensor:
    """`loss` (a scalar) with the gradient `grad` (of x's shape) with regard to `x`."""
    return _GivenGradient.apply(x, loss, grad)  # type: ignore


def center_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4: middle, size), broadcast."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    width, height = (high - low).unbind(-1)
    both = torch.where((width < 0) | (height < 0), 0.0, width * height)
    return both / (a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - both)


class Truths(NamedTuple):
    """Rows of ground truth."""

    image: Tensor  # (T,), int64
    label: Tensor  # (T,), int64, from 0
    box: Tensor  # (T, 4: middle, size)


def truths_of(rows: Tensor) -> Truths:
    """Those of rows (item, label from 1, instance, xmin, ymin, xmax, ymax, difficult)."""
    rows = rows.detach().reshape(-1, 8)
    rows = rows[rows[:, 0] != -1]
    low, high = rows[:, 3:5], rows[:, 5:7]
    box = torch.cat(((low + high) / 2, high - low), 1)
    return Truths(rows[:, 0].long(), rows[:, 1].long() - 1, box)


def last_of(place: Tensor, count: int) -> Tensor:
    """Which entries of `place` (n,), each below `count`, are the last with their value."""
    order = torch.arange(len(place), device=place.device)
    last = torch.full((count,), -1, device=place.device).scatter_reduce(0, place, order, "amax")
    return last[place] == order


def centred(sizes: Tensor) -> Tensor:
    """Boxes (..., 4) of these sizes (..., 2) around the origin."""
    return torch.cat((torch.zeros_like(sizes), sizes), -1)


def region_loss(layer: RegionLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    x = bottoms[0]
    if x.is_meta:
        return x.new_empty(())
    with torch.no_grad():
        diff = _gradient(layer, cells(x, layer.boxes), truths_of(bottoms[1]))
        grad = diff.permute(0, 3, 4, 1, 2).reshape(x.shape)
        loss = (diff * diff).sum()
    return given_gradient(x, loss, grad / len(x))


def _gradient(layer: RegionLoss, x: Tensor, truths: Truths) -> Tensor:
    """YOLO's gradient of predictions (N, side, side, boxes, 5 + classes), of that shape."""
    p, side = layer.param.region_loss_param, layer.side
    boxes = region_boxes(x, layer.anchors, (side, side))
    there = x[..., 4].sigmoid()
    diff = torch.zeros_like(x)
    diff[..., 4] = p.noobject_scale * there * there * (1 - there)
    for i in range(len(x)):
        mine = truths.box[truths.image == i]
        if len(mine):
            best = center_iou(boxes[i].unsqueeze(-2), mine).amax(-1)
            diff[i, ..., 4].masked_fill_(best > p.thresh, 0.0)
    column, row = (truths.box[:, :2] * side).long().clamp(0, side - 1).unbind(1)
    sizes = boxes[truths.image, row, column, :, 2:]
    if p.bias_match:
        sizes = (layer.anchors / side).expand_as(sizes)
    shape = center_iou(centred(sizes), centred(truths.box[:, None, 2:]))
    anchor = shape.argmax(1)
    place = ((truths.image * side + row) * side + column) * layer.boxes + anchor
    kept = last_of(place, there.numel())
    at = tuple(t[kept] for t in (truths.image, row, column, anchor))
    diff[at] = _truth_gradients(layer, x[at], truths.box[kept], truths.label[kept], at)
    return diff


def _truth_gradients(
    layer: RegionLoss, x: Tensor, box: Tensor, label: Tensor, at: tuple[Tensor, ...]
) -> Tensor:
    """Gradients (T, 5 + classes) of the boxes that a truth belongs to."""
    p = layer.param.region_loss_param
    corner = torch.stack((at[2], at[1]), 1)
    middle, there = x[:, :2].sigmoid(), x[:, 4:5].sigmoid()
    shift = (box[:, :2] * layer.side - corner - middle).clamp(-1, 1) * middle * (1 - middle)
    scale = (box[:, 2:] * layer.side / layer.anchors[at[3]]).log() - x[:, 2:4]
    classes = torch.nn.functional.one_hot(label, layer.classes) - x[:, 5:].softmax(1)
    parts = (
        p.coord_scale * shift,
        p.coord_scale * scale.clamp(-1, 1),
        2 * p.object_scale * (1 - there) ** 4 * there,
        p.class_scale * classes,
    )
    return -torch.cat(parts, 1)


def eval_detection(layer: EvalDetection, *bottoms: Tensor) -> Tensor:
    """Return the counts and rows."""
    x, p = bottoms[0].detach(), layer.param.eval_detection_param
    top = x.new_zeros(len(x), layer.classes + layer.side**2 * layer.boxes * 4)
    if x.is_meta:
        return top
    x, truths = cells(x, layer.boxes), truths_of(bottoms[1])
    boxes = region_boxes(x, layer.anchors, (layer.side, layer.side))
    likely, label = x[..., 5:].softmax(-1).max(-1)
    there = x[..., 4].sigmoid()
    score = {"OBJ": there, "PROB": likely, "MULTIPLY": there * likely}[layer.score]
    for i in range(len(x)):
        mine = Truths(*(t[truths.image == i] for t in truths))
        top[i, : layer.classes] = torch.bincount(mine.label, minlength=layer.classes)
        if p.nms >= 0:
            rows = _rows(layer, boxes[i].view(-1, 4), score[i].flatten(), label[i].flatten(), mine)
            top[i, layer.classes :][: rows.numel()] = rows.flatten()
    return top


def _rows(
    layer: EvalDetection, boxes: Tensor, score: Tensor, label: Tensor, truths: Truths
) -> Tensor:
    """The rows (n, 4) of one image."""
    p = layer.param.eval_detection_param
    order = score.argsort(descending=True, stable=True)
    half = boxes[order, 2:] / 2
    corners = torch.cat((boxes[order, :2] - half, boxes[order, :2] + half), 1)
    kept = order[suppress(corners, p.nms, len(order), pixel=0, strict=False)]
    kept = kept[score[kept] >= LEAST_SCORE]
    kept = kept[label[kept].argsort(stable=True)]
    rows = torch.stack((label[kept].to(score.dtype), score[kept]), 1)
    same = label[kept].unsqueeze(1) == truths.label
    if not same.numel():
        return torch.cat((rows, rows.new_tensor([0.0, 1.0]).expand(len(rows), 2)), 1)
    overlap = center_iou(boxes[kept].unsqueeze(1), truths.box).masked_fill(~same, -1)
    best, index = overlap.max(1)
    hit = best >= p.threshold
    place = torch.arange(len(kept), device=kept.device)
    first = torch.full((len(truths.label),), len(kept), device=kept.device)
    first = first.scatter_reduce(0, index[hit], place[hit], "amin")
    right = hit & (first[index] == place)
    wrong = (hit & ~right) | ~same.any(1)
    return torch.cat((rows, torch.stack((right, wrong), 1).to(rows.dtype)), 1)
