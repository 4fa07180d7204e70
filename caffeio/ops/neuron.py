"""Neuron layers: one value in, one value out.

Sources: src/caffe/layers/{absval,bnll,clip,elu,prelu,relu,relu6,sigmoid,swish,tanh,threshold}_
layer.cpp. All map (any shape) to the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType
    from caffeio.layers.neuron import ELU, Clip, PReLU, ReLU, ReLU6, Swish, Threshold


def relu(layer: ReLU, x: Tensor) -> Tensor:
    """Return max(x, 0) + slope * min(x, 0)."""
    return F.leaky_relu(x, layer.slope) if layer.slope else F.relu(x)


def relu_over(layer: Any, x: Tensor) -> Tensor:
    """Do what `relu` does in the memory of `x`, which nobody else reads."""
    return F.leaky_relu_(x, layer.slope) if layer.slope else F.relu_(x)


def relu6(layer: ReLU6, x: Tensor) -> Tensor:
    """Return min(max(x, 0) + slope * min(x, 0), 6)."""
    if not layer.slope:
        return F.relu6(x)
    return torch.where(x < 6, F.leaky_relu(x, layer.slope), 6.0)


def prelu(layer: PReLU, x: Tensor) -> Tensor:
    """(N, C, ...): multiply what is below 0 by the slope of its channel."""
    return F.prelu(x, layer.blobs[0].reshape(-1))


def elu(layer: ELU, x: Tensor) -> Tensor:
    """Return x above 0, else alpha * (e^x - 1), times the scale."""
    y = F.elu(x, layer.alpha)
    return y if layer.scale == 1 else y * layer.scale


def absolute(layer: LayerType, x: Tensor) -> Tensor:
    """Return |x|."""
    return x.abs()


def bnll(layer: LayerType, x: Tensor) -> Tensor:
    """Return log(1 + e^x)."""
    return F.softplus(x)


def clip(layer: Clip, x: Tensor) -> Tensor:
    """Return max(min, min(x, max))."""
    low, high = layer.limits
    if low > high:  # where torch's clamp gives max, Caffe gives min
        return x.clamp(max=high).clamp(min=low)
    return x.clamp(low, high)


def sigmoid(layer: LayerType, x: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x)."""
    return torch.sigmoid(x)


def tanh(layer: LayerType, x: Tensor) -> Tensor:
    """Return tanh(x)."""
    return torch.tanh(x)


def swish(layer: Swish, x: Tensor) -> Tensor:
    """Return x / (1 + e^(-beta x))."""
    return F.silu(x) if layer.beta == 1 else x * torch.sigmoid(layer.beta * x)


def threshold(layer: Threshold, x: Tensor) -> Tensor:
    """Return 1 where x is above the threshold, else 0."""
    return (x.detach() > layer.threshold).to(x.dtype)
