"""Accuracy: how often the label is among the best classes.

Source: src/caffe/layers/accuracy_layer.cpp (BVLC; with sorting: Intel and BVLC before 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, between, exactly, layer
from caffeio.layers.labels import check_label_count
from caffeio.ops.labels import ClassLabels, class_labels


@layer("Accuracy")
class Accuracy(Layer):
    """Share of items whose label is one of the top_k classes along accuracy_param.axis.

    Bottoms: scores, labels (as many as scores without the axis). Tops: the share (a scalar) and,
    optionally, the share for each class (0 for classes that no item has). Items with the
    ignore_label do not count. Ties, by profile: every class that ties with the label is better
    ("against_label"), or only those with a higher index ("higher_class"). Without items the share
    is 0 (BVLC) or nan (Intel).

    A label that is no class is a DataError on the CPU; elsewhere, and in compiled code, its item
    counts as wrong.
    """

    bottoms = exactly(2)
    tops = between(1, 2)
    differentiable = False
    in_place = False
    label_bottoms = frozenset({1})

    def dies_backward(self, needs: Sequence[bool]) -> str:
        """Say that there is no backward pass, if one is asked for."""
        return "Accuracy has no backward pass, and a gradient is asked for" if any(needs) else ""

    def setup(self, *shapes: Shape) -> None:
        """Check axis, label count and top_k."""
        param = self.param.accuracy_param
        scores, labels = shapes
        self.class_axis = self.axis(param.axis, len(scores), "accuracy_param.axis")
        check_label_count(self, scores, labels, self.class_axis, "axis")
        self.top_k: int = param.top_k
        classes = scores[self.class_axis]
        self.check(
            self.top_k <= classes or not prod(labels),
            f"top_k {self.top_k} is more than there are classes ({classes})",
            field="accuracy_param.top_k",
        )
        self.ignore = param.ignore_label if param.HasField("ignore_label") else None
        self.denominator: float = param.denominator  # lisa-caffe: instead of the number of items
        self.check(
            self.denominator >= 0, "must not be negative", field="accuracy_param.denominator"
        )
        self.check(
            not param.min_is_better, "is not supported", field="accuracy_param.min_is_better"
        )

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the share of right items, and that of each class when there is a second top."""
        scores, axis = bottoms[0].detach(), self.class_axis
        shape = tuple(scores.shape)
        check_label_count(self, shape, tuple(bottoms[1].shape), axis, "axis")
        labels = class_labels(
            self, bottoms[1], (*shape[:axis], 1, *shape[axis + 1 :]), shape[axis], self.ignore
        )
        right = (self._better(scores, labels) < self.top_k).unsqueeze(axis)
        for mask in (labels.ignored, labels.invalid):
            if mask is not None:
                right = right & ~mask
        share = self._share(right, labels)
        if len(self.context.top_names) < 2:
            return share
        return share, self._share_by_class(right, labels, shape[axis])

    def _better(self, scores: Tensor, labels: ClassLabels) -> Tensor:
        """How many classes beat the label."""
        axis = self.class_axis
        own = scores.gather(axis, labels.target)
        if self.profile.accuracy_ties == "against_label":
            return (scores >= own).sum(axis) - 1  # a nan label is never beaten: -1
        order = torch.arange(scores.shape[axis], device=scores.device)
        order = order.view(-1, *[1] * (scores.dim() - axis - 1))
        higher = order > labels.target
        return ((scores > own) | (~(scores < own) & higher)).sum(axis)

    def _share(self, right: Tensor, labels: ClassLabels) -> Tensor:
        hits = right.sum(dtype=torch.float32)
        if self.denominator:
            return hits / torch.full_like(hits, self.denominator)
        if labels.ignored is None:
            # a tensor, because CUDA multiplies by the rounded reciprocal of a number
            items = torch.full_like(hits, right.numel())
        else:
            items = (~labels.ignored).sum(dtype=torch.float32)
        return torch.where(items > 0, hits / items, self.profile.accuracy_without_labels)

    @staticmethod
    def _share_by_class(right: Tensor, labels: ClassLabels, classes: int) -> Tensor:
        counts = torch.ones_like(right)
        for mask in (labels.ignored, labels.invalid):
            if mask is not None:
                counts = counts & ~mask
        zeros = torch.zeros(classes, device=right.device)
        index = labels.target.flatten()
        items = zeros.scatter_add(0, index, counts.flatten().to(torch.float32))
        hits = zeros.scatter_add(0, index, right.flatten().to(torch.float32))
        return torch.where(items > 0, hits / items, 0.0)
