"""SoftmaxWithLoss and its OHEM variant: cross entropy of a softmax, with Caffe's gradients.

Sources: src/caffe/layers/softmax_loss_layer.cpp (BVLC; Intel: third bottom, label smoothing),
softmax_loss_layer.cu (NVIDIA: label smoothing), softmax_loss_ohem_layer.cu (R-FCN), the
class_weighting of caffe-segnet's softmax_loss_layer.cpp.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.labels import check_label_count
from caffeio.layers.softmax_loss import Smoothing
from caffeio.ops import digits
from caffeio.ops.digits import is_exact
from caffeio.ops.few_scores import loss_of_few
from caffeio.ops.labels import TINY, ClassLabels, class_labels, normalizer
from caffeio.ops.reduction import softmax_exactly
from caffeio.ops.tracing import apply

if TYPE_CHECKING:
    from caffeio.layers.softmax_loss import SoftmaxLossBase, SoftmaxWithLoss, SoftmaxWithLossOHEM


class _SoftmaxLoss(torch.autograd.Function):
    """Loss of each item (-log of the true class's probability, not weighted) and the softmax."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        index: Tensor,
        weight: Tensor | None,
        axis: int,
        nan_is_tiny: bool,
        smoothing: Smoothing | None,
    ) -> tuple[Tensor, Tensor]:
        exact = is_exact(scores) and scores.numel() > 0
        prob = softmax_exactly(scores, axis) if exact else scores.softmax(axis)
        p = prob.gather(axis, index)
        if nan_is_tiny:
            p = p.nan_to_num(nan=0.0)
        p = p.clamp_(min=TINY)
        losses = -digits.log(p) if exact else p.log_().neg_()
        if weight is not None:  # an ignored item counts nothing, whatever its loss is
            losses = torch.where(weight == 0, 0.0, losses * weight)
        ctx.save_for_backward(prob, index, weight)
        ctx.axis, ctx.smoothing = axis, smoothing
        ctx.mark_non_differentiable(prob)
        return losses, prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        prob, index, weight = ctx.saved_tensors
        scale = grads[0] if weight is None else grads[0] * weight
        true = prob.gather(ctx.axis, index)
        if ctx.smoothing is None:
            grad = prob * scale
            true = true - 1
        else:
            smooth, others, further = ctx.smoothing
            grad = (prob * smooth - others) * scale
            true = true * smooth - others - further
        # subtracted before the product: p - 1 is exact where p is near 1
        grad.scatter_(ctx.axis, index, true * scale)
        if weight is not None:
            grad.masked_fill_(weight == 0, 0.0)  # also where the scores are nan
        return grad, None, None, None, None, None


def item_weights(labels: ClassLabels, weight: Tensor | None) -> Tensor | None:
    """Factor of each item's loss: 0 for ignored ones, nan where the label is no class."""
    if labels.invalid is not None:
        base = torch.ones_like(labels.target, dtype=torch.float32) if weight is None else weight
        weight = base.masked_fill(labels.invalid, torch.nan)
    if labels.ignored is not None:
        if weight is None:
            return (~labels.ignored).to(torch.float32)
        weight = weight.masked_fill(labels.ignored, 0)
    return weight


def labels_of(layer: SoftmaxLossBase, scores: Tensor, label: Tensor) -> ClassLabels:
    """The labels, in the scores' shape with one entry along the softmax axis."""
    axis = layer.softmax_axis
    shape = tuple(scores.shape)
    check_label_count(layer, shape, tuple(label.shape), axis, "softmax axis")
    return class_labels(
        layer, label, (*shape[:axis], 1, *shape[axis + 1 :]), shape[axis], layer.ignore
    )


def item_losses(
    layer: SoftmaxLossBase, scores: Tensor, labels: ClassLabels, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weighted loss of each item, and the probabilities (no gradient flows into them)."""
    if layer.class_weights is not None:
        chosen = layer.class_weights.to(scores.device)[labels.target]
        weight = chosen if weight is None else chosen * weight
    found: tuple[Tensor, Tensor] = apply(
        _SoftmaxLoss,
        scores,
        labels.target,
        item_weights(labels, weight),
        layer.softmax_axis,
        layer.profile.softmax_loss_nan_is_tiny,
        layer.smoothing,
    )
    return found


def divisor(layer: SoftmaxLossBase, scores: Tensor, labels: ClassLabels) -> Tensor | float:
    """The normaliser of the mode that the layer has."""
    axis = layer.softmax_axis
    outer, inner = prod(scores.shape[:axis]), prod(scores.shape[axis + 1 :])
    return normalizer(layer, layer.mode, outer, inner, labels.ignored)


def softmax_with_loss(layer: SoftmaxWithLoss, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the loss, and the probabilities when the layer has a second top."""
    few = loss_of_few(layer, bottoms)
    if few is not None:
        return few
    scores, labels = bottoms[0], labels_of(layer, bottoms[0], bottoms[1])
    if len(bottoms) == 3:
        weight = bottoms[2].detach().reshape(labels.target.shape)
        losses, prob = item_losses(layer, scores, labels, weight)
        if labels.ignored is not None:
            weight = weight.masked_fill(labels.ignored, 0)
        loss = losses.sum() / weight.sum()
    else:
        losses, prob = item_losses(layer, scores, labels)
        loss = losses.sum() / divisor(layer, scores, labels)
    return (loss, prob) if len(layer.context.top_names) > 1 else loss


def softmax_with_loss_ohem(
    layer: SoftmaxWithLossOHEM, *bottoms: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """Return the loss, the probabilities and the losses of the items, as many as wanted."""
    scores, label = bottoms
    labels = labels_of(layer, scores, label)
    losses, prob = item_losses(layer, scores, labels)
    loss = losses.sum() / divisor(layer, scores, labels)
    wanted = (loss, prob, losses.detach().reshape(label.shape))
    tops = wanted[: layer.n_tops]
    return tops if len(tops) > 1 else loss
