"""Losses between scores and labels other than SoftmaxWithLoss.

Sources: src/caffe/layers/hinge_loss_layer.cpp, multinomial_logistic_loss_layer.cpp,
sigmoid_cross_entropy_loss_layer.cpp (BVLC and Intel).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, Shape, exactly, layer
from caffeio.layers.labels import LOG_THRESHOLD, check_same_num, ignore_label, normalization, text
from caffeio.ops.labels import ClassLabels, class_labels, normalizer
from caffeio.proto import caffe_pb2 as pb


class LabelLoss(Layer):
    """A loss of scores (N, ...) and one label for each item."""

    bottoms = exactly(2)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check the first dimension and the number of labels."""
        scores, labels = shapes[:2]
        check_same_num(self, scores, labels)
        self.check(
            prod(labels) == scores[0],
            f"there must be one label for each of {scores[0]} items, not {text(labels)}",
        )

    def flat(self, scores: Tensor, label: Tensor) -> tuple[Tensor, ClassLabels]:
        """Scores as (N, classes) and labels as (N, 1)."""
        scores = scores.flatten(1) if scores.dim() > 1 else scores.unsqueeze(1)
        shape = (scores.shape[0], 1)
        return scores, class_labels(self, label, shape, scores.shape[1], None)


def spoil(loss: Tensor, labels: ClassLabels) -> Tensor:
    """The loss, or nan when a label is no class and could not be reported (not on the CPU)."""
    if labels.invalid is None:
        return loss
    return loss + torch.where(labels.invalid.any(), torch.nan, 0.0)


@layer("HingeLoss")
class HingeLoss(LabelLoss):
    """sum of max(0, 1 + s x)^p / N, s = -1 at the label, else 1; p = 1 (norm L1) or 2 (L2)."""

    def setup(self, *shapes: Shape) -> None:
        """Read the norm."""
        super().setup(*shapes)
        self.squared = self.param.hinge_loss_param.norm == pb.HingeLossParameter.L2

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        scores, labels = self.flat(bottoms[0], bottoms[1])
        sign = torch.ones_like(scores).scatter_(1, labels.target, -1.0)
        margin = 1 + sign * scores
        margin = torch.where(margin > 0, margin, 0.0)  # a nan counts 0
        total = (margin * margin).sum() if self.squared else margin.sum()
        return spoil(total / scores.shape[0], labels)


class _NegativeLog(torch.autograd.Function):
    """sum(-weight * log(max(p, 1e-20))), with the gradient -weight / max(p, 1e-20)."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, weight: Tensor) -> Tensor:
        p = p.clamp(min=LOG_THRESHOLD)
        ctx.save_for_backward(p, weight)
        return -(weight * p.log()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        p, weight = ctx.saved_tensors
        return -(grads[0] * weight) / p, None


def negative_log(p: Tensor, weight: Tensor) -> Tensor:
    """sum(-weight * log(max(p, 1e-20))); below 1e-20 its gradient is not 0 but that of 1e-20."""
    return _NegativeLog.apply(p, weight)  # type: ignore[no-any-return,no-untyped-call]


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(LabelLoss):
    """sum of -log(max(p[label], 1e-20)) / N; the bottom holds probabilities."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        probs, labels = self.flat(bottoms[0], bottoms[1])
        p = probs.gather(1, labels.target)
        total: Tensor = negative_log(p, torch.ones_like(p))
        return spoil(total / probs.shape[0], labels)


class _SigmoidCrossEntropy(torch.autograd.Function):
    """Sum of the stable cross entropy of logits over the items that are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, ignored: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, target, ignored)
        positive = (x >= 0).to(x.dtype)
        losses = (1 + (x - 2 * x * positive).exp()).log() - x * (target - positive)
        if ignored is not None:
            losses = losses.masked_fill(ignored, 0)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, target, ignored = ctx.saved_tensors
        grad = (x.sigmoid() - target) * grads[0]
        return (grad if ignored is None else grad.masked_fill(ignored, 0)), None, None


@layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Layer):
    """sum of -t log(s(x)) - (1 - t) log(1 - s(x)) over a divisor, s the sigmoid.

    The divisor is BATCH_SIZE unless loss_param says otherwise; targets whose integer part is the
    ignore_label do not count. In Intel's profile it is N (1 with NONE) and nothing is ignored.
    """

    bottoms = exactly(2)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1})

    def setup(self, *shapes: Shape) -> None:
        """Check the counts and read loss_param."""
        check_same_num(self, shapes[0], shapes[1])
        self.check(
            prod(shapes[0]) == prod(shapes[1]),
            f"scores and targets must have the same count: {text(shapes[0])} and {text(shapes[1])}",
        )
        self.mode = normalization(self, "BATCH_SIZE")
        self.ignore = ignore_label(self)
        if not self.profile.sigmoid_loss_normalization:
            self.mode = "NONE" if self.mode == "NONE" else "BATCH_SIZE"
            self.ignore = None

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        x = bottoms[0]
        target = bottoms[1].detach().reshape(x.shape)
        ignored = None if self.ignore is None else target.long() == self.ignore
        total: Tensor = _SigmoidCrossEntropy.apply(x, target, ignored)  # type: ignore[no-untyped-call]
        return total / normalizer(self, self.mode, x.shape[0], prod(x.shape[1:]), ignored)
