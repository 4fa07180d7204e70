"""Accuracy: how often the label is among the best classes.

Source: src/caffe/layers/accuracy_layer.cpp (BVLC; with sorting: Intel and BVLC before 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.layers.labels import check_label_count
from caffeio.ops.few_scores import accuracy_of_few
from caffeio.ops.labels import ClassLabels, class_labels

if TYPE_CHECKING:
    from caffeio.layers.accuracy import Accuracy


def accuracy(layer: Accuracy, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return the share of right items, and that of each class when there is a second top."""
    scores, axis = bottoms[0].detach(), layer.class_axis
    few = accuracy_of_few(layer, scores, bottoms[1])
    if few is not None:
        return few
    shape = tuple(scores.shape)
    check_label_count(layer, shape, tuple(bottoms[1].shape), axis, "axis")
    labels = class_labels(
        layer, bottoms[1], (*shape[:axis], 1, *shape[axis + 1 :]), shape[axis], layer.ignore
    )
    right = (_better(layer, scores, labels) < layer.top_k).unsqueeze(axis)
    for mask in (labels.ignored, labels.invalid):
        if mask is not None:
            right = right & ~mask
    share = _share(layer, right, labels)
    if len(layer.context.top_names) < 2:
        return share
    return share, _share_by_class(right, labels, shape[axis])


def _better(layer: Accuracy, scores: Tensor, labels: ClassLabels) -> Tensor:
    """How many classes beat the label."""
    axis = layer.class_axis
    own = scores.gather(axis, labels.target)
    if layer.profile.accuracy_ties == "against_label":
        return (scores >= own).sum(axis) - 1  # a nan label is never beaten: -1
    order = torch.arange(scores.shape[axis], device=scores.device)
    order = order.view(-1, *[1] * (scores.dim() - axis - 1))
    higher = order > labels.target
    return ((scores > own) | (~(scores < own) & higher)).sum(axis)


def _share(layer: Accuracy, right: Tensor, labels: ClassLabels) -> Tensor:
    hits = right.sum(dtype=torch.float32)
    if layer.denominator:
        return hits / torch.full_like(hits, layer.denominator)
    if labels.ignored is None:
        # a tensor, because CUDA multiplies by the rounded reciprocal of a number
        items = torch.full_like(hits, right.numel())
    else:
        items = (~labels.ignored).sum(dtype=torch.float32)
    return torch.where(items > 0, hits / items, layer.profile.accuracy_without_labels)


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
