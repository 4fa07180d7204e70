"""Normalize (SSD): divides by the L2 norm of an item or a pixel and scales.

Source: src/caffe/layers/normalize_layer.cpp of weiliu89/caffe, branch ssd, and Intel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.l2_normalize import Normalize


def normalize(layer: Normalize, *bottoms: Tensor) -> Tensor:
    """Return the scaled directions, of the bottom's shape."""
    x = bottoms[0]
    over = tuple(range(1, x.dim())) if layer.across else (1,)
    norm = ((x * x).sum(over, keepdim=True) + layer.eps).sqrt()
    scale: Tensor = layer.blobs[0]
    return x / norm * (scale if scale.dim() == 0 else scale.view(-1, *[1] * (x.dim() - 2)))
