"""AnchorTargetLayer and ProposalTargetLayer: what a Faster R-CNN is trained with.

Sources: lib/rpn/anchor_target_layer.py, proposal_target_layer.py and fast_rcnn/config.py of
rbgirshick/py-faster-rcnn; the class-agnostic form of YuwenXiong/py-R-FCN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.rcnn.proposal import (
    rows,
    shifted_anchors,
)

if TYPE_CHECKING:
    from caffeio.layers.rcnn.target import AnchorTargetLayer, ProposalTargetLayer


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (n, m) of pixel boxes (n, 4) and (m, 4)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:4], b[None, :, 2:4])
    both = (high - low + 1).clamp(min=0).prod(-1)
    areas = ((x[:, 2:4] - x[:, :2] + 1).prod(-1) for x in (a, b))
    first, second = areas
    return both / (first[:, None] + second[None] - both)


def offsets(boxes: Tensor, truth: Tensor) -> Tensor:
    """(dx, dy, log width, log height) from boxes (n, 4) to truth (n, 4) (bbox_transform)."""
    size, wanted = (x[:, 2:4] - x[:, :2] + 1 for x in (boxes, truth))
    shift = truth[:, :2] + 0.5 * wanted - boxes[:, :2] - 0.5 * size
    return torch.cat((shift / size, (wanted / size).log()), 1)


def draw(places: Tensor, count: int) -> Tensor:
    """`count` of the places at random, or all if there are fewer."""
    if len(places) <= count:
        return places
    return places[torch.randperm(len(places), device=places.device)[:count]]


def anchor_target_layer(layer: AnchorTargetLayer, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return labels, offsets, inside weights, outside weights."""
    score, truth, info = (x.detach() for x in bottoms[:3])
    count, height, width = len(layer.anchors), *score.shape[2:]
    if score.is_meta:
        maps = [score.new_empty(1, 4 * count, height, width) for _ in range(3)]
        return score.new_empty(1, 1, count * height, width), *maps
    anchors = shifted_anchors(layer.anchors, height, width, layer.cfg["feat_stride"])
    truth, info = truth.reshape(-1, 5), info.flatten()
    border = layer.cfg["allowed_border"]
    limit = info[[1, 0]] + border
    inside = ((anchors[:, :2] >= -border) & (anchors[:, 2:] < limit)).all(1)
    overlap = overlaps(anchors[inside], truth)
    label = torch.full_like(anchors[:, 0], -1)
    label[inside] = _label(layer, overlap)
    target, inner, outer = (torch.zeros_like(anchors) for _ in range(3))
    target[inside] = offsets(anchors[inside], truth[overlap.argmax(1)])
    inner[label == 1] = inner.new_tensor(layer.cfg["rpn_bbox_inside_weights"])
    objects, background = _weights(layer, label)
    outer[label == 1] = objects
    outer[label == 0] = background
    label = label.view(1, height, width, count).permute(0, 3, 1, 2)
    maps = [
        x.view(1, height, width, 4 * count).permute(0, 3, 1, 2).contiguous()
        for x in (target, inner, outer)
    ]
    return label.reshape(1, 1, count * height, width), *maps


def _label(layer: AnchorTargetLayer, overlap: Tensor) -> Tensor:
    """1, 0 or -1 for each anchor inside the image; overlap (anchors, truths)."""
    best = overlap.amax(1)
    low = best < layer.cfg["rpn_negative_overlap"]
    favourite = (overlap == overlap.amax(0)).any(1)
    label = torch.full_like(best, -1)
    label[low] = 0
    label[favourite | (best >= layer.cfg["rpn_positive_overlap"])] = 1
    if layer.cfg["rpn_clobber_positives"]:
        label[low] = 0
    most = int(layer.cfg["rpn_fg_fraction"] * layer.cfg["rpn_batchsize"])
    for value, limit in ((1, most), (0, None)):
        if limit is None:
            limit = layer.cfg["rpn_batchsize"] - int((label == 1).sum())
        places = (label == value).nonzero().flatten()
        kept = draw(places, limit)
        label[places] = -1
        label[kept] = value
    return label


def _weights(layer: AnchorTargetLayer, label: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Outside weights of objects and of background."""
    share: float = layer.cfg["rpn_positive_weight"]
    if share < 0:
        each = 1.0 / (label >= 0).sum()
        return each, each
    return share / (label == 1).sum(), (1 - share) / (label == 0).sum()


def proposal_target_layer(layer: ProposalTargetLayer, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return regions, labels, offsets, inside weights, outside weights."""
    regions, truth = (x.detach().flatten(1) for x in bottoms)
    width = 4 * layer.classes
    if regions.is_meta:
        return tuple(regions.new_empty(1, n, 1, 1) for n in (5, 1, width, width, width))
    regions = torch.cat((regions, rows(0, truth[:, :4])))
    best, index = overlaps(regions[:, 1:], truth).max(1)
    cfg = layer.cfg
    every = cfg["batch_size"] == -1
    size = 2 * len(regions) if every else cfg["batch_size"]
    objects = (best >= cfg["fg_thresh"]).nonzero().flatten()
    objects = draw(objects, size if every else round(cfg["fg_fraction"] * size))
    low, high = cfg["bg_thresh_lo"], cfg["bg_thresh_hi"]
    rest = ((best < high) & (best >= low)).nonzero().flatten()
    kept = torch.cat((objects, draw(rest, size - len(objects))))
    label = truth[index[kept], 4]
    label[len(objects) :] = 0
    target = offsets(regions[kept, 1:], truth[index[kept]])
    if cfg["bbox_normalize_targets_precomputed"]:
        mean, std = (target.new_tensor(cfg[f"bbox_normalize_{k}"]) for k in ("means", "stds"))
        target = (target - mean) / std
    spread, inner = _by_class(layer, label, target)
    tops = (regions[kept], label.unsqueeze(1), spread, inner, (inner > 0).to(inner.dtype))
    return tuple(top[..., None, None] for top in tops)


def _by_class(layer: ProposalTargetLayer, label: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets and inside weights (S, 4 x classes)."""
    place = label.long().clamp(max=1) if layer.classes == 2 else label.long()
    layer.check(
        bool((place < layer.classes).all()),
        f"a label is not below num_classes {layer.classes}",
        field="python_param.param_str",
    )
    mark = torch.nn.functional.one_hot(place, layer.classes) * (label > 0).unsqueeze(1)
    mark = mark.unsqueeze(2).to(target.dtype)
    weight = target.new_tensor(layer.cfg["bbox_inside_weights"])
    return (mark * target.unsqueeze(1)).flatten(1), (mark * weight).flatten(1)
