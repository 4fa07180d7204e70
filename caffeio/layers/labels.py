"""What losses and Accuracy share: labels in float blobs, and the normalisation of losses.

Sources: src/caffe/layers/softmax_loss_layer.cpp, accuracy_layer.cpp, loss_layer.cpp (BVLC, Intel).
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.layers.base import Layer, Shape
from caffeio.proto import caffe_pb2 as pb

TINY = torch.finfo(torch.float32).tiny  # FLT_MIN: the least probability whose log is taken
LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD of include/caffe/layers/loss_layer.hpp


class ClassLabels(NamedTuple):
    """The labels of a batch as indices that are safe to use.

    Caffe reads whatever lies in memory for a label that is no class. Here it is a DataError on the
    CPU; on other devices, where looking would make the host wait, `invalid` marks such items.
    """

    target: Tensor  # int64, all in 0..classes-1; ignored and invalid items hold some class
    ignored: Tensor | None  # bool: items with the ignore_label; None: the layer has none
    invalid: Tensor | None  # bool: items whose label is no class; None: there are none


def class_labels(
    layer: Layer, label: Tensor, shape: Shape, classes: int, ignore: int | None
) -> ClassLabels:
    """Truncate `label` to int, as Caffe does, and give it `shape`.

    Raises DataError for a label outside 0..classes-1 that is not `ignore` (CPU, eager mode).
    """
    whole = label.detach().long().reshape(shape)
    ignored = None if ignore is None else whole == ignore
    index = whole.clamp(0, max(classes - 1, 0))
    invalid = index != whole
    if ignored is not None:
        invalid &= ~ignored
    if label.device.type != "cpu" or torch.compiler.is_compiling():
        return ClassLabels(index, ignored, invalid)
    if bool(invalid.any()):
        raise _outside(layer, label, invalid, classes)
    return ClassLabels(index, ignored, None)


def _outside(layer: Layer, label: Tensor, invalid: Tensor, classes: int) -> DataError:
    flat = int(invalid.flatten().nonzero()[0])
    place = [int(i) for i in torch.unravel_index(torch.tensor(flat), label.shape)]
    at = f"item {place[0]}" if place else "item 0"
    if prod(label.shape[1:]) > 1:
        at += f", position {' '.join(map(str, place[1:]))}"
    return DataError(
        f"layer {layer.name!r} (type {layer.kind}): label {float(label.flatten()[flat]):g} at {at} "
        f"is outside 0..{classes - 1}",
        where=layer.context.where or None,
    )


def check_label_count(layer: Layer, scores: Shape, labels: Shape, axis: int, what: str) -> None:
    """Raise unless there is one label for each prediction along `axis`."""
    outer, inner = prod(scores[:axis]), prod(scores[axis + 1 :])
    if outer * inner == prod(labels):
        return  # no message is made: torch.compile cannot print sizes that vary
    raise layer.error(
        f"there must be one label for each prediction: {outer * inner} predictions (bottom 0 is "
        f"{text(scores)}, {what} {axis}), {prod(labels)} labels (bottom 1 is {text(labels)})",
    )


def check_same_num(layer: Layer, first: Shape, second: Shape) -> None:
    """Raise unless two bottoms have the same first dimension (LossLayer::Reshape)."""
    layer.check(
        first[:1] == second[:1] and bool(first),
        f"data and label must have the same first dimension: bottom 0 is {text(first)}, "
        f"bottom 1 is {text(second)}",
    )


def check_same_count(layer: Layer, first: Shape, second: Shape, second_name: str) -> None:
    """Raise unless two bottoms hold equally many numbers for each item."""
    layer.check(
        prod(first[1:]) == prod(second[1:]),
        f"bottom 0 ({text(first)}) and {second_name} ({text(second)}) must have the same count",
    )


def text(shape: Shape) -> str:
    """A shape as Caffe's messages print it."""
    return " ".join(map(str, shape)) or "scalar"


def normalization(layer: Layer, default: str) -> str:
    """Name of the NormalizationMode: `normalization`, else the old `normalize`, else `default`."""
    param = layer.param.loss_param
    if param.HasField("normalization"):
        return pb.LossParameter.NormalizationMode.Name(param.normalization)
    if param.HasField("normalize"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return default


def ignore_label(layer: Layer) -> int | None:
    """The label of loss_param whose items do not count, if there is one."""
    param = layer.param.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None


def normalizer(
    layer: Layer, mode: str, outer: int, inner: int, ignored: Tensor | None
) -> Tensor | float:
    """What a sum over outer * inner items is divided by, at least 1 (`get_normalizer`).

    With VALID it is the number of items that are not `ignored`: a tensor, so that nobody waits
    for the device.
    """
    if mode == "VALID" and ignored is not None:
        return (~ignored).sum().clamp(min=1).to(torch.float32)
    sizes = {
        "FULL": outer * inner,
        "VALID": outer * inner,
        "BATCH_SIZE": outer,
        "PRE_FIXED": layer.param.loss_param.pre_fixed_normalizer,
        "NONE": 1,
    }
    return max(1.0, float(sizes[mode]))
