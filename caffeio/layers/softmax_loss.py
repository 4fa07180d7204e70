"""SoftmaxWithLoss and its OHEM variant: cross entropy of a softmax, with Caffe's gradients.

Sources: src/caffe/layers/softmax_loss_layer.cpp (BVLC; Intel: third bottom, label smoothing),
softmax_loss_layer.cu (NVIDIA: label smoothing), softmax_loss_ohem_layer.cu (R-FCN), the
class_weighting of caffe-segnet's softmax_loss_layer.cpp.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, Shape, between, layer
from caffeio.layers.labels import check_label_count, check_same_num, ignore_label, normalization
from caffeio.ops.labels import TINY, ClassLabels, class_labels, normalizer


class Smoothing(NamedTuple):
    """Label smoothing, which Caffes apply to the gradient only: scale * p - others, - true."""

    scale: float  # factor of the probabilities
    others: float  # subtracted from every class
    true: float  # further subtracted from the true class


def smoothing_of(kind: str | None, epsilon: float, dim: int) -> Smoothing | None:
    """The gradient's constants; `dim` is classes times positions, as both forks have it."""
    if not epsilon:
        return None
    if kind == "nvidia":
        return Smoothing(1.0, epsilon / (dim - 1), 1.0 - epsilon) if epsilon > 0 else None
    others = epsilon / dim
    true = 1.0 - epsilon
    return Smoothing(true + (dim - 1) * others, others, true - others)


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
        prob = scores.softmax(axis)
        p = prob.gather(axis, index)
        if nan_is_tiny:
            p = p.nan_to_num(nan=0.0)
        losses = p.clamp_(min=TINY).log_().neg_()
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


class SoftmaxLossBase(Layer):
    """Set-up and arithmetic of the two losses."""

    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check axis, label count and the forks' fields."""
        scores, labels = shapes[0], shapes[1]
        self.softmax_axis = self.axis(
            self.param.softmax_param.axis, len(scores), "softmax_param.axis"
        )
        self.ignore = ignore_label(self)
        self.mode = normalization(self, "VALID")
        check_same_num(self, scores, labels)
        check_label_count(self, scores, labels, self.softmax_axis, "softmax axis")
        self.smoothing = self._label_smoothing(scores)
        loss = self.param.loss_param
        for field in ("adaptive_weighting", "max_entropy_weight"):
            self.check(
                not loss.HasField(field) or getattr(loss, field) <= 0,
                "this weighting of the loss is not supported",
                field=f"loss_param.{field}",
            )
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", self._class_weights(scores), persistent=False)

    def _label_smoothing(self, scores: Shape) -> Smoothing | None:
        epsilon = self.param.loss_param.label_smoothing
        kind = self.profile.label_smoothing
        self.check(
            not epsilon or kind is not None,
            "only Intel's and NVIDIA's Caffe smooth labels: choose one of these profiles",
            field="loss_param.label_smoothing",
        )
        return smoothing_of(kind, epsilon, prod(scores[self.softmax_axis :]))

    def _class_weights(self, scores: Shape) -> Tensor | None:
        """caffe-segnet: the loss of an item is multiplied by the weight of its class."""
        param = self.param.loss_param
        if not param.weight_by_label_freqs:
            return None
        classes = scores[self.softmax_axis]
        self.check(
            len(param.class_weighting) == classes,
            f"one weight for each of {classes} classes is wanted, not {len(param.class_weighting)}",
            field="loss_param.class_weighting",
        )
        return torch.tensor(list(param.class_weighting))

    def labels(self, scores: Tensor, label: Tensor) -> ClassLabels:
        """The labels, in the scores' shape with one entry along the softmax axis."""
        axis = self.softmax_axis
        shape = tuple(scores.shape)
        check_label_count(self, shape, tuple(label.shape), axis, "softmax axis")
        return class_labels(
            self, label, (*shape[:axis], 1, *shape[axis + 1 :]), shape[axis], self.ignore
        )

    def losses(
        self, scores: Tensor, labels: ClassLabels, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss of each item, and the probabilities (no gradient flows into them)."""
        if self.class_weights is not None:
            chosen = self.class_weights.to(scores.device)[labels.target]
            weight = chosen if weight is None else chosen * weight
        return _SoftmaxLoss.apply(  # type: ignore[no-any-return,no-untyped-call]
            scores,
            labels.target,
            item_weights(labels, weight),
            self.softmax_axis,
            self.profile.softmax_loss_nan_is_tiny,
            self.smoothing,
        )

    def divisor(self, scores: Tensor, labels: ClassLabels) -> Tensor | float:
        """The normaliser of the mode that the layer has."""
        axis = self.softmax_axis
        outer, inner = prod(scores.shape[:axis]), prod(scores.shape[axis + 1 :])
        return normalizer(self, self.mode, outer, inner, labels.ignored)


@layer("SoftmaxWithLoss")
class SoftmaxWithLoss(SoftmaxLossBase):
    """Mean of -log(max(softmax(x)[label], FLT_MIN)) along softmax_param.axis.

    Bottoms: scores, labels (as many as scores without the axis), optional weights of the items
    (Intel: the mean becomes a weighted one and `normalization` is not used). Tops: the loss (a
    scalar), optional probabilities. Label smoothing changes the gradient only.

    A label that is no class is a DataError on the CPU; on other devices, and in compiled code, it
    makes the loss and that item's gradient nan.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)

    def setup(self, *shapes: Shape) -> None:
        """Check the bottoms; a third one needs a weight for each label."""
        super().setup(*shapes)
        if len(shapes) == 3:
            self.check(
                self.profile.softmax_loss_weights,
                "takes 2 bottoms in this Caffe; a third one, with weights, is Intel's",
            )
            self.check(
                prod(shapes[2]) == prod(shapes[1]),
                f"bottom 2 must hold one weight for each label: {prod(shapes[2])} weights, "
                f"{prod(shapes[1])} labels",
            )

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the loss, and the probabilities when the layer has a second top."""
        scores, labels = bottoms[0], self.labels(bottoms[0], bottoms[1])
        if len(bottoms) == 3:
            weight = bottoms[2].detach().reshape(labels.target.shape)
            losses, prob = self.losses(scores, labels, weight)
            if labels.ignored is not None:
                weight = weight.masked_fill(labels.ignored, 0)
            loss = losses.sum() / weight.sum()
        else:
            losses, prob = self.losses(scores, labels)
            loss = losses.sum() / self.divisor(scores, labels)
        return (loss, prob) if len(self.context.top_names) > 1 else loss


@layer("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(SoftmaxLossBase):
    """SoftmaxWithLoss of R-FCN with a third top: the loss of each item, in the labels' shape.

    Follows the GPU code: ignored items count 0. (Intel's CPU code sums the wrong entries of a
    scratch buffer when labels are ignored.)
    """

    tops = between(1, 3)
    bottoms = between(2, 2)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the loss, the probabilities and the losses of the items, as many as wanted."""
        scores, label = bottoms
        labels = self.labels(scores, label)
        losses, prob = self.losses(scores, labels)
        loss = losses.sum() / self.divisor(scores, labels)
        wanted = (loss, prob, losses.detach().reshape(label.shape))
        tops = wanted[: max(1, len(self.context.top_names))]
        return tops if len(tops) > 1 else loss
