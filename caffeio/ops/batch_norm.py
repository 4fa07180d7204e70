"""BatchNorm in its three meanings (BVLC, Intel, NVIDIA), and its fusion with Scale.

Sources: src/caffe/layers/batch_norm_layer.cpp of BVLC, Intel and NVIDIA Caffe,
mkldnn_batch_norm_layer.cpp, cudnn_batch_norm_layer.cu; Ioffe & Szegedy 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.layers.batch_norm import BatchNorm
from caffeio.ops.digits import is_small
from caffeio.ops.small_batch import normalize as step_by_step

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType


def by_own_statistics(
    x: Tensor, like: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize `x` (N, C, ...) by its own statistics; also return those.

    y = (x - mean) / sqrt(biased variance + eps) * weight + bias. The returned mean and variance
    have C values and the dtype of `like`; the variance is multiplied by m / (m - 1) for m > 1
    values a channel. Statistics carry no gradient.
    """
    count = x.numel() // x.shape[1]
    if is_small(x) or count == 1:
        y, mean, variance = step_by_step(x, eps)
        if count > 1:
            variance = variance * (count / (count - 1))
        return _scaled(y, weight, bias), mean.to(like.dtype), variance.to(like.dtype)
    mean, variance = torch.zeros_like(like), torch.zeros_like(like)
    cudnn = torch.backends.cudnn.enabled
    y = torch.batch_norm(x, weight, bias, mean, variance, True, 1.0, eps, cudnn)
    return y, mean, variance


def _scaled(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Compute y * weight + bias, both of axis 1 and both optional."""
    shape = (1, -1, *[1] * (y.dim() - 2))
    if weight is not None:
        y = y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def batch_norm(layer: BatchNorm, x: Tensor) -> Tensor:
    """(N, C, ...) -> the same shape; updates the statistics unless the stored ones are used."""
    weight = layer.blobs[3] if len(layer.blobs) > 3 else None
    bias = layer.blobs[4] if len(layer.blobs) > 4 else None
    y = normalize(layer, x, weight, bias)
    return F.relu(y) if layer.relu else y


def normalize(layer: BatchNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Run `layer` with any scale and bias (C values each)."""
    if layer.use_global:
        mean, variance = global_statistics(layer)
        if layer.eps == 0:  # a variance of 0 makes inf, where torch's x * a + b makes nan
            view = (1, -1, *[1] * (x.dim() - 2))
            return _scaled((x - mean.view(view)) / variance.sqrt().view(view), weight, bias)
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, layer.eps, cudnn)
    if not layer.part or layer.part == x.shape[0]:
        return _batch(layer, x, weight, bias)
    parts = torch.split(x, layer.part)
    return torch.cat([_batch(layer, part, weight, bias) for part in parts])


def global_statistics(layer: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the stored mean and variance; zeros while the factor is 0 (nothing was ever seen)."""
    mean, variance, factor = (blob.detach() for blob in layer.blobs[:3])
    scale = torch.where(factor == 0, 0.0, 1.0 / factor)
    return mean * scale, variance * scale


def _batch(layer: BatchNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y, mean, variance = by_own_statistics(x, layer.blobs[0], weight, bias, layer.eps)
    if layer.updates:
        _update(layer, mean, variance)
    return y


@torch.no_grad()
def _update(layer: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    stored = [layer.blobs[0], layer.blobs[1]]
    if layer.averages:  # cuDNN: the first batch replaces the zeros that a fresh layer holds
        rate = torch.where((stored[1] == 0).all(), 1.0, 1.0 - layer.fraction)
        stored[0].lerp_(mean, rate)
        stored[1].lerp_(variance, rate)
        return
    factor = layer.blobs[2]
    torch._foreach_mul_([*stored, factor], layer.fraction)
    torch._foreach_add_(stored, [mean, variance])
    factor.add_(1)


def fused_batch_norm_scale(x: Tensor, norm: LayerType, scale: LayerType, *, relu: bool) -> Tensor:
    """Run BatchNorm, Scale and, with `relu`, ReLU as one native operation.

    Both layers must be `fusible`. The blobs of BatchNorm are updated as the layer itself does.
    """
    assert isinstance(norm, BatchNorm)
    bias = scale.blobs[1] if len(scale.blobs) > 1 else None
    y = normalize(norm, x, scale.blobs[0], bias)
    return F.relu_(y) if relu else y  # batch_norm's backward does not read its output
