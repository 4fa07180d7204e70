"""Labels in float blobs, and the normalisation of losses.

Sources: src/caffe/layers/softmax_loss_layer.cpp, accuracy_layer.cpp, loss_layer.cpp (BVLC, Intel).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from caffeio.errors import DataError
from caffeio.ops.tracing import is_traced

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType, Shape

TINY = torch.finfo(torch.float32).tiny  # FLT_MIN: the least probability whose log is taken


class ClassLabels(NamedTuple):
    """The labels of a batch as indices that are safe to use.

    Caffe reads whatever lies in memory for a label that is no class. Here it is a DataError on the
    CPU; on other devices, where looking would make the host wait, `invalid` marks such items.
    """

    target: Tensor  # int64, all in 0..classes-1; ignored and invalid items hold some class
    ignored: Tensor | None  # bool: items with the ignore_label; None: the layer has none
    invalid: Tensor | None  # bool: items whose label is no class; None: there are none


def class_labels(
    layer: LayerType, label: Tensor, shape: Shape, classes: int, ignore: int | None
) -> ClassLabels:
    """Truncate `label` to int, as Caffe does, and give it `shape`.

    Raises DataError for a label outside 0..classes-1 that is not `ignore` (CPU, eager mode).
    """
    whole = label.detach().to(torch.int64, copy=True).reshape(shape)
    seen = label.device.type == "cpu" and not torch.compiler.is_compiling()
    ignored = None if ignore is None else whole == ignore
    if seen and whole.numel() and not is_traced():
        if ignored is not None and ignore is not None:  # they get the class that clamp would give
            whole.masked_fill_(ignored, min(max(ignore, 0), max(classes - 1, 0)))
        low, high = whole.aminmax()
        if low >= 0 and high < classes:
            return ClassLabels(whole, ignored, None)
    index = whole.clamp(0, max(classes - 1, 0))
    invalid = index != whole
    if ignored is not None:
        invalid &= ~ignored
    if not seen:
        return ClassLabels(index, ignored, invalid)
    if bool(invalid.any()):
        raise _outside(layer, label, invalid, classes)
    return ClassLabels(index, ignored, None)


def _outside(layer: LayerType, label: Tensor, invalid: Tensor, classes: int) -> DataError:
    flat = int(invalid.flatten().nonzero()[0])
    place = [int(i) for i in torch.unravel_index(torch.tensor(flat), label.shape)]
    at = f"item {place[0]}" if place else "item 0"
    if prod(label.shape[1:]) > 1:
        at += f", position {' '.join(map(str, place[1:]))}"
    value = float(label.detach().flatten()[flat])
    return DataError(
        f"layer {layer.name!r} (type {layer.type_name}): label {value:g} at {at} "
        f"is outside 0..{classes - 1}",
        where=layer.context.where or None,
    )


def normalizer(
    layer: LayerType, mode: str, outer: int, inner: int, ignored: Tensor | None
) -> Tensor | float:
    """What a sum over outer * inner items is divided by, at least 1 (`get_normalizer`).

    With VALID it is the number of items that are not `ignored`: a tensor, so that nobody waits
    for the device.
    """
    if mode == "VALID" and ignored is not None:
        return (~ignored).sum().clamp(min=1).to(torch.float32)
    if mode in ("FULL", "VALID"):
        size: float = outer * inner
    elif mode == "BATCH_SIZE":
        size = outer
    else:
        size = layer.param.loss_param.pre_fixed_normalizer if mode == "PRE_FIXED" else 1
    return max(1.0, float(size))
