"""MultiBoxLoss: SSD's loss of locations and classes.

Source: src/caffe/layers/multibox_loss_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, exactly, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.labels import normalization, text
from caffeio.layers.softmax_loss import _SoftmaxLoss
from caffeio.layers.ssd.boxes import check_predictions, code_type, decode, encode
from caffeio.layers.ssd.match import Rules, Truth, ground_truth, match, mine
from caffeio.ops.label_loss import _SigmoidCrossEntropy
from caffeio.ops.labels import TINY
from caffeio.proto import caffe_pb2 as pb

KNOWN = (
    "loc_loss_type", "conf_loss_type", "loc_weight", "num_classes", "share_location", "match_type",
    "overlap_threshold", "use_prior_for_matching", "background_label_id", "use_difficult_gt",
    "do_neg_mining", "neg_pos_ratio", "neg_overlap", "code_type", "encode_variance_in_target",
    "map_object_to_agnostic", "ignore_cross_boundary_bbox", "bp_inside", "mining_type",
    "nms_param", "sample_size", "use_prior_for_nms",
)  # fmt: skip


class Batch(NamedTuple):
    """What the losses of one batch are computed from."""

    loc: Tensor  # (N, L, P, 4): predictions by location class
    conf: Tensor  # (N, P, classes)
    prior: Tensor  # (P, 4)
    variance: Tensor  # (P, 4)
    truth: Truth


@layer("MultiBoxLoss")
class MultiBoxLoss(Layer):
    """(loc_weight * loss of the matched boxes + loss of classes) / number of matched boxes.

    Bottoms: locations (N, P x 4 x location classes), scores before softmax (N, P x num_classes),
    priors (1, 2, P x 4), ground truth (1, 1, boxes, 8). Boxes: smooth L1 of the encoded
    differences (or half their square, L2). Classes: softmax (or logistic) over the matched priors
    and the mined negatives, or over all priors without mining. The divisor follows loss_param's
    normalization. A part of the loss whose bottom has propagate_down: false is left out.
    """

    bottoms = exactly(4)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({2, 3})

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters and that the bottoms have equally many priors."""
        check_fields(self, "multibox_loss_param", KNOWN)
        p, field = self.param.multibox_loss_param, "multibox_loss_param"
        kind = pb.MultiBoxLossParameter
        self.classes: int = p.num_classes
        self.check(self.classes > 0, "must be set", field=f"{field}.num_classes")
        self.mining = kind.MiningType.Name(p.mining_type)
        self.location_classes = 1 if p.share_location else self.classes
        self.softmax = p.conf_loss_type == kind.SOFTMAX
        self.squared = p.loc_loss_type == kind.L2
        self.code = code_type(p.code_type)
        self.background: int = p.background_label_id
        self.mode = normalization(self, "VALID")
        self.check(
            self.mode in ("FULL", "VALID", "BATCH_SIZE", "NONE"), f"{self.mode} is not supported",
            field="loss_param.normalization",
        )  # fmt: skip
        mines = self.mining != "NONE"
        for name, ok, message in (
            ("mining_type", not mines or p.share_location, "mining needs share_location"),
            ("do_neg_mining", not p.HasField("do_neg_mining") or p.do_neg_mining == mines,
             f"contradicts mining_type {self.mining}"),
            ("background_label_id", not self.softmax or self.background < self.classes,
             "is no class"),
            ("map_object_to_agnostic", not p.map_object_to_agnostic or self.classes == 2,
             "needs num_classes 2"),
        ):  # fmt: skip
            self.check(ok, message, field=f"{field}.{name}")
        check_predictions(self, shapes, self.location_classes, self.classes)
        self.check(shapes[3][-1:] == (8,), f"ground truth has rows of 8, not {text(shapes[3])}")
        self.parts = tuple(self.param.propagate_down[:2]) or (True, True)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if bottoms[0].is_meta:
            return bottoms[0].new_empty(())
        batch = self._batch(bottoms)
        with torch.no_grad():
            index, overlap = self._match(batch)
            index, negatives = self._mine(batch, index, overlap)
        positives = index >= 0
        loss = batch.loc.new_zeros(())
        if self.parts[0]:
            loc = torch.where(positives, self._loc_losses(batch, index), 0.0).sum()
            loss = loss + self.param.multibox_loss_param.loc_weight * loc
        if self.parts[1]:
            loss = loss + self._conf_loss(batch, index, negatives)
        return loss / self._divisor(positives)

    def _batch(self, bottoms: tuple[Tensor, ...]) -> Batch:
        loc, conf, prior, rows = bottoms
        num = len(loc)
        corners, variance = prior.detach().reshape(2, -1, 4)
        p = self.param.multibox_loss_param
        truth = ground_truth(self, rows, num, self.background, self.classes, p.use_difficult_gt)
        loc = loc.reshape(num, -1, self.location_classes, 4).transpose(1, 2)
        return Batch(loc, conf.reshape(num, -1, self.classes), corners, variance, truth)

    def _decoded(self, batch: Batch) -> Tensor:
        """The predicted boxes (N, L, P, 4)."""
        in_target = self.param.multibox_loss_param.encode_variance_in_target
        return decode(batch.prior, batch.variance, batch.loc.detach(), self.code, in_target)

    def _match(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Index of the truth (N, L, P) and overlap for each location class."""
        p = self.param.multibox_loss_param
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
            mine_only = [torch.where(label == c, index, -1) for c in range(self.classes)]
            found = torch.stack(mine_only, 1)
            overlap = overlap.unsqueeze(1).expand_as(found)
        else:
            boxes = self._decoded(batch)
            labels = [None] if p.share_location else range(self.classes)
            pairs = [match(truth, c, boxes[:, i], **how) for i, c in enumerate(labels)]
            found, overlap = (torch.stack(parts, 1) for parts in zip(*pairs, strict=True))
        if not p.share_location and self.background < self.classes:
            found[:, self.background] = -1
        return found, overlap

    def _mine(self, batch: Batch, index: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Indices that are left, and the negatives (N, P)."""
        p = self.param.multibox_loss_param
        if self.mining == "NONE":
            return index, torch.zeros_like(index[:, 0], dtype=torch.bool)
        loss = self._mining_losses(batch, index[:, 0])
        hard = self.mining == "HARD_EXAMPLE"
        if hard:
            loss = loss + torch.where(index >= 0, self._loc_losses(batch, index), 0.0)[:, 0]
        suppress = None
        if p.HasField("nms_param") and p.nms_param.nms_threshold > 0:
            suppress = (p.nms_param.nms_threshold, p.nms_param.top_k)
        boxes = batch.prior.unsqueeze(0) if p.use_prior_for_nms else self._decoded(batch)[:, 0]
        left, negatives = mine(
            index[:, 0], overlap[:, 0], loss, batch.truth.valid.any(1), hard=hard,
            ratio=p.neg_pos_ratio, negative_overlap=p.neg_overlap, sample=p.sample_size,
            suppress=suppress, boxes=boxes,
        )  # fmt: skip
        return left.unsqueeze(1), negatives

    def _target_labels(self, batch: Batch, index: Tensor) -> Tensor:
        """The class of every prior (N, P): its truth's, else the background."""
        background = torch.full_like(index, self.background)
        if not batch.truth.labels.numel():
            return background
        labels = batch.truth.labels.gather(1, index.clamp(min=0))
        return torch.where(index >= 0, labels, background)

    def _mining_losses(self, batch: Batch, index: Tensor) -> Tensor:
        """Loss of classes of every prior (N, P) (ComputeConfLoss)."""
        label = self._target_labels(batch, index).unsqueeze(-1)
        if self.softmax:
            return -batch.conf.softmax(-1).gather(-1, label).clamp(min=TINY).log().squeeze(-1)
        target = torch.zeros_like(batch.conf).scatter_(-1, label, 1.0)
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            batch.conf, target, reduction="none"
        )
        return each.sum(-1)

    def _loc_losses(self, batch: Batch, index: Tensor) -> Tensor:
        """Loss of each prior's box (N, L, P); of no meaning where it is not matched."""
        p = self.param.multibox_loss_param
        in_target = p.encode_variance_in_target
        prior, variance = batch.prior, batch.variance
        target = prior.expand(*index.shape, 4)
        if batch.truth.boxes.numel():
            place = index.clamp(min=0).flatten(1).unsqueeze(-1).expand(-1, -1, 4)
            boxes = batch.truth.boxes.gather(1, place).view(*index.shape, 4)
            target = torch.where(index.unsqueeze(-1) >= 0, boxes, target)
        target = encode(prior, variance, target, self.code, in_target)
        loc = batch.loc
        if p.bp_inside:
            box = prior if p.use_prior_for_matching else self._decoded(batch)
            loc = torch.where((box < 0) | (box > 1), target, loc)
        diff = (loc - target) / variance if in_target else loc - target
        square = 0.5 * diff * diff
        if self.squared:
            return square.sum(-1)
        return torch.where(diff.abs() < 1, square, diff.abs() - 0.5).sum(-1)

    def _conf_loss(self, batch: Batch, index: Tensor, negatives: Tensor) -> Tensor:
        """Summed loss of classes."""
        merged = torch.full_like(index[:, 0], -1)
        for one in index.unbind(1):  # of several location classes the last one counts
            merged = torch.where(one >= 0, one, merged)
        label = self._target_labels(batch, merged)
        positives = merged >= 0
        if self.param.multibox_loss_param.map_object_to_agnostic:
            label = torch.where(positives, self.background + 1, label)
        if self.softmax:
            nan_is_tiny = self.profile.softmax_loss_nan_is_tiny
            weight = None if self.mining == "NONE" else (positives | negatives).to(torch.float32)
            weight = None if weight is None else weight.unsqueeze(-1)
            losses, _ = _SoftmaxLoss.apply(  # type: ignore[no-untyped-call]
                batch.conf, label.unsqueeze(-1), weight, 2, nan_is_tiny, None
            )
            return losses.sum()  # type: ignore[no-any-return]
        target = self._targets(batch.conf, label, positives, negatives)
        used = None if self.mining == "NONE" else (positives | negatives).unsqueeze(-1)
        left_out = None if used is None else ~used
        return _SigmoidCrossEntropy.apply(batch.conf, target, left_out)  # type: ignore

    def _targets(self, conf: Tensor, label: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Targets of the logistic loss (N, P, classes), which start as the background's number.

        Without mining Caffe moves on by P, not P x classes, from image to image: the ones of the
        second image on land in other places than their scores'.
        """
        target = torch.full_like(conf, float(self.background))
        if self.mining != "NONE":
            marked = (positives | negatives) & (label < self.classes)
            one = target.scatter(-1, label.clamp(max=self.classes - 1).unsqueeze(-1), 1.0)
            return torch.where(marked.unsqueeze(-1), one, target)
        image, place = positives.nonzero(as_tuple=True)
        flat = image * conf.shape[1] + place * self.classes + label[image, place]
        target.view(-1)[flat] = 1.0
        return target

    def _divisor(self, positives: Tensor) -> Tensor | float:
        num, _, count = positives.shape
        if self.mode == "VALID":
            return positives.sum().clamp(min=1)
        return float(max(1, {"FULL": num * count, "BATCH_SIZE": num, "NONE": 1}[self.mode]))
