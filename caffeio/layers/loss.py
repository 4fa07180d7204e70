"""Losses between two blobs: Euclidean, L1, SmoothL1 (Fast R-CNN, SSD, R-FCN), Contrastive.

Sources: src/caffe/layers/euclidean_loss_layer.cpp, contrastive_loss_layer.cpp (BVLC),
l1_loss_layer.cpp, smooth_L1_loss_layer.cpp (NVIDIA, SSD: 2..3 bottoms; Intel, py-faster-rcnn: 2 or
4), smooth_L1_loss_ohem_layer.cpp (Intel, R-FCN).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, Shape, between, exactly, layer
from caffeio.layers.labels import check_same_count, check_same_num, normalization, text
from caffeio.ops.labels import normalizer


class PairLoss(Layer):
    """A loss of two blobs with equally many numbers for each item; both may get gradients."""

    bottoms = exactly(2)
    is_loss = True
    in_place = False
    unforced_bottoms = frozenset()

    def setup(self, *shapes: Shape) -> None:
        """Compare the bottoms' shapes."""
        check_same_num(self, shapes[0], shapes[1])
        check_same_count(self, shapes[0], shapes[1], "bottom 1")


@layer("EuclideanLoss")
class EuclideanLoss(PairLoss):
    """sum((a - b)^2) / (2 N), N = a.shape[0]."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        a, b = bottoms
        diff = (a - b.reshape(a.shape)).flatten()
        return diff.dot(diff) / (2 * a.shape[0])


@layer("L1Loss")
class L1Loss(PairLoss):
    """sum(|a - b|) / N (NVIDIA); the gradient where a equals b is 0."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        a, b = bottoms
        return (a - b.reshape(a.shape)).abs().sum() / a.shape[0]


def check_weights(layer: Layer, shapes: tuple[Shape, ...]) -> None:
    """Raise unless every bottom from the third on holds as many numbers as the first."""
    for i, shape in enumerate(shapes[2:], 2):
        layer.check(
            prod(shape) == prod(shapes[0]),
            f"bottom {i} ({text(shape)}) must hold a weight for each number of bottom 0 "
            f"({text(shapes[0])})",
        )


class _WeightedDifference(torch.autograd.Function):
    """w * (a - b), whose gradient leaves w out, as the SmoothL1 layers with one weight do."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        return weight * (a - b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], -grads[0], None


def weighted_difference(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """w * (a - b) with the gradient of a - b."""
    return _WeightedDifference.apply(a, b, weight)  # type: ignore[no-any-return,no-untyped-call]


def huber(diff: Tensor, sigma: float = 1.0) -> Tensor:
    """0.5 (sigma d)^2 where |d| < 1 / sigma^2, else |d| - 0.5 / sigma^2."""
    square = sigma * sigma
    size = diff.abs()
    return torch.where(size < 1 / square, 0.5 * square * diff * diff, size - 0.5 / square)


@layer("SmoothL1Loss")
class SmoothL1Loss(PairLoss):
    """sum(w_out * smooth_l1(w_in * (a - b))) / N with smooth_l1_loss_param.sigma.

    Four bottoms: prediction, target, inside and outside weights. Three (SSD, NVIDIA): prediction,
    target, weights; their gradient is not multiplied by the weights again, as in those Caffes.
    Weights get no gradient. With `normalization: NONE` the sum is not divided (Intel).
    """

    bottoms = between(2, 4)

    def setup(self, *shapes: Shape) -> None:
        """Compare the shapes of all bottoms."""
        super().setup(*shapes)
        self.sigma: float = self.param.smooth_l1_loss_param.sigma
        self.check(self.sigma > 0, "sigma must be positive", field="smooth_l1_loss_param.sigma")
        check_weights(self, shapes)
        none = normalization(self, "BATCH_SIZE") == "NONE"
        self.divide = not (none and self.profile.smooth_l1_normalization)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        a, b, *weights = (bottoms[0], *(x.reshape(bottoms[0].shape) for x in bottoms[1:]))
        weights = [weight.detach() for weight in weights]
        if len(weights) == 2:
            errors = weights[1] * huber(weights[0] * (a - b), self.sigma)
        elif weights:
            errors = huber(weighted_difference(a, b, weights[0]), self.sigma)
        else:
            errors = huber(a - b, self.sigma)
        return errors.sum() / (a.shape[0] if self.divide else 1)


@layer("SmoothL1LossOHEM")
class SmoothL1LossOHEM(PairLoss):
    """SmoothL1 of R-FCN with sigma 1: loss and, as second top, the loss of each item (N,1,H,W).

    Bottoms: prediction (N,C,H,W), target, optional weights, which the gradient leaves out. VALID
    divides by N * H * W, as FULL does.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)

    def setup(self, *shapes: Shape) -> None:
        """Compare the shapes of all bottoms."""
        super().setup(*shapes)
        check_weights(self, shapes)
        self.check(len(shapes[0]) <= 4, f"bottom 0 ({text(shapes[0])}) has more than 4 axes")
        self.mode = normalization(self, "VALID")

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the loss and, if there is a second top, the loss of each item."""
        shape = (*bottoms[0].shape, 1, 1, 1)[:4]
        a, b, *weight = (x.reshape(shape) for x in bottoms)
        diff = weighted_difference(a, b, weight[0]) if weight else a - b
        errors = huber(diff)
        loss = errors.sum() / normalizer(self, self.mode, shape[0], shape[2] * shape[3], None)
        if len(self.context.top_names) < 2:
            return loss
        return loss, errors.detach().sum(1, keepdim=True)


class _ContrastiveLoss(torch.autograd.Function):
    """The loss of pairs (N, C); the backward has Caffe's 1e-4 beside the distance."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, similar: Tensor, margin: float, legacy: bool
    ) -> Tensor:
        diff = a - b
        squared = diff.square().sum(1)
        gap = margin - (squared if legacy else squared.sqrt())
        apart = gap.clamp(min=0)
        ctx.save_for_backward(diff, squared, similar, gap)
        ctx.legacy = legacy
        pairs = torch.where(similar, squared, apart if legacy else apart * apart)
        return pairs.sum() / (2 * a.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        diff, squared, similar, gap = ctx.saved_tensors
        push = torch.ones_like(gap) if ctx.legacy else gap / (squared.sqrt() + 1e-4)
        factor = torch.where(similar, 1.0, torch.where(gap > 0, -push, 0.0))
        grad = diff * (factor * (grads[0] / diff.shape[0])).unsqueeze(1)
        return grad, -grad, None, None, None


@layer("ContrastiveLoss")
class ContrastiveLoss(Layer):
    """1/(2N) sum[y d^2 + (1 - y) max(margin - d, 0)^2], d = |a - b|; legacy: max(margin - d^2, 0).

    Bottoms: a, b (N,C[,1,1]) and y (N), which is not 0 for similar pairs. Source of the loss:
    Hadsell, Chopra, LeCun 2006.
    """

    bottoms = exactly(3)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({2})
    unforced_bottoms = frozenset({2})

    def setup(self, *shapes: Shape) -> None:
        """Check that the bottoms are pairs of vectors and one flag for each pair."""
        a, b, y = shapes
        check_same_num(self, a, b)
        flat = all(n == 1 for shape in (a, b) for n in shape[2:])
        same = len(a) >= 2 and len(b) >= 2 and a[1] == b[1]
        self.check(
            flat and same and len(a) <= 4 and len(b) <= 4,
            f"bottoms 0 and 1 must be vectors (N, C) or (N, C, 1, 1) of the same size, not "
            f"{text(a)} and {text(b)}",
        )
        self.check(
            y[:1] == a[:1] and all(n == 1 for n in y[1:]),
            f"bottom 2 must hold one number for each of {a[0]} pairs, not {text(y)}",
        )
        self.margin: float = self.param.contrastive_loss_param.margin
        self.legacy: bool = self.param.contrastive_loss_param.legacy_version

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        a, b, y = bottoms
        similar = y.detach().flatten().long() != 0
        return _ContrastiveLoss.apply(  # type: ignore[no-any-return,no-untyped-call]
            a.flatten(1), b.flatten(1), similar, self.margin, self.legacy
        )
