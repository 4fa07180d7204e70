"""Neuron layers: one value in, one value out.

Sources: src/caffe/layers/{absval,bnll,clip,elu,prelu,relu,relu6,sigmoid,swish,tanh,threshold}_
layer.cpp. In place, Caffe computes the gradients of BNLL and Clip from the output, which it finds
where the input was; so do these. All map (any shape) to the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.ops.gradients import with_gradient

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType
    from caffeio.layers.neuron import ELU, Clip, PReLU, ReLU, ReLU6, Swish, Threshold


def relu(layer: ReLU, x: Tensor) -> Tensor:
    """Return max(x, 0) + slope * min(x, 0)."""
    if not layer.slope:
        return F.relu(x)
    if layer.slope < 0 and layer.runs_in_place:  # the sign is read from the output
        y = F.leaky_relu(x.detach(), layer.slope)
        return with_gradient(x, y, torch.where(y > 0, 1.0, layer.slope))
    return F.leaky_relu(x, layer.slope)


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
    if not layer.runs_in_place:
        return F.softplus(x)
    y = F.softplus(x.detach())
    return with_gradient(x, y, torch.sigmoid(y))


def clip(layer: Clip, x: Tensor) -> Tensor:
    """Limit x to [min, max]."""
    if not layer.runs_in_place:
        return x.clamp(*layer.limits)
    y = x.detach().clamp(*layer.limits)
    return with_gradient(x, y, torch.ones_like(y))


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
