"""Which ground truth each of SSD's priors is matched to, and which negatives are mined.

All images of a batch at once; the only loop is over the ground truths of the fullest image.
Source: src/caffe/util/bbox_util.cpp (MatchBBox, MineHardExamples) of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.ops.ssd.boxes import jaccard, nms, size

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType

LEAST_OVERLAP = 1e-6  # boxes that overlap less are strangers
LEAST_SIZE = 1e-5  # boxes that are smaller are never kept by the suppression of mining
UNMATCHED, IGNORED = -1, -2


class GroundTruth(NamedTuple):
    """Ground truth by image, padded to the fullest one."""

    boxes: Tensor  # (N, G, 4)
    labels: Tensor  # (N, G), int64
    valid: Tensor  # (N, G), bool

    def of(self, label: int | None) -> Tensor:
        """`valid` of one label only; None: of all."""
        return self.valid if label is None else self.valid & (self.labels == label)


def ground_truth(
    layer: LayerType, rows: Tensor, num: int, background: int, classes: int, use_difficult: bool
) -> GroundTruth:
    """Group rows (item, label, instance, xmin, ymin, xmax, ymax, difficult) by image.

    Rows of item -1 are padding. Raises DataError for a label that is the background or no class.
    """
    rows = rows.detach().reshape(-1, 8)
    item = rows[:, 0].long()
    used = (item >= 0) & (item < num)
    if not use_difficult:
        used &= rows[:, 7] == 0
    rows, item = rows[used], item[used]
    label = rows[:, 1].long()
    if label.device.type == "cpu":
        wrong = (label == background) | (label < 0) | (label >= classes)
        if bool(wrong.any()):
            raise DataError(
                f"layer {layer.name!r} (type {layer.type_name}): label {int(label[wrong][0])} of a "
                f"box is the background ({background}) or outside 0..{classes - 1}",
                where=layer.context.where or None,
            )
    order = item.argsort(stable=True)
    item, rows, label = item[order], rows[order], label[order]
    place = torch.arange(len(item), device=item.device) - torch.searchsorted(item, item)
    most = int(place.max()) + 1 if len(place) else 0
    boxes = rows.new_zeros(num, most, 4)
    boxes[item, place] = rows[:, 3:7]
    labels = torch.zeros(num, most, dtype=torch.int64, device=rows.device)
    labels[item, place] = label
    valid = torch.zeros_like(labels, dtype=torch.bool)
    valid[item, place] = True
    return GroundTruth(boxes, labels, valid)


def match(
    truth: GroundTruth, label: int | None, boxes: Tensor, **rules: Unpack[Rules]
) -> tuple[Tensor, Tensor]:
    """Match boxes (N or 1, P, 4) to the ground truth, or to that of `label` only.

    Each truth first takes the box that overlaps it most, the greatest overlap first; with
    `per_prediction` each box left takes the truth that it overlaps most, by `threshold` or more.
    `inside_only` leaves out boxes that reach out of the image. Returns the indices of truths
    (N, P; -1: none, -2: left out) and the overlaps (N, P).
    """
    overlap = jaccard(boxes.unsqueeze(2), truth.boxes.unsqueeze(1))  # (N, P, G)
    overlap = overlap.masked_fill(~truth.of(label).unsqueeze(1) | (overlap <= LEAST_OVERLAP), 0.0)
    num, count, truths = overlap.shape
    index = torch.full((num, count), UNMATCHED, device=boxes.device)
    if rules["inside_only"]:
        crosses = ((boxes < 0) | (boxes > 1)).any(-1).expand(num, -1)
        overlap = overlap.masked_fill(crosses.unsqueeze(-1), 0.0)
        index = index.masked_fill(crosses, IGNORED)
    if not truths:
        return index, overlap.new_zeros(num, count)
    best, favourite = overlap.max(-1)
    pool = overlap.clone()
    image = torch.arange(num, device=boxes.device)
    for _ in range(truths):
        value, flat = pool.flatten(1).max(1)
        box, target = flat // truths, flat % truths
        found = value > 0
        index[image, box] = torch.where(found, target, index[image, box])
        best[image, box] = torch.where(found, value, best[image, box])
        pool[image, box] = 0
        pool[image, :, target] = 0
    if rules["per_prediction"]:
        rest = (index == UNMATCHED) & (best >= rules["threshold"]) & (best > 0)
        index = torch.where(rest, favourite, index)
    return index, best


def mine(
    index: Tensor, overlap: Tensor, loss: Tensor, busy: Tensor, *, hard: bool, ratio: float,
    negative_overlap: float, sample: int, suppress: tuple[float, int] | None, boxes: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Choose the examples with the greatest `loss` (N, P) of each image.

    MAX_NEGATIVE: unmatched boxes that overlap less than `negative_overlap`, `ratio` for each
    matched one. HARD_EXAMPLE (`hard`): `sample` boxes, matched or not. Images without ground truth
    (not `busy`, (N,)) give none. `suppress` (threshold, top_k) first drops boxes that overlap
    worse ones. Returns the indices, -1 where a match was not chosen, and the negatives (N, P).
    """
    eligible = busy.unsqueeze(1).expand_as(index)
    if not hard:
        eligible = eligible & (index == UNMATCHED) & (overlap < negative_overlap)
    wanted = eligible.sum(1)
    if hard:
        wanted = wanted.clamp(max=sample)
    else:
        positives = (index > UNMATCHED).sum(1)
        wanted = torch.minimum((positives * ratio).long(), wanted)
    order = loss.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    kept = eligible.gather(1, order)
    if suppress is not None:
        threshold, most = suppress
        order = order if most < 0 else order[:, :most]
        kept = kept[:, : order.shape[1]]
        best = boxes.expand(len(loss), -1, -1).gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        kept = nms(best, kept & (size(best) >= LEAST_SIZE), threshold)
    kept = kept & (kept.cumsum(1) <= wanted.unsqueeze(1))
    chosen = torch.zeros_like(eligible).scatter(1, order, kept)
    negatives = chosen & (index == UNMATCHED)
    if hard:
        index = torch.where((index > UNMATCHED) & ~chosen, UNMATCHED, index)
    return index, negatives


class Rules(TypedDict):
    """The fields of MultiBoxLoss that decide matches."""

    per_prediction: bool
    threshold: float
    inside_only: bool
