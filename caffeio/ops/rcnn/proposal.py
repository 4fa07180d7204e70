"""Proposal: regions out of the scores and offsets of a region proposal network.

Sources: lib/rpn/proposal_layer.py, generate_anchors.py and fast_rcnn/config.py of
rbgirshick/py-faster-rcnn (the Python layer); proposal_layer.cpp of PVANET (the native type).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.rcnn.proposal import Proposal, ProposalBase, ProposalLayer


def shifted_anchors(base: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The anchors of all cells, (height x width x A, 4)."""
    x = torch.arange(width, device=base.device) * stride
    y = torch.arange(height, device=base.device) * stride
    shift = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).repeat(1, 1, 2)
    return (shift.unsqueeze(2) + base).view(-1, 4)


def shift_boxes(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (n, 4) in pixels moved by (dx, dy, log width, log height) (bbox_transform_inv)."""
    extent = boxes[:, 2:] - boxes[:, :2] + 1
    middle = boxes[:, :2] + 0.5 * extent + deltas[:, :2] * extent
    half = 0.5 * deltas[:, 2:].exp() * extent
    return torch.cat((middle - half, middle + half), 1)


def suppress(
    boxes: Tensor, threshold: float, most: int, *, pixel: float = 1, strict: bool = True
) -> Tensor:
    """Indices of at most `most` boxes (n, 4), best first, that overlap no kept one too much.

    Too much is more than the threshold (`strict`) or as much. `pixel` is what a box counts on top
    of the difference of its corners. The boxes go to the host: the loop is over the kept ones.
    """
    host = boxes.cpu().numpy()
    low, high = host[:, :2], host[:, 2:]
    area = np.prod(high - low + pixel, axis=1)
    left = np.arange(len(host))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(best)
        span = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left]) + pixel
        both = np.prod(span.clip(min=0), axis=1)
        limit = threshold * (area[best] + area[left] - both)
        left = left[both <= limit] if strict else left[both < limit]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def rows(image: int, boxes: Tensor) -> Tensor:
    """Regions (n, 5) of one image."""
    return torch.cat((boxes.new_full((len(boxes), 1), image), boxes), 1)


def big_enough(boxes: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Which boxes are at least that wide and high, in pixels."""
    extent = boxes[:, 2:] - boxes[:, :2] + 1
    return (extent[:, 0] >= width) & (extent[:, 1] >= height)


def image_boxes(layer: ProposalBase, deltas: Tensor, info: Tensor) -> Tensor:
    """The boxes of one image (H x W x A, 4), cut to it; deltas (4A, H, W)."""
    height, width = deltas.shape[1:]
    anchors = shifted_anchors(layer.anchors, height, width, layer.stride)
    boxes = shift_boxes(anchors, deltas.permute(1, 2, 0).reshape(-1, 4))
    edge = info[[1, 0, 1, 0]] - 1
    return torch.minimum(boxes, edge).clamp(min=0)


def best_boxes(layer: ProposalBase, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept of one image's boxes and scores."""
    order = scores.argsort(descending=True, stable=True)
    order = order[: layer.before] if layer.before > 0 else order
    kept = order[suppress(boxes[order], layer.threshold, layer.after or len(order))]
    return boxes[kept], scores[kept]


def proposal(layer: Proposal, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return the regions, and their scores with a second top."""
    scores, deltas, info = (x.detach() for x in bottoms)
    count = layer.n_tops
    if scores.is_meta:
        most = len(scores) * layer.after
        return (scores.new_empty(most, 5), scores.new_empty(most))[:count]
    info = info.flatten()
    least = layer.param.proposal_param.min_size
    tall, wide = info[2] * least, info[min(3, len(info) - 1)] * least
    regions, values = [], []
    for i in range(len(scores)):
        boxes = image_boxes(layer, deltas[i], info)
        score = scores[i, len(layer.anchors) :].permute(1, 2, 0).flatten()
        boxes, score = best_boxes(layer, boxes, score * big_enough(boxes, wide, tall))
        regions.append(rows(i, boxes))
        values.append(score)
    return (torch.cat(regions), torch.cat(values))[:count]


def proposal_layer(layer: ProposalLayer, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return the regions, and their scores with a second top."""
    scores, deltas, info = (x.detach() for x in bottoms)
    count = layer.n_tops
    if scores.is_meta:
        return (scores.new_empty(1, 5), scores.new_empty(1, 1, 1, 1))[:count]
    info = info.flatten()
    boxes = image_boxes(layer, deltas[0], info)
    score = scores[0, len(layer.anchors) :].permute(1, 2, 0).flatten()
    kept = big_enough(boxes, layer.least * info[2], layer.least * info[2])
    boxes, score = best_boxes(layer, boxes[kept], score[kept])
    return (rows(0, boxes), score.unsqueeze(1))[:count]
