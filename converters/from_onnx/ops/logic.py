"""Comparisons, and what chooses by them: a boolean is a blob of zeros and ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Array, Dims, Node
from caffeio.converters.from_onnx.operands import combined, plus_constant, times_constant
from caffeio.converters.from_onnx.table import operator

COMPARISONS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "Not", "And", "Or",
               "Xor")  # fmt: skip


def _against(w: Writer, node: Node) -> tuple[str, float, bool]:
    """The blob, the number it is compared with, and whether the blob stands on the left.

    Of two blobs it is their difference, which is 0 only if they are equal (IEEE 754 rounds so).
    """
    for left, (name, other) in ((True, node.inputs), (False, node.inputs[::-1])):
        value = w.graph.constant(other)
        if value is not None and value.size == 1:
            return w.blob(name), float(value.reshape(())), left
    out = w.graph.shapes[node.outputs[0]]
    for left, (name, other) in ((True, node.inputs), (False, node.inputs[::-1])):
        value = w.graph.constant(other)
        if value is not None:
            return plus_constant(w, w.blob(name), -value.astype(np.float64), out), 0.0, left
    return combined(w, [w.blob(name) for name in node.inputs], [1.0, -1.0], out, "SUM"), 0.0, True


def _above(w: Writer, x: str, number: float, hint: str = "") -> str:
    return w.unary("Threshold", x, hint=hint, threshold_param={"threshold": number})


def _below(w: Writer, x: str, number: float, hint: str = "") -> str:
    return _above(w, w.power(x, scale=-1, hint="minus"), -number, hint)


def _opposite(w: Writer, x: str, hint: str = "") -> str:
    return w.power(x, scale=-1, shift=1, hint=hint)


@operator("Greater", "Less")
def threshold(w: Writer, node: Node) -> str:
    """1 where x is above (below) a number: Threshold."""
    x, number, left = _against(w, node)
    return (_above if left == (node.op == "Greater") else _below)(w, x, number)


@operator("GreaterOrEqual", "LessOrEqual")
def threshold_or_equal(w: Writer, node: Node) -> str:
    """1 where x is not below (above) a number."""
    x, number, left = _against(w, node)
    way = _below if left == (node.op == "GreaterOrEqual") else _above
    return _opposite(w, way(w, x, number, hint="not"))


@operator("Equal")
def equal(w: Writer, node: Node) -> str:
    """1 where x is neither above nor below a number."""
    x, number, _ = _against(w, node)
    sides = [_above(w, x, number, hint="above"), _below(w, x, number, hint="below")]
    return _opposite(w, w.eltwise("SUM", sides, hint="other"))


@operator("Not")
def negation(w: Writer, node: Node) -> str:
    """1 - x."""
    return _opposite(w, w.blob(node.inputs[0]))


@operator("And", "Or", "Xor")
def both(w: Writer, node: Node) -> str:
    """The product, the larger one, or the square of the difference of two booleans."""
    xs, out = [w.blob(name) for name in node.inputs], w.graph.shapes[node.outputs[0]]
    if node.op == "Xor":
        difference = combined(w, xs, [1.0, -1.0], out, "SUM")
        return w.power(difference, power=2)
    return combined(w, xs, [1.0, 1.0], out, "PROD" if node.op == "And" else "MAX")


@operator("Sign")
def sign(w: Writer, node: Node) -> str:
    """1 above zero less 1 below it."""
    x = w.blob(node.inputs[0])
    sides = [_above(w, x, 0, hint="above"), _below(w, x, 0, hint="below")]
    return w.eltwise("SUM", sides, (1, -1))


@operator("Where")
def where(w: Writer, node: Node) -> str:
    """mask * a + (1 - mask) * b: exact where both are finite."""
    out = w.graph.shapes[node.outputs[0]]
    chosen = w.graph.constant(node.inputs[0])
    if chosen is not None:
        return _by_constant(w, node, np.asarray(chosen, bool), out)
    maker = w.graph.makers().get(node.inputs[0])
    if maker is None or maker.op not in (*COMPARISONS, "Cast"):
        raise Refused("Caffe chooses nothing by a condition that comes from outside")
    mask = w.blob(node.inputs[0])
    parts = [
        _masked(w, mask, node.inputs[1], out, lambda: mask),
        _masked(w, mask, node.inputs[2], out, lambda: _opposite(w, mask, hint="else")),
    ]
    kept = [part for part in parts if part is not None]
    if len(kept) < 2:
        return kept[0] if kept else w.power(combined(w, [mask], [1.0], out, "SUM"), scale=0)
    return combined(w, kept, [1.0, 1.0], out, "SUM")


def _by_constant(w: Writer, node: Node, chosen: Array, out: Dims) -> str:
    """Values where a constant says so: each times 0 or 1, and constants added."""
    computed, numbers = [], np.zeros(())
    for name, mask in zip(node.inputs[1:], (chosen, ~chosen), strict=True):
        value = w.graph.constant(name)
        if value is not None:
            numbers = numbers + np.where(mask, np.asarray(value, np.float64), 0.0)
        elif mask.any():
            whole = combined(w, [w.blob(name)], [1.0], out, "SUM")
            computed.append(whole if mask.all() else times_constant(w, whole, mask * 1.0, out))
    if not computed:
        return w.constant(np.broadcast_to(numbers, out))
    x = combined(w, computed, [1.0] * len(computed), out, "SUM")
    return plus_constant(w, x, numbers, out) if numbers.any() else x


def _masked(w: Writer, mask: str, name: str, out: Dims, chosen: Callable[[], str]) -> str | None:
    """What the mask leaves of a value; None if that is nothing, for the number 0."""
    value = w.graph.constant(name)
    if value is None:
        return combined(w, [chosen(), w.blob(name)], [1.0, 1.0], out, "PROD")
    if not np.isfinite(value).all():
        raise Refused("it chooses a number that is not finite")
    if not value.any():
        return None
    return times_constant(w, chosen(), np.asarray(value, np.float64), out)
