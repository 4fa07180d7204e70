"""ShuffleChannel and Reorg: values change places between channels and pixels.

Sources: shuffle_channel_layer.cpp (ShuffleNet), reorg_layer.cpp (Intel; darknet's order).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.channel_order import Reorg, ShuffleChannel


def shuffle_channel(layer: ShuffleChannel, *bottoms: Tensor) -> Tensor:
    """Return the mixed channels."""
    x = bottoms[0]
    n, c, h, w = x.shape
    grouped = x.reshape(n, layer.group, c // layer.group, h, w)
    return grouped.transpose(1, 2).reshape(x.shape)


def reorg(layer: Reorg, *bottoms: Tensor) -> Tensor:
    """Return the reordered blob."""
    x = bottoms[0]
    n, c, h, w = x.shape
    s = layer.stride
    if layer.reverse:
        x = x.reshape(n, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // (s * s), h * s, w * s)
    x = x.reshape(n, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * s * s, h // s, w // s)
