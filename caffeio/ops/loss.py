"""Losses between two blobs: Euclidean, L1, SmoothL1 (Fast R-CNN, SSD, R-FCN), Contrastive.

Sources: src/caffe/layers/euclidean_loss_layer.cpp, contrastive_loss_layer.cpp (BVLC),
l1_loss_layer.cpp, smooth_L1_loss_layer.cpp (NVIDIA, SSD: 2..3 bottoms; Intel, py-faster-rcnn: 2 or
4), smooth_L1_loss_ohem_layer.cpp (Intel, R-FCN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.ops.labels import normalizer

if TYPE_CHECKING:
    from caffeio.layers.loss import (
        ContrastiveLoss,
        EuclideanLoss,
        L1Loss,
        SmoothL1Loss,
        SmoothL1LossOHEM,
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


def euclidean_loss(layer: EuclideanLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    a, b = bottoms
    diff = (a - b.reshape(a.shape)).flatten()
    return diff.dot(diff) / (2 * a.shape[0])


def l1_loss(layer: L1Loss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    a, b = bottoms
    return (a - b.reshape(a.shape)).abs().sum() / a.shape[0]


def smooth_l1_loss(layer: SmoothL1Loss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    a, b, *weights = (bottoms[0], *(x.reshape(bottoms[0].shape) for x in bottoms[1:]))
    weights = [weight.detach() for weight in weights]
    if len(weights) == 2:
        errors = weights[1] * huber(weights[0] * (a - b), layer.sigma)
    elif weights:
        errors = huber(weighted_difference(a, b, weights[0]), layer.sigma)
    else:
        errors = huber(a - b, layer.sigma)
    return errors.sum() / (a.shape[0] if layer.divide else 1)


def smooth_l1_loss_ohem(layer: SmoothL1LossOHEM, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the loss and, if there is a second top, the loss of each item."""
    shape = (*bottoms[0].shape, 1, 1, 1)[:4]
    a, b, *weight = (x.reshape(shape) for x in bottoms)
    diff = weighted_difference(a, b, weight[0]) if weight else a - b
    errors = huber(diff)
    loss = errors.sum() / normalizer(layer, layer.mode, shape[0], shape[2] * shape[3], None)
    if len(layer.context.top_names) < 2:
        return loss
    return loss, errors.detach().sum(1, keepdim=True)


def contrastive_loss(layer: ContrastiveLoss, *bottoms: Tensor) -> Tensor:
    """Return the loss, a scalar."""
    a, b, y = bottoms
    similar = y.detach().flatten().long() != 0
    return _ContrastiveLoss.apply(  # type: ignore[no-any-return,no-untyped-call]
        a.flatten(1), b.flatten(1), similar, layer.margin, layer.legacy
    )
