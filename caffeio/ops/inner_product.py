"""The dense layers.

Sources: src/caffe/layers/inner_product_layer.cpp, embed_layer.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

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
    y = F.embedding(x.long(), layer.blobs[0])
    return y + layer.blobs[1] if len(layer.blobs) > 1 else y
