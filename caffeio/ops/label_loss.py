"""Losses between scores and labels other than SoftmaxWithLoss.

Sources: src/caffe/layers/hinge_loss_layer.cpp, multinomial_logistic_loss_layer.cpp,
sigmoid_cross_entropy_loss_layer.cpp (BVLC and Intel).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.labels import LOG_THRESHOLD
from caffeio.ops import digits
from caffeio.ops.digits import is_exact, sigmoid_of
from caffeio.ops.labels import ClassLabels, class_labels, normalizer

if TYPE_CHECKING:
    from caffeio.layers.label_loss import (
        HingeLoss,
        LabelLoss,
        MultinomialLogisticLoss,
        SigmoidCrossEntropyLoss,
    )


def spoil(loss: Tensor, labels: ClassLabels) -> Tensor:
    """The loss, or nan when a label is no class and could not be reported (not on the CPU)."""
    if labels.invalid is None:
        return loss
    return loss + torch.where(labels.invalid.any(), torch.nan, 0.0)


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


class _SigmoidCrossEntropy(torch.autograd.Function):
    """Sum of the stable cross entropy of logits over the items that are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, ignored: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, target, ignored)
        positive = (x >= 0).to(x.dtype)
        size = x - 2 * x * positive
        exact = is_exact(size)
        rest = digits.log(1 + digits.exp(size)) if exact else (1 + size.exp()).log()
        losses = rest - x * (target - positive)
        if ignored is not None:
            losses = losses.masked_fill(ignored, 0)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, target, ignored = ctx.saved_tensors
        grad = (sigmoid_of(x) - target) * grads[0]
        return (grad if ignored is None else grad.masked_fill(ignored, 0)), None, None


def flat(layer: LabelLoss, scores: Tensor, label: Tensor) -> tuple[Tensor, ClassLabels]:
    """Scores as (N, classes) and labels as (N, 1)."""
    scores = scores.flatten(1) if scores.dim() > 1 else scores.unsqueeze(1)
    shape = (scores.shape[0], 1)
    return scores, class_labels(layer, label, shape, scores.shape[1], None)


def hinge_loss(layer: HingeLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    scores, labels = flat(layer, bottoms[0], bottoms[1])
    sign = torch.ones_like(scores).scatter_(1, labels.target, -1.0)
    margin = 1 + sign * scores
    margin = torch.where(margin > 0, margin, 0.0)  # a nan counts 0
    total = (margin * margin).sum() if layer.squared else margin.sum()
    return spoil(total / scores.shape[0], labels)


def multinomial_logistic_loss(layer: MultinomialLogisticLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    probs, labels = flat(layer, bottoms[0], bottoms[1])
    p = probs.gather(1, labels.target)
    total: Tensor = negative_log(p, torch.ones_like(p))
    return spoil(total / probs.shape[0], labels)


def sigmoid_cross_entropy_loss(layer: SigmoidCrossEntropyLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    x = bottoms[0]
    target = bottoms[1].detach().reshape(x.shape)
    ignored = None if layer.ignore is None else target.long() == layer.ignore
    total: Tensor = _SigmoidCrossEntropy.apply(x, target, ignored)  # type: ignore[no-untyped-call]
    return total / normalizer(layer, layer.mode, x.shape[0], prod(x.shape[1:]), ignored)
