"""DetectionEvaluate: which of the boxes that an SSD net finds are right.

Source: src/caffe/layers/detection_evaluate_layer.cpp of weiliu89/caffe, branch ssd; the solver
makes the mean average precision of the rows (caffeio.training.mean_average_precision).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.ssd.boxes import jaccard
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.ssd.detection_evaluate import DetectionEvaluate


def to_pixels(
    box: Tensor, height: Tensor, width: Tensor, resize: pb.ResizeParameter | None
) -> Tensor:
    """Boxes (..., 4) of the net's input as pixels of images of that size (OutputBBox)."""
    mode = "WARP" if resize is None else pb.ResizeParameter.Resize_mode.Name(resize.resize_mode)
    scale = torch.stack((width, height, width, height), -1)
    if resize is not None and mode == "FIT_LARGE_SIZE_AND_PAD":
        aspect = width / height
        across = aspect > resize.width / resize.height
        zero = torch.zeros_like(aspect)
        y = torch.where(across, (1 - resize.width / aspect / resize.height) / 2, zero)
        x = torch.where(across, zero, (1 - resize.height * aspect / resize.width) / 2)
        low = torch.stack((x, y, x, y), -1)
        box = (box - low) / (1 - 2 * low)
    fixed = resize is not None and resize.height_scale and resize.width_scale
    if resize is not None and fixed and mode == "FIT_SMALL_SIZE":
        wide, high = resize.width_scale, resize.height_scale
        box = box * box.new_tensor([wide, high, wide, high])
        return torch.minimum(box, scale).clamp(min=0)
    return box.clamp(0, 1) * scale


def detection_evaluate(layer: DetectionEvaluate, *bottoms: Tensor) -> Tensor:
    """Return the rows."""
    if bottoms[0].is_meta:
        return bottoms[0].new_empty(1, 1, len(layer.labels) + bottoms[0].shape[2], 5)
    found, truth = (x.detach().flatten(0, 2) for x in bottoms)
    end = (truth[:, 0] == -1).cumsum(0) == 0  # Caffe stops at the first row of padding
    truth, found = truth[end], found[found[:, 0] != -1]
    heads = _heads(layer, truth)
    order = _order(found, truth)
    images, ordinal = torch.unique(found[:, 0], return_inverse=True)
    found, ordinal = found[order], ordinal[order]
    rows = torch.cat((found[:, :3], _verdicts(layer, found, truth, images, ordinal)), 1)
    return torch.cat((heads, rows)).view(1, 1, -1, 5)


def _heads(layer: DetectionEvaluate, truth: Tensor) -> Tensor:
    """The rows that say how many truths each class has."""
    if not layer.param.detection_evaluate_param.evaluate_difficult_gt:
        truth = truth[truth[:, 7] == 0]
    labels = torch.tensor(layer.labels, device=truth.device, dtype=truth.dtype)
    heads = truth.new_full((len(labels), 5), -1)
    heads[:, 1] = labels
    heads[:, 2] = (truth[:, 1].unsqueeze(1) == labels).sum(0)
    return heads


def _order(found: Tensor, truth: Tensor) -> Tensor:
    """Indices of detections by image, then label, then falling score where there is truth."""
    same = (found[:, None, :2] == truth[None, :, :2]).all(-1).any(1)
    order = torch.where(same, -found[:, 2], -torch.inf).argsort(stable=True)
    for column in (1, 0):
        order = order[found[order, column].argsort(stable=True)]
    return order[found[order, 1] != -1]


def _verdicts(
    layer: DetectionEvaluate, found: Tensor, truth: Tensor, images: Tensor, ordinal: Tensor
) -> Tensor:
    """True and false (D, 2) of the ordered detections."""
    p = layer.param.detection_evaluate_param
    boxes, targets = found[:, None, 3:7], truth[None, :, 3:7]
    if layer.in_pixels:
        place = (layer.images + ordinal) % len(layer.sizes)
        height, width = (
            torch.from_numpy(layer.sizes).to(found.device)[place].view(-1, 1, 2).unbind(-1)
        )
        resize = p.resize_param if p.HasField("resize_param") else None
        boxes, targets = (to_pixels(x, height, width, resize) for x in (boxes, targets))
        layer.images = (layer.images + len(images)) % len(layer.sizes)
    same = (found[:, None, :2] == truth[None, :, :2]).all(-1)
    if not prod(same.shape):
        return found.new_tensor([0.0, 1.0]).expand(len(found), 2)
    overlap = jaccard(boxes, targets, normalized=not layer.in_pixels)
    best, index = overlap.masked_fill(~same, -1.0).max(1)
    hit = best >= p.overlap_threshold
    order = torch.arange(len(found), device=found.device)
    first = torch.full((len(truth),), len(found), device=found.device)
    first = first.scatter_reduce(0, index[hit], order[hit], "amin")
    right = hit & (first[index] == order)
    verdict = torch.stack((right, ~right), 1).to(found.dtype)
    if not p.evaluate_difficult_gt:
        skipped = hit & (truth[index, 7] != 0)
        verdict = verdict.masked_fill(skipped.unsqueeze(1), 0.0)
    return verdict
