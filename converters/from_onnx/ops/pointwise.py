"""Operators that look at one number at a time, and those of two blobs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from caffeio.converters.from_onnx import exact
from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Array, Node
from caffeio.converters.from_onnx.operands import combined, grown, plus_constant, times_constant
from caffeio.converters.from_onnx.patterns.base import scalar
from caffeio.converters.from_onnx.table import operator

LIMIT = 3.4e38


def _simple(op: str, kind: str) -> None:
    @operator(op)
    def convert(w: Writer, node: Node) -> str:
        return w.unary(kind, w.blob(node.inputs[0]))


for _op, _kind in (("Relu", "ReLU"), ("Sigmoid", "Sigmoid"), ("Tanh", "TanH"), ("Abs", "AbsVal"),
                   ("Exp", "Exp"), ("Log", "Log"), ("Softplus", "BNLL")):  # fmt: skip
    _simple(_op, _kind)


def _powers(op: str, scale: float, power: float) -> None:
    @operator(op)
    def convert(w: Writer, node: Node) -> str:
        return w.power(w.blob(node.inputs[0]), scale=scale, power=power)


for _op, _scale, _power in (("Neg", -1.0, 1.0), ("Sqrt", 1.0, 0.5), ("Reciprocal", 1.0, -1.0)):
    _powers(_op, _scale, _power)


@operator("Identity")
def identity(w: Writer, node: Node) -> str:
    """A Power that changes nothing: only outputs that are inputs need one."""
    x = w.blob(node.inputs[0])
    top: str = w.unary("Power", x, power_param={})
    return top


@operator("LeakyRelu")
def leaky_relu(w: Writer, node: Node) -> str:
    """ReLU with a slope."""
    slope = float(node.attrs.get("alpha", 0.01))
    return w.unary("ReLU", w.blob(node.inputs[0]), relu_param={"negative_slope": slope})


@operator("PRelu")
def prelu(w: Writer, node: Node) -> str:
    """PReLU with one slope or one for each channel."""
    slope = w.graph.constant(node.inputs[1])
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    if slope is None:
        raise Refused("its slopes are computed")
    if slope.size == 1:
        blob: Array = slope.reshape(())
        fields = {"channel_shared": True}
    else:
        full = (1,) * (len(shape) - slope.ndim) + slope.shape
        if len(shape) < 2 or full[1] != slope.size or slope.size != shape[1]:
            raise Refused("its slopes are not one for each channel")
        blob, fields = slope.reshape(-1), {}
    top: str = w.layer("PReLU", [x], shape, blobs=[blob], prelu_param=fields)
    w.layers[-1].blobs = [np.asarray(blob, np.float32)]  # a shared slope has no axes
    return top


@operator("Elu")
def elu(w: Writer, node: Node) -> str:
    """ELU."""
    alpha = float(node.attrs.get("alpha", 1.0))
    return w.unary("ELU", w.blob(node.inputs[0]), elu_param={"alpha": alpha} if alpha != 1 else {})


@operator("Selu")
def selu(w: Writer, node: Node) -> str:
    """gamma * ELU."""
    alpha = float(node.attrs.get("alpha", 1.6732631921768188))
    gamma = float(node.attrs.get("gamma", 1.0507010221481323))
    y = w.unary("ELU", w.blob(node.inputs[0]), hint="elu", elu_param={"alpha": alpha})
    return w.power(y, scale=gamma)


@operator("Celu")
def celu(w: Writer, node: Node) -> str:
    """alpha * ELU(x / alpha)."""
    alpha = float(node.attrs.get("alpha", 1.0))
    y = w.power(w.blob(node.inputs[0]), scale=1 / alpha, hint="scaled")
    return w.power(w.unary("ELU", y, hint="elu"), scale=alpha)


@operator("Softsign")
def softsign(w: Writer, node: Node) -> str:
    """x / (1 + |x|)."""
    x = w.blob(node.inputs[0])
    below = w.power(w.unary("AbsVal", x, hint="abs"), shift=1, power=-1, hint="inverse")
    return w.eltwise("PROD", [x, below])


@operator("ThresholdedRelu")
def thresholded_relu(w: Writer, node: Node) -> str:
    """x where x > alpha, else 0."""
    x = w.blob(node.inputs[0])
    alpha = float(node.attrs.get("alpha", 1.0))
    gate = w.unary("Threshold", x, hint="gate", threshold_param={"threshold": alpha})
    return w.eltwise("PROD", [x, gate])


@operator("Clip", "Relu6")
def clip(w: Writer, node: Node) -> str:
    """Bounds: ReLU6, Clip, or two ReLUs."""
    low = w.graph.number(node, "min", 1, -LIMIT)
    high = w.graph.number(node, "max", 2, LIMIT)
    if low is None or high is None:
        raise Refused("its bounds are computed")
    x = w.blob(node.inputs[0])
    own = w.target.has("Clip") or (high == 6 and w.target.has("ReLU6"))
    if low == 0 < high < LIMIT and not own:
        return _capped(w, w.unary("ReLU", x, hint="relu"), high)
    y = exact.clip(w, x, low, high)
    return w.unary("Power", y, power_param={}) if y == x else y


def _capped(w: Writer, x: str, high: float) -> str:
    """x less what is above `high`: bit for bit up to twice that, where 6 - (6 - x) is not."""
    over = w.unary("ReLU", w.power(x, shift=-high, hint="over"), hint="excess")
    return w.eltwise("SUM", [x, over], (1, -1))


@operator("HardSigmoid")
def hard_sigmoid(w: Writer, node: Node) -> str:
    """A line between 0 and 1."""
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    return exact.hard_sigmoid(w, w.blob(node.inputs[0]), alpha, beta)


@operator("HardSwish")
def hard_swish(w: Writer, node: Node) -> str:
    """x * HardSigmoid(x) with 1/6 and 1/2."""
    x = w.blob(node.inputs[0])
    gate = exact.hard_sigmoid(w, x, 1 / 6, 0.5)
    return w.eltwise("PROD", [x, gate])


@operator("Swish")
def swish(w: Writer, node: Node) -> str:
    """x * Sigmoid(alpha * x)."""
    return exact.swish(w, w.blob(node.inputs[0]), float(node.attrs.get("alpha", 1.0)))


@operator("Mish")
def mish(w: Writer, node: Node) -> str:
    """x * tanh(softplus(x)); BNLL is softplus."""
    x = w.blob(node.inputs[0])
    gate = w.unary("TanH", w.unary("BNLL", x, hint="softplus"), hint="tanh")
    return w.eltwise("PROD", [x, gate])


@operator("Gelu")
def gelu(w: Writer, node: Node) -> str:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), or the form with erf."""
    x = w.blob(node.inputs[0])
    if node.attrs.get("approximate", "none") != "tanh":
        return _gelu_erf(w, x)
    root = math.sqrt(2 / math.pi)
    cube = w.power(x, power=3, hint="cube")
    line = w.eltwise("SUM", [x, cube], (root, root * 0.044715), hint="line")
    gate = w.power(w.unary("TanH", line, hint="tanh"), scale=0.5, shift=0.5, hint="gate")
    return w.eltwise("PROD", [x, gate])


# erfc(z) = t (a1 + t (a2 + t (a3 + t (a4 + t a5)))) exp(-z^2) with t = 1 / (1 + p z) for z >= 0,
# off by less than 1.5e-7. Source: Abramowitz and Stegun, 7.1.26.
_ERFC_P = 0.3275911
_ERFC = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _gelu_erf(w: Writer, x: str) -> str:
    """max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)), which is x / 2 * (1 + erf(x / sqrt(2)))."""
    size = w.unary("AbsVal", x, hint="abs")
    t = w.power(size, scale=_ERFC_P / math.sqrt(2), shift=1, power=-1, hint="t")
    poly = w.power(t, scale=_ERFC[4], shift=_ERFC[3], hint="a4")
    for number, a in zip((3, 2, 1), _ERFC[2::-1], strict=True):
        product = w.eltwise("PROD", [poly, t], hint=f"a{number}_t")
        poly = w.power(product, shift=a, hint=f"a{number}")
    square = w.power(x, scale=math.sqrt(0.5), power=2, hint="square")
    bell = w.unary("Exp", w.power(square, scale=-1, hint="minus"), hint="bell")
    tail = w.eltwise("PROD", [size, poly, t, bell], hint="tail")
    return w.eltwise("SUM", [w.unary("ReLU", x, hint="relu"), tail], (1, -0.5))


# --- two blobs, or one and a constant


@operator("Add", "Sub", "Sum")
def add(w: Writer, node: Node) -> str:
    """Eltwise SUM, Bias, or Power with a shift."""
    out = w.graph.shapes[node.outputs[0]]
    coeff = [1.0, -1.0] if node.op == "Sub" else [1.0] * len(node.inputs)
    fixed = [n for n in node.inputs if w.graph.constant(n) is not None]
    if len(node.inputs) == 2 and len(fixed) == 1:
        index = node.inputs.index(fixed[0])
        array = np.asarray(w.graph.constant(fixed[0]), np.float64) * coeff[index]
        x = w.power(w.blob(node.inputs[1 - index]), scale=coeff[1 - index], hint="minus")
        return plus_constant(w, x, array, out)
    xs = [w.blob(name) for name in node.inputs]
    return combined(w, xs, coeff, out, "SUM")


@operator("Mul")
def mul(w: Writer, node: Node) -> str:
    """Eltwise PROD, Scale, or Power with a scale; a blob times itself is its square."""
    out = w.graph.shapes[node.outputs[0]]
    arrays = [w.graph.constant(name) for name in node.inputs]
    for array, other in zip(arrays, node.inputs[::-1], strict=True):
        if array is not None:
            return times_constant(w, w.blob(other), np.asarray(array, np.float64), out)
    xs = [w.blob(name) for name in node.inputs]
    if xs[0] == xs[1]:
        return w.power(xs[0], power=2)
    return combined(w, xs, [1.0, 1.0], out, "PROD")


@operator("Div")
def div(w: Writer, node: Node) -> str:
    """A product with the inverse."""
    out = w.graph.shapes[node.outputs[0]]
    above, below = (w.graph.constant(name) for name in node.inputs)
    if below is not None:
        if below.dtype.kind in "iu":
            raise Refused("it divides whole numbers")
        inverse = 1 / np.asarray(below, np.float64)
        return times_constant(w, w.blob(node.inputs[0]), inverse, out)
    inverse_blob = w.power(w.blob(node.inputs[1]), power=-1, hint="inverse")
    if above is not None:
        return times_constant(w, inverse_blob, np.asarray(above, np.float64), out)
    return combined(w, [w.blob(node.inputs[0]), inverse_blob], [1.0, 1.0], out, "PROD")


@operator("Pow")
def pow_(w: Writer, node: Node) -> str:
    """Power with a constant exponent, Exp with a constant base."""
    base, exponent = (scalar(w.graph, name) for name in node.inputs)
    if base is not None and base > 0 and exponent is None:
        return w.unary("Exp", w.blob(node.inputs[1]), exp_param={"base": base})
    if exponent is None:
        raise Refused("its exponent is computed, or is not one number")
    return w.power(w.blob(node.inputs[0]), power=exponent)


@operator("Max")
def maximum(w: Writer, node: Node) -> str:
    """Eltwise MAX; with a number a bound."""
    return _extreme(w, node, lambda x, number: exact.clip(w, x, number, LIMIT), 1.0)


@operator("Min")
def minimum(w: Writer, node: Node) -> str:
    """-max(-a, -b); with a number a bound."""
    return _extreme(w, node, lambda x, number: exact.clip(w, x, -LIMIT, number), -1.0)


def _extreme(w: Writer, node: Node, bound: Callable[[str, float], str], sign: float) -> str:
    out = w.graph.shapes[node.outputs[0]]
    numbers = [n for n in (scalar(w.graph, name) for name in node.inputs) if n is not None]
    xs = [w.blob(name) for name in node.inputs if scalar(w.graph, name) is None]
    if len(xs) > 1:
        xs = [grown(w, w.power(x, scale=sign, hint="sign"), out) for x in xs]
        x = w.power(w.eltwise("MAX", xs), scale=sign, hint="back")
    else:
        x = grown(w, xs[0], out)
    for number in numbers:
        x = bound(x, number)
    return x


@operator("Mean")
def mean(w: Writer, node: Node) -> str:
    """Eltwise SUM with equal coefficients."""
    out = w.graph.shapes[node.outputs[0]]
    xs = [grown(w, w.blob(name), out) for name in node.inputs]
    return w.eltwise("SUM", xs, [1 / len(xs)] * len(xs)) if len(xs) > 1 else xs[0]
