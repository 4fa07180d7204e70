"""MultiBoxLoss: SSD's loss of locations and classes.

Source: src/caffe/layers/multibox_loss_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from caffeio.ops.label_loss import _SigmoidCrossEntropy
from caffeio.ops.labels import TINY
from caffeio.ops.softmax_loss import _SoftmaxLoss
from caffeio.ops.ssd.boxes import decode, encode
from caffeio.ops.ssd.match import GroundTruth, Rules, ground_truth, match, mine
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.ssd.multibox_loss import MultiBoxLoss


class LossBatch(NamedTuple):
    """What the losses of one batch are computed from."""

    loc: Tensor  # (N, L, P, 4): predictions by location class
    conf: Tensor  # (N, P, classes)
    prior: Tensor  # (P, 4)
    variance: Tensor  # (P, 4)
    truth: GroundTruth


def multi_box_loss(layer: MultiBoxLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    if bottoms[0].is_meta:
        return bottoms[0].new_empty(())
    batch = _batch(layer, bottoms)
    with torch.no_grad():
        index, overlap = _match(layer, batch)
        index, negatives = _mine(layer, batch, index, overlap)
    positives = index >= 0
    loss = batch.loc.new_zeros(())
    if layer.parts[0]:
        loc = torch.where(positives, _loc_losses(layer, batch, index), 0.0).sum()
        loss = loss + layer.param.multibox_loss_param.loc_weight * loc
    if layer.parts[1]:
        loss = loss + _conf_loss(layer, batch, index, negatives)
    return loss / _divisor(layer, positives)


def _batch(layer: MultiBoxLoss, bottoms: tuple[Tensor, ...]) -> LossBatch:
    loc, conf, prior, rows = bottoms
    num = len(loc)
    corners, variance = prior.detach().reshape(2, -1, 4)
    p = layer.param.multibox_loss_param
    truth = ground_truth(layer, rows, num, layer.background, layer.classes, p.use_difficult_gt)
    loc = loc.reshape(num, -1, layer.location_classes, 4).transpose(1, 2)
    return LossBatch(loc, conf.reshape(num, -1, layer.classes), corners, variance, truth)


def _decoded(layer: MultiBoxLoss, batch: LossBatch) -> Tensor:
    """The predicted boxes (N, L, P, 4)."""
    in_target = layer.param.multibox_loss_param.encode_variance_in_target
    return decode(batch.prior, batch.variance, batch.loc.detach(), layer.code, in_target)


def _match(layer: MultiBoxLoss, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """Index of the truth (N, L, P) and overlap for each location class."""
    p = layer.param.multibox_loss_param
    how: Rules = {
        "per_prediction": p.match_type == pb.MultiBoxLossParameter.PER_PREDICTION,
        "threshold": p.overlap_threshold,
        "inside_only": p.ignore_cross_boundary_bbox,
    }
    truth = batch.truth
    if p.use_prior_for_matching:
        index, overlap = match(truth, None, batch.prior.unsqueeze(0), **how)
        if p.share_location:
            return index.unsqueeze(1), overlap.unsqueeze(1)
        label = truth.labels.gather(1, index.clamp(min=0)) if truth.labels.numel() else index
        mine_only = [torch.where(label == c, index, -1) for c in range(layer.classes)]
        found = torch.stack(mine_only, 1)
        overlap = overlap.unsqueeze(1).expand_as(found)
    else:
        boxes = _decoded(layer, batch)
        labels = [None] if p.share_location else range(layer.classes)
        pairs = [match(truth, c, boxes[:, i], **how) for i, c in enumerate(labels)]
        found, overlap = (torch.stack(parts, 1) for parts in zip(*pairs, strict=True))
    if not p.share_location and layer.background < layer.classes:
        found[:, layer.background] = -1
    return found, overlap


def _mine(
    layer: MultiBoxLoss, batch: LossBatch, index: Tensor, overlap: Tensor
) -> tuple[Tensor, Tensor]:
    """Indices that are left, and the negatives (N, P)."""
    p = layer.param.multibox_loss_param
    if layer.mining == "NONE":
        return index, torch.zeros_like(index[:, 0], dtype=torch.bool)
    loss = _mining_losses(layer, batch, index[:, 0])
    hard = layer.mining == "HARD_EXAMPLE"
    if hard:
        loss = loss + torch.where(index >= 0, _loc_losses(layer, batch, index), 0.0)[:, 0]
    suppress = None
    if p.HasField("nms_param") and p.nms_param.nms_threshold > 0:
        suppress = (p.nms_param.nms_threshold, p.nms_param.top_k)
    boxes = batch.prior.unsqueeze(0) if p.use_prior_for_nms else _decoded(layer, batch)[:, 0]
    left, negatives = mine(
        index[:, 0], overlap[:, 0], loss, batch.truth.valid.any(1), hard=hard,
        ratio=p.neg_pos_ratio, negative_overlap=p.neg_overlap, sample=p.sample_size,
        suppress=suppress, boxes=boxes,
    )  # fmt: skip
    return left.unsqueeze(1), negatives


def _target_labels(layer: MultiBoxLoss, batch: LossBatch, index: Tensor) -> Tensor:
    """The class of every prior (N, P): its truth's, else the background."""
    background = torch.full_like(index, layer.background)
    if not batch.truth.labels.numel():
        return background
    labels = batch.truth.labels.gather(1, index.clamp(min=0))
    return torch.where(index >= 0, labels, background)


def _mining_losses(layer: MultiBoxLoss, batch: LossBatch, index: Tensor) -> Tensor:
    """Loss of classes of every prior (N, P) (ComputeConfLoss)."""
    label = _target_labels(layer, batch, index).unsqueeze(-1)
    if layer.softmax:
        return -batch.conf.softmax(-1).gather(-1, label).clamp(min=TINY).log().squeeze(-1)
    target = torch.zeros_like(batch.conf).scatter_(-1, label, 1.0)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        batch.conf, target, reduction="none"
    )
    return each.sum(-1)


def _loc_losses(layer: MultiBoxLoss, batch: LossBatch, index: Tensor) -> Tensor:
    """Loss of each prior's box (N, L, P); of no meaning where it is not matched."""
    p = layer.param.multibox_loss_param
    in_target = p.encode_variance_in_target
    prior, variance = batch.prior, batch.variance
    target = prior.expand(*index.shape, 4)
    if batch.truth.boxes.numel():
        place = index.clamp(min=0).flatten(1).unsqueeze(-1).expand(-1, -1, 4)
        boxes = batch.truth.boxes.gather(1, place).view(*index.shape, 4)
        target = torch.where(index.unsqueeze(-1) >= 0, boxes, target)
    target = encode(prior, variance, target, layer.code, in_target)
    loc = batch.loc
    if p.bp_inside:
        box = prior if p.use_prior_for_matching else _decoded(layer, batch)
        loc = torch.where((box < 0) | (box > 1), target, loc)
    diff = (loc - target) / variance if in_target else loc - target
    square = 0.5 * diff * diff
    if layer.squared:
        return square.sum(-1)
    return torch.where(diff.abs() < 1, square, diff.abs() - 0.5).sum(-1)


def _conf_loss(layer: MultiBoxLoss, batch: LossBatch, index: Tensor, negatives: Tensor) -> Tensor:
    """Summed loss of classes."""
    merged = torch.full_like(index[:, 0], -1)
    for one in index.unbind(1):  # of several location classes the last one counts
        merged = torch.where(one >= 0, one, merged)
    label = _target_labels(layer, batch, merged)
    positives = merged >= 0
    if layer.param.multibox_loss_param.map_object_to_agnostic:
        label = torch.where(positives, layer.background + 1, label)
    if layer.softmax:
        nan_is_tiny = layer.profile.softmax_loss_nan_is_tiny
        weight = None if layer.mining == "NONE" else (positives | negatives).to(torch.float32)
        weight = None if weight is None else weight.unsqueeze(-1)
        losses, _ = _SoftmaxLoss.apply(  # type: ignore[no-untyped-call]
            batch.conf, label.unsqueeze(-1), weight, 2, nan_is_tiny, None
        )
        return losses.sum()  # type: ignore[no-any-return]
    target = _targets(layer, batch.conf, label, positives, negatives)
    used = None if layer.mining == "NONE" else (positives | negatives).unsqueeze(-1)
    left_out = None if used is None else ~used
    return _SigmoidCrossEntropy.apply(batch.conf, target, left_out)  # type: ignore


def _targets(
    layer: MultiBoxLoss, conf: Tensor, label: Tensor, positives: Tensor, negatives: Tensor
) -> Tensor:
    """Targets of the logistic loss (N, P, classes), which start as the background's number.

    Without mining Caffe moves on by P, not P x classes, from image to image: the ones of the
    second image on land in other places than their scores'.
    """
    target = torch.full_like(conf, float(layer.background))
    if layer.mining != "NONE":
        marked = (positives | negatives) & (label < layer.classes)
        one = target.scatter(-1, label.clamp(max=layer.classes - 1).unsqueeze(-1), 1.0)
        return torch.where(marked.unsqueeze(-1), one, target)
    image, place = positives.nonzero(as_tuple=True)
    flat = image * conf.shape[1] + place * layer.classes + label[image, place]
    target.view(-1)[flat] = 1.0
    return target


def _divisor(layer: MultiBoxLoss, positives: Tensor) -> Tensor | float:
    num, _, count = positives.shape
    if layer.mode == "VALID":
        return positives.sum().clamp(min=1)
    return float(max(1, {"FULL": num * count, "BATCH_SIZE": num, "NONE": 1}[layer.mode]))
