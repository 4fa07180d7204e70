"""Backward of layers that read the data of their blobs when they go back, as Caffe wrote it.

Caffe's Backward finds what lies in its bottom and top *then*: in an in-place chain that is what
the last layer wrote. Sources: src/caffe/layers/{relu,sigmoid,tanh,elu,exp,log,power,bnll,clip,
absval,softmax,swish,lrn,mvn}_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caffeio.ops.neighbours import channel_sum, power

aten: Any = torch.ops.aten
# layer, bottom data, top data, top diff -> bottom diff
Formula = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def relu(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """(x > 0) + negative_slope * (x <= 0), times what comes from above."""
    slope = layer.param.relu_param.negative_slope
    if slope:
        found: Tensor = aten.leaky_relu_backward(grad, x, slope, False)
        return found
    plain: Tensor = aten.threshold_backward(grad, x, 0)
    return plain


def sigmoid(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """y * (1 - y)."""
    found: Tensor = aten.sigmoid_backward(grad, y)
    return found


def tanh(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """1 - y^2."""
    found: Tensor = aten.tanh_backward(grad, y)
    return found


def elu(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """1 above 0, else alpha + y."""
    return torch.where(x > 0, grad, grad * (y + layer.param.elu_param.alpha))


def exp(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """y times the inner scale."""
    inner = layer.inner
    return y * grad if inner == 1 else y * grad * inner


def bnll(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """e^x / (e^x + 1)."""
    return grad * torch.sigmoid(x)


def clip(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """1 inside of the limits."""
    p = layer.param.clip_param
    found: Tensor = grad * ((x >= p.min) & (x <= p.max))
    return found


def absval(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """The sign of x."""
    return torch.sign(x) * grad


def log(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """The factor of Log; in place it overwrites what comes from above, and is squared."""
    factor = layer.outer * layer.scale / (x * layer.scale + layer.shift)
    found: Tensor = factor * (factor if layer.live_in_place else grad)
    return found


def powers(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """The factor of Power; in place it overwrites what comes from above, and is squared."""
    p = layer.param.power_param
    total = p.power * p.scale
    if total == 0 or p.power == 1:
        factor = torch.full_like(x, total)
    elif p.power == 2:
        factor = x * (total * p.scale)
        factor = factor + total * p.shift if p.shift else factor
    elif p.shift == 0:
        factor = y / x * p.power
    else:
        base = x if p.scale == 1 else x * p.scale
        factor = y / (base + p.shift) * total
    if total == 0:
        return factor
    found: Tensor = factor * (factor if layer.live_in_place else grad)
    return found


def softmax(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """y * (grad - sum of y * grad)."""
    axis = layer.param.softmax_param.axis
    found: Tensor = aten._softmax_backward_data(grad, y, axis, y.dtype)
    return found


def lrn(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """LRN across channels with the top as it is now."""
    size, alpha, beta = layer.size, layer.alpha, layer.beta
    scale = channel_sum(x * x, size).mul_(alpha / size).add_(layer.k)
    around = channel_sum(grad * y / scale, size)
    found: Tensor = torch.addcmul(
        grad * power(scale, -beta), x, around, value=-2 * alpha * beta / size
    )
    return found


def mvn(layer: Any, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """MVN with normalize_variance, with the top as it is now."""
    x4 = x.reshape(y.shape)
    centred = x4 - x4.mean(layer.dims, keepdim=True)
    deviation = centred.square().mean(layer.dims, keepdim=True).sqrt() + layer.eps
    shift = grad.mean(layer.dims, keepdim=True)
    slope = (grad * y).mean(layer.dims, keepdim=True)
    found: Tensor = ((grad - shift - y * slope) / deviation).view(x.shape)
    return found


FORMULAS: dict[str, Formula] = {
    "ReLU": relu, "Sigmoid": sigmoid, "TanH": tanh, "ELU": elu, "Exp": exp, "BNLL": bnll,
    "Clip": clip, "AbsVal": absval, "Log": log, "Power": powers, "Softmax": softmax,
}  # fmt: skip
# Used where the top has changed since the layer made it; else their graph is as good.
OF_TOP: dict[str, Formula] = {"LRN": lrn, "MVN": mvn}


def formula_of(layer: Any) -> Formula | None:
    """The formula of `layer`, if Caffe's Backward reads its blobs."""
    if layer.type_name == "ELU" and getattr(layer.param.elu_param, "lambda") != 1:
        return None
    return FORMULAS.get(layer.type_name)


def formula_of_top(layer: Any) -> Formula | None:
    """The formula of a layer whose Backward reads its top, if it may have changed."""
    if layer.type_name == "LRN" and not layer.across:
        return None
    if layer.type_name == "MVN" and not layer.param.mvn_param.normalize_variance:
        return None
    return OF_TOP.get(layer.type_name)
