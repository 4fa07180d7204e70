"""The dense layers.

Sources: src/caffe/layers/inner_product_layer.cpp, embed_layer.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.errors import DataError

if TYPE_CHECKING:
    from caffeio.layers.inner_product import Embed, InnerProduct


def inner_product(layer: InnerProduct, x: Tensor) -> Tensor:
    """(outer, ...) -> (outer, num_output)."""
    inputs = math.prod(x.shape[layer.start :])
    if inputs != layer.inputs:
        raise layer.error(f"the bottom's {inputs} values do not fit weights for {layer.inputs}")
    weight = layer.blobs[0].t() if layer.transpose else layer.blobs[0]
    bias = layer.blobs[1] if len(layer.blobs) > 1 else None
    y = F.linear(x.reshape(*x.shape[: layer.start], inputs), weight, bias)
    if layer.relu:
        return F.leaky_relu(y, layer.negative_slope) if layer.negative_slope else F.relu(y)
    return y


def embed(layer: Embed, x: Tensor) -> Tensor:
    """(any shape) of indices -> (that shape, num_output)."""
    index = x.long()
    rows = layer.blobs[0].shape[0]
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and index.numel():
        low, high = index.aminmax()
        if low < 0 or high >= rows:
            worst = int(low if low < 0 else high)
            raise DataError(
                f"layer {layer.name!r}: index {worst} is not below input_dim {rows}",
                where=layer.context.where or None,
            )
    y = F.embedding(index, layer.blobs[0])
    return y + layer.blobs[1] if len(layer.blobs) > 1 else y
