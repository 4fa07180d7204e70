"""Layers that pick items of a batch, and the blob that is a parameter.

Sources: src/caffe/layers/batch_reindex_layer.cpp, filter_layer.cpp, parameter_layer.hpp (BVLC),
box_annotator_ohem_layer.cpp (Intel, R-FCN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.errors import DataError

if TYPE_CHECKING:
    from caffeio.layers.batch_index import BatchReindex, BoxAnnotatorOHEM, Filter, Parameter


def batch_reindex(layer: BatchReindex, *bottoms: Tensor) -> Tensor:
    """Return the picked items."""
    x = bottoms[0]
    wanted = bottoms[1].detach().long()
    index = wanted.clamp(0, max(x.shape[0] - 1, 0))
    outside = index != wanted
    if x.shape[0] == 0 and wanted.shape[0]:
        raise layer.error("bottom 0 has no items to pick from")
    if wanted.device.type == "cpu" and not torch.compiler.is_compiling():
        if bool(outside.any()):
            place = int(outside.nonzero()[0])
            raise DataError(
                f"layer {layer.name!r} (type {layer.type_name}): index {int(wanted[place])} at "
                f"item {place} is outside 0..{x.shape[0] - 1}",
                where=layer.context.where or None,
            )
        return x.index_select(0, index)
    picked = x.index_select(0, index)
    return picked.masked_fill(outside.view(-1, *[1] * (x.dim() - 1)), torch.nan)


def keep_items(layer: Filter, *bottoms: Tensor) -> tuple[Tensor, ...]:
    """Return the kept items of each bottom but the last."""
    *items, selector = bottoms
    if selector.is_meta:
        return tuple(torch.empty_like(x) for x in items)
    index = selector.detach().flatten().nonzero().flatten()
    return tuple(x.index_select(0, index) for x in items)


def parameter(layer: Parameter, *bottoms: Tensor) -> Tensor:
    """Return the blob."""
    blob: Tensor = layer.blobs[0]
    return blob.view(blob.shape)


def box_annotator_ohem(layer: BoxAnnotatorOHEM, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels and weights of the hard rois."""
    rois, loss, labels, weights = (x.detach().reshape(layer.legacy(x.shape)) for x in bottoms)
    image = rois[:, 0].flatten().long()
    order = loss.flatten().argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]  # by image, the greatest loss first
    grouped = image[order]
    place = torch.arange(len(order), device=order.device)
    rank = place - torch.searchsorted(grouped, grouped)
    kept = torch.empty_like(image, dtype=torch.bool)
    kept[order] = rank < layer.keep
    mask = kept.view(labels.shape)
    return labels.masked_fill(~mask, float(layer.ignore)), weights.masked_fill(~mask, 0.0)
