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
    from caffeio.layers.rcnn.proposal import Proposal, ProposalLayer


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


def propose(
    scores: Tensor,
    deltas: Tensor,
    info: Tensor,
    anchors: Tensor,
    *,
    stride: int,
    before: int,
    after: int,
    threshold: float,
    least: float,
    drops: bool = False,
) -> tuple[Tensor, Tensor]:
    """The best regions (R, 5) of each image, after their scores (R).

    `least` is the size in pixels of the unscaled image below which a box counts as of score 0, or,
    with `drops`, is left out; `before` boxes are looked at and `after` kept at most.
    """
    info = info.flatten()
    tall, wide = info[2] * least, info[2 if drops else min(3, len(info) - 1)] * least
    regions, values = [], []
    for i in range(len(scores)):
        height, width = deltas.shape[2:]
        boxes = shifted_anchors(anchors, height, width, stride)
        boxes = shift_boxes(boxes, deltas[i].permute(1, 2, 0).reshape(-1, 4))
        boxes = torch.minimum(boxes, info[[1, 0, 1, 0]] - 1).clamp(min=0)
        score = scores[i, len(anchors) :].permute(1, 2, 0).flatten()
        large = big_enough(boxes, wide, tall)
        if drops:
            boxes, score = boxes[large], score[large]
        else:
            score = score * large
        order = score.argsort(descending=True, stable=True)
        order = order[:before] if before > 0 else order
        kept = order[suppress(boxes[order], threshold, after or len(order))]
        regions.append(rows(i, boxes[kept]))
        values.append(score[kept])
    return torch.cat(regions), torch.cat(values)


def proposal(layer: Proposal, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return the regions, and their scores with a second top."""
    scores, deltas, info = (x.detach() for x in bottoms)
    if scores.is_meta:
        most = len(scores) * layer.after
        return (scores.new_empty(most, 5), scores.new_empty(most))[: layer.n_tops]
    found = propose(scores, deltas, info, layer.anchors, **layer.arguments())
    return found[: layer.n_tops]


def proposal_layer(layer: ProposalLayer, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return the regions, and their scores with a second top."""
    scores, deltas, info = (x.detach() for x in bottoms)
    if scores.is_meta:
        return (scores.new_empty(1, 5), scores.new_empty(1, 1, 1, 1))[: layer.n_tops]
    regions, values = propose(scores, deltas, info, layer.anchors, **layer.arguments())
    return (regions, values.unsqueeze(1))[: layer.n_tops]
