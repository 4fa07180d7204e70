"""BN: batch normalization with scale and shift in one layer, as three families of forks have it.

Sources: bn_layer.cpp of SegNet (2 blobs), of PSPNet and temporal-segment-networks (slope and bias,
frozen), of happynear's and Wei Liu's older Caffes (moving_average, decay).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffeio.ops.batch_norm import by_own_statistics

if TYPE_CHECKING:
    from caffeio.layers.bn import BN


def bn(layer: BN, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """(N, C, ...) -> the same shape (segnet: and mean, variance [1, C, 1, 1])."""
    scale, shift = (layer.blobs[i].flatten() for i in range(2))
    if layer.frozen:
        scale, shift = scale.detach(), shift.detach()
    if layer.plain:
        view = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(view), x, scale.view(view))
    if layer.uses_stored:
        mean, variance = (layer.blobs[i].detach().flatten() for i in (2, 3))
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(x, scale, shift, mean, variance, False, 0.0, layer.eps, cudnn)
    y, mean, variance = by_own_statistics(x, scale.detach(), scale, shift, layer.eps)
    count = x.numel() // x.shape[1]
    variance = variance * ((count - 1) / count)
    if layer.updates:
        _update(layer, mean, variance)
    shape = layer.blobs[0].shape
    extra = (mean.view(shape), variance.view(shape))[: layer.outputs - 1]
    return (y, *extra) if extra else y


@torch.no_grad()
def _update(layer: BN, mean: Tensor, variance: Tensor) -> None:
    for blob, value in ((layer.blobs[2], mean), (layer.blobs[3], variance)):
        blob.mul_(layer.keep).add_(value.view(blob.shape), alpha=1 - layer.keep)
