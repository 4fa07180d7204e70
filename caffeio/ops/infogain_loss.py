"""InfogainLoss: cross entropy with a matrix that weighs confusions of classes.

Source: src/caffe/layers/infogain_loss_layer.cpp (BVLC and, with probabilities as input, Intel
2018).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.labels import (
    LOG_THRESHOLD,
)
from caffeio.ops.label_loss import negative_log, spoil
from caffeio.ops.labels import class_labels, normalizer

if TYPE_CHECKING:
    from caffeio.layers.infogain_loss import InfogainLoss


class _SoftmaxInfogain(torch.autograd.Function):
    """sum(-H[label] * log(max(softmax(x), 1e-20))) and the softmax, classes along axis 1."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        prob = scores.softmax(1)
        ctx.save_for_backward(prob, rows)
        ctx.mark_non_differentiable(prob)
        # rows of ignored items are 0: their loss must be, even if the scores are nan
        terms = torch.where(rows == 0, 0.0, rows * prob.clamp(min=LOG_THRESHOLD).log())
        return -terms.sum(), prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        prob, rows = ctx.saved_tensors
        return (prob * rows.sum(1, keepdim=True) - rows) * grads[0], None


def infogain_loss(layer: InfogainLoss, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the loss, and the probabilities when the layer has a second top."""
    x, axis = bottoms[0], layer.class_axis
    outer = prod(x.shape[:axis])
    x = x.reshape(outer, layer.classes, -1)  # (outer, classes, inner)
    labels = class_labels(layer, bottoms[1], (outer, x.shape[2]), layer.classes, layer.ignore)
    matrix = bottoms[2].detach() if layer.matrix is None else layer.matrix.to(x.device)
    rows = matrix.reshape(layer.classes, layer.classes)[labels.target].transpose(1, 2)
    if labels.ignored is not None:
        rows = rows.masked_fill(labels.ignored.unsqueeze(1), 0)
    if layer.softmax:
        total, prob = _SoftmaxInfogain.apply(x, rows)  # type: ignore[no-untyped-call]
    else:
        total, prob = negative_log(x, rows), x.detach()
    divisor = normalizer(layer, layer.mode, outer, x.shape[2], labels.ignored)
    loss = spoil(total / divisor, labels)
    if len(layer.context.top_names) < 2:
        return loss
    return loss, prob.reshape(bottoms[0].shape)
