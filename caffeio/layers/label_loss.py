"""Losses between scores and labels other than SoftmaxWithLoss.

Sources: src/caffe/layers/hinge_loss_layer.cpp, multinomial_logistic_loss_layer.cpp,
infogain_loss_layer.cpp (BVLC and, with probabilities as input, Intel 2018),
sigmoid_cross_entropy_loss_layer.cpp (BVLC and Intel).
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, Shape, between, exactly, layer
from caffeio.layers.labels import (
    LOG_THRESHOLD,
    ClassLabels,
    check_label_count,
    check_same_num,
    class_labels,
    ignore_label,
    normalization,
    normalizer,
    text,
)
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


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(LabelLoss):
    """sum of -log(max(p[label], 1e-20)) / N; the bottom holds probabilities."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        probs, labels = self.flat(bottoms[0], bottoms[1])
        p = probs.gather(1, labels.target)
        total: Tensor = _NegativeLog.apply(p, torch.ones_like(p))  # type: ignore[no-untyped-call]
        return spoil(total / probs.shape[0], labels)


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


def read_matrix(layer: Layer, source: str, field: str) -> Tensor:
    """The values of a BlobProto file, flat; relative paths are looked up in the search path."""
    layer.check(
        bool(source), "a matrix is needed: name a file, or give a third bottom", field=field
    )
    folders = [Path(folder) for folder in layer.context.search_path] or [Path()]
    paths = [folder / source for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise layer.error(
            f"file not found: {source} (looked in {', '.join(str(p.parent) for p in paths)})",
            field=field,
        )
    blob = pb.BlobProto()
    try:
        blob.ParseFromString(path.read_bytes())
    except DecodeError:
        raise layer.error(f"{path} is not a BlobProto file", field=field) from None
    values = blob.double_data or blob.data
    return torch.from_numpy(np.array(values, np.float32))


@layer("InfogainLoss")
class InfogainLoss(Layer):
    """Mean of -sum_l H[label, l] log(max(p_l, 1e-20)), p = softmax of the scores.

    H (K x K) comes from infogain_loss_param.source (a BlobProto file) or the third bottom. A second
    top holds p. In Intel's profile (2018) the bottom already holds probabilities, the sum is
    divided by N and there is no second top.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check axis, labels and the matrix, which is read here when it is a file."""
        scores, labels = shapes[:2]
        check_same_num(self, scores, labels)
        self.softmax = self.profile.infogain_softmax
        self.class_axis = 1
        if self.softmax:
            axis = self.param.infogain_loss_param.axis
            self.class_axis = self.axis(axis, len(scores), "infogain_loss_param.axis")
        self.classes = scores[self.class_axis] if self.softmax else prod(scores[1:])
        self.check(
            not self.softmax or not self.param.loss_param.HasField("normalize"),
            "`normalize` is not read by this layer: write `normalization`",
            field="loss_param.normalize",
        )
        self.ignore = ignore_label(self) if self.softmax else None
        self.mode = normalization(self, "VALID") if self.softmax else "BATCH_SIZE"
        flat = scores if self.softmax else (scores[0], self.classes)
        check_label_count(self, flat, labels, self.class_axis, "infogain axis")
        self.matrix: Tensor | None
        self.register_buffer("matrix", self._read(shapes), persistent=False)

    def _read(self, shapes: tuple[Shape, ...]) -> Tensor | None:
        wanted = self.classes * self.classes
        matrix = None
        if len(shapes) == 2:
            source = self.param.infogain_loss_param.source
            matrix = read_matrix(self, source, "infogain_loss_param.source")
        count = prod(shapes[2]) if matrix is None else matrix.numel()
        self.check(
            count == wanted,
            f"the matrix must be {self.classes} x {self.classes} ({wanted} numbers), "
            f"not {count} numbers",
            field="infogain_loss_param.source" if matrix is not None else None,
        )
        return matrix

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the loss, and the probabilities when the layer has a second top."""
        x, axis = bottoms[0], self.class_axis
        outer = prod(x.shape[:axis])
        x = x.reshape(outer, self.classes, -1)  # (outer, classes, inner)
        labels = class_labels(self, bottoms[1], (outer, x.shape[2]), self.classes, self.ignore)
        matrix = bottoms[2].detach() if self.matrix is None else self.matrix.to(x.device)
        rows = matrix.reshape(self.classes, self.classes)[labels.target].transpose(1, 2)
        if labels.ignored is not None:
            rows = rows.masked_fill(labels.ignored.unsqueeze(1), 0)
        if self.softmax:
            total, prob = _SoftmaxInfogain.apply(x, rows)  # type: ignore[no-untyped-call]
        else:
            total, prob = _NegativeLog.apply(x, rows), x.detach()  # type: ignore[no-untyped-call]
        divisor = normalizer(self, self.mode, outer, x.shape[2], labels.ignored)
        loss = spoil(total / divisor, labels)
        if len(self.context.top_names) < 2:
            return loss
        return loss, prob.reshape(bottoms[0].shape)


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
