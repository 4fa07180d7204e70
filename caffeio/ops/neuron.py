"""Neuron layers: one value in, one value out.

Sources: src/caffe/layers/{absval,bnll,clip,elu,prelu,relu,relu6,sigmoid,swish,tanh,threshold}_
layer.cpp. All map (any shape) to the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from caffeio.ops import backward, digits
from caffeio.ops.blas import one_by_one
from caffeio.ops.digits import is_exact
from caffeio.ops.exact import exactly

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType
    from caffeio.layers.neuron import ELU, Clip, PReLU, ReLU, ReLU6, Swish, Threshold


def relu(layer: ReLU, x: Tensor) -> Tensor:
    """Return max(x, 0) + slope * min(x, 0)."""
    if x.requires_grad and is_exact(x):  # only the gradient is of another kind
        return exactly(layer, (x,), _relu, _relu, backward.ReLU)
    return _relu(layer, x)


def _relu(layer: ReLU, x: Tensor) -> Tensor:
    return F.leaky_relu(x, layer.slope) if layer.slope else F.relu(x)


def relu_over(layer: Any, x: Tensor) -> Tensor:
    """Do what `relu` does in the memory of `x`, which nothing else reads."""
    return F.leaky_relu_(x, layer.slope) if layer.slope else F.relu_(x)


def relu6(layer: ReLU6, x: Tensor) -> Tensor:
    """Return min(max(x, 0) + slope * min(x, 0), 6)."""
    if not layer.slope:
        return F.relu6(x)
    return torch.where(x < 6, F.leaky_relu(x, layer.slope), 6.0)


def prelu(layer: PReLU, x: Tensor) -> Tensor:
    """(N, C, ...): multiply what is below 0 by the slope of its channel."""
    if is_exact(x) and torch.is_grad_enabled() and layer.blobs[0].requires_grad:
        return _PReLU.apply(x, layer.blobs[0])  # type: ignore[no-any-return,no-untyped-call]
    return F.prelu(x, layer.blobs[0].reshape(-1))


class _PReLU(Function):
    """F.prelu, whose slope has a gradient that is added up number by number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope.reshape(-1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        grad = grads[0]
        if torch.is_grad_enabled():  # the gradient itself will be differentiated
            y = F.prelu(x, slope.reshape(-1))
            found = torch.autograd.grad(y, (x, slope), grad, create_graph=True)
            return found[0], found[1]
        channels = slope.view(1, -1, *[1] * (x.dim() - 2))
        terms = (grad * x * (x <= 0)).contiguous()
        by_slope = terms.transpose(0, 1).reshape(x.shape[1], -1) if slope.dim() else terms
        total = one_by_one(by_slope.reshape(slope.numel(), -1)).view(slope.shape)
        return grad * ((x > 0) + channels * (x <= 0)), total


def elu(layer: ELU, x: Tensor) -> Tensor:
    """Return x above 0, else alpha * (e^x - 1), times the scale."""
    if layer.scale == 1 and is_exact(x):
        return exactly(layer, (x,), _elu_exactly, _elu, backward.ELU)
    return _elu(layer, x)


def _elu(layer: ELU, x: Tensor) -> Tensor:
    y = F.elu(x, layer.alpha)
    return y if layer.scale == 1 else y * layer.scale


def _elu_exactly(layer: ELU, x: Tensor) -> Tensor:
    return x.clamp(min=0).add_(digits.exp(x.clamp(max=0)).sub_(1).mul_(layer.alpha))


def absolute(layer: LayerType, x: Tensor) -> Tensor:
    """Return |x|."""
    return x.abs()


def bnll(layer: LayerType, x: Tensor) -> Tensor:
    """Return log(1 + e^x)."""
    if is_exact(x):
        return exactly(layer, (x,), _bnll_exactly, _bnll, backward.BNLL)
    return _bnll(layer, x)


def _bnll(layer: LayerType, x: Tensor) -> Tensor:
    return F.softplus(x)


def _bnll_exactly(layer: LayerType, x: Tensor) -> Tensor:
    rest = digits.exp(-x.abs()).double().add_(1).log_()
    return torch.where(x > 0, x.double() + rest, rest).float()


def clip(layer: Clip, x: Tensor) -> Tensor:
    """Return max(min, min(x, max))."""
    if x.requires_grad and is_exact(x):  # only the gradient is of another kind
        return exactly(layer, (x,), _clip, _clip, backward.Clip)
    return _clip(layer, x)


def _clip(layer: Clip, x: Tensor) -> Tensor:
    low, high = layer.limits
    if low > high:  # where torch's clamp gives max, Caffe gives min
        return x.clamp(max=high).clamp(min=low)
    return x.clamp(low, high)


def sigmoid(layer: LayerType, x: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x)."""
    if is_exact(x):
        return exactly(layer, (x,), _sigmoid_exactly, _sigmoid, backward.Sigmoid)
    return torch.sigmoid(x)


def _sigmoid(layer: LayerType, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _sigmoid_exactly(layer: LayerType, x: Tensor) -> Tensor:
    return digits.sigmoid(x)


def tanh(layer: LayerType, x: Tensor) -> Tensor:
    """Return tanh(x)."""
    if is_exact(x):
        return exactly(layer, (x,), _tanh_exactly, _tanh, backward.TanH)
    return torch.tanh(x)


def _tanh(layer: LayerType, x: Tensor) -> Tensor:
    return torch.tanh(x)


def _tanh_exactly(layer: LayerType, x: Tensor) -> Tensor:
    return digits.tanh(x)


def swish(layer: Swish, x: Tensor) -> Tensor:
    """Return x / (1 + e^(-beta x))."""
    if is_exact(x):
        return exactly(layer, (x,), _swish_exactly, _swish, backward.Swish)
    return _swish(layer, x)


def _swish_exactly(layer: Swish, x: Tensor) -> Tensor:
    return digits.sigmoid(x * layer.beta).mul_(x)


def _swish(layer: Swish, x: Tensor) -> Tensor:
    return F.silu(x) if layer.beta == 1 else x * torch.sigmoid(layer.beta * x)


def threshold(layer: Threshold, x: Tensor) -> Tensor:
    """Return 1 where x is above the threshold, else 0."""
    return (x.detach() > layer.threshold).to(x.dtype)
