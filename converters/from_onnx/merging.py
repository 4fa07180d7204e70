"""Neighbours that are one layer, and layers that undo each other.

A step looks for one such place, mends it, and says whether it found one; `finish` calls all of them
until none does. What a step makes computes the same numbers, but for the last bit of a factor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.absorbing import (
    flat_products,
    products_of_rows,
    windows_with_axis,
)
from caffeio.converters.from_onnx.caffe_net import CaffeLayer, Writer
from caffeio.converters.from_onnx.graph import Array, Dims
from caffeio.converters.from_onnx.wiring import (
    SHAPES,
    bypass,
    makers,
    may_go,
    only_maker,
    readers,
    remove,
    rename,
)


def _reshapes(w: Writer, keep: set[str]) -> bool:
    """A Reshape of a Reshape is one, or none."""
    for index, layer in enumerate(w.layers):
        if layer.type_name not in SHAPES:
            continue
        before = only_maker(w, layer, keep, SHAPES)
        if before is None:
            continue
        source, top = before.bottoms[0], layer.tops[0]
        same = w.shape(source) == w.shape(top) and w.batch.get(source) == w.batch.get(top)
        if same and top not in keep:
            w.layers.remove(before)
            w.layers.remove(layer)
            bypass(w, top, source)
            return True
        if same:
            if not may_go(w, source, keep):
                continue
            w.layers.remove(before)
            w.layers.remove(layer)
            rename(w, source, top)
            return True
        w.layers.remove(before)
        _rewrite(w, index - 1, layer, source)
        return True
    return False


def _rewrite(w: Writer, index: int, layer: CaffeLayer, source: str) -> None:
    """Let a Reshape begin at `source`."""
    top = layer.tops[0]
    w.stem = layer.param.name
    w.reshape(source, w.shape(top), batch=w.batch.get(top))
    made = w.layers.pop()
    made.param.name = layer.param.name
    del made.param.top[:]
    made.param.top.append(top)
    w.layers[index] = made


def _powers(w: Writer, keep: set[str]) -> bool:
    """Lines of lines are lines; what changes nothing goes."""
    for layer in w.layers:
        if layer.type_name != "Power":
            continue
        p = layer.param.power_param
        if (p.power, p.scale, p.shift) == (1, 1, 0) and remove(w, layer, keep):
            return True
        before = only_maker(w, layer, keep, ("Power",))
        if before is None or before.param.power_param.power != 1 or p.scale == 0:
            continue
        q = before.param.power_param
        scale, shift = p.scale * q.scale, p.scale * q.shift + p.shift
        fields = {"power": p.power, "scale": scale, "shift": shift}
        p.Clear()
        for name, value in fields.items():
            if value != (0.0 if name == "shift" else 1.0):
                setattr(p, name, value)
        layer.param.bottom[0] = before.bottoms[0]
        w.layers.remove(before)
        return True
    return False


def _scale_bias(w: Writer, keep: set[str]) -> bool:
    """A Bias behind a Scale over the same axes is the Scale's own; one number is such a Bias."""
    for layer in w.layers:
        if layer.type_name not in ("Bias", "Power", "Scale") or len(layer.bottoms) != 1:
            continue
        before = only_maker(w, layer, keep, ("Scale",))
        if before is None or before.param.scale_param.bias_term:
            continue
        computed = len(before.bottoms) == 2
        if computed and w.target.rule("operand"):
            continue  # it reads no bias beside a second bottom
        bias = _bias_of(layer, before, w.shape(before.bottoms[-1]) if computed else None)
        if bias is None:
            continue
        before.blobs.append(bias)
        before.param.scale_param.bias_term = True
        del before.param.top[:]
        before.param.top.append(layer.tops[0])
        w.layers.remove(layer)
        return True
    return False


def _bias_of(layer: CaffeLayer, scale: CaffeLayer, operand: Dims | None) -> Array | None:
    """What a Bias or Power adds, in the shape of a Scale's factors; None if it is not so.

    `operand` is the shape of factors that are computed.
    """
    if layer.type_name == "Power":
        p = layer.param.power_param
        if operand is None or (p.power, p.scale) != (1, 1):
            return None
        return np.full(operand, p.shift, np.float32)
    s, bias = scale.param.scale_param, layer.blobs[-1]
    b: Any = layer.param.bias_param
    if layer.type_name == "Scale":  # by ones, for a target without Bias
        if len(layer.blobs) != 2 or not np.all(layer.blobs[0] == 1):
            return None
        b = layer.param.scale_param
    if operand is None:
        return bias if (s.axis, s.num_axes) == (b.axis, b.num_axes) else None
    return bias if s.axis == b.axis and bias.shape == operand else None


def _scales(w: Writer, keep: set[str]) -> bool:
    """Factors one behind the other are one; factors of 1 go."""
    for layer in w.layers:
        if layer.type_name not in ("Scale", "Power") or not _only_factor(layer):
            continue
        ones = layer.type_name == "Scale" and np.allclose(layer.blobs[0], 1, rtol=2e-7, atol=0)
        if ones and remove(w, layer, keep):
            return True
        before = only_maker(w, layer, keep, ("Scale", "Power"))
        if (
            before is None
            or not _only_factor(before)
            or (before.type_name, layer.type_name) == ("Power",) * 2
        ):
            continue
        a, b = layer.param.scale_param, before.param.scale_param
        if before.type_name == layer.type_name and (a.axis, a.num_axes) != (b.axis, b.num_axes):
            continue
        kept, gone = (before, layer) if layer.type_name == "Power" else (layer, before)
        other: Array | float = (
            gone.blobs[0] if gone.type_name == "Scale" else gone.param.power_param.scale
        )
        product = np.asarray(kept.blobs[0], np.float64) * other
        kept.blobs[0] = product.astype(np.float32)
        if kept is before:
            kept.param.top[0] = layer.tops[0]
        else:
            kept.param.bottom[0] = before.bottoms[0]
        w.layers.remove(gone)
        return True
    return False


def _only_factor(layer: CaffeLayer) -> bool:
    if layer.type_name == "Power":
        p = layer.param.power_param
        return bool(p.power == 1 and p.shift == 0 and p.scale != 0)
    return len(layer.bottoms) == 1 and len(layer.blobs) == 1


def _logarithms(w: Writer, keep: set[str]) -> bool:
    """A line in front of an Exp or Log, and a factor behind, are fields of it."""
    kinds = ("Exp",) if w.target.rule("plain_log") else ("Exp", "Log")
    for layer in w.layers:
        if layer.type_name in kinds:
            p = layer.param.exp_param if layer.type_name == "Exp" else layer.param.log_param
            before = only_maker(w, layer, keep, ("Power",))
            if before is not None and before.param.power_param.power == 1 and not p.ListFields():
                q = before.param.power_param
                p.scale, p.shift = q.scale, q.shift
                layer.param.bottom[0] = before.bottoms[0]
                w.layers.remove(before)
                return True
        elif (
            layer.type_name == "Power" and layer.param.power_param.scale > 0 and _only_factor(layer)
        ):
            inner = only_maker(w, layer, keep, kinds)
            factor = layer.param.power_param.scale
            if inner is None:
                continue
            if inner.type_name == "Exp" and inner.param.exp_param.base == -1:
                inner.param.exp_param.shift += math.log(factor)
            elif _has_base(inner, factor):
                inner.param.log_param.base = math.exp(1 / factor)
            else:
                continue
            inner.param.top[0] = layer.tops[0]
            w.layers.remove(layer)
            return True
    return False


def _has_base(log: CaffeLayer, factor: float) -> bool:
    """Whether a Log by a base in float32 is as exact as a natural one times a factor.

    The base is e ** (1 / factor): it must not overflow, and near 1 it has too few digits.
    """
    natural = log.type_name == "Log" and log.param.log_param.base == -1
    return natural and factor != 1 and 1 / 64 <= factor <= 8


def _reductions(w: Writer, keep: set[str]) -> bool:
    """A factor behind a Reduction is its coefficient."""
    for layer in w.layers:
        if layer.type_name != "Power" or not _only_factor(layer):
            continue
        before = only_maker(w, layer, keep, ("Reduction",))
        if before is not None:
            before.param.reduction_param.coeff *= layer.param.power_param.scale
            before.param.top[0] = layer.tops[0]
            w.layers.remove(layer)
            return True
    return False


def _sums(w: Writer, keep: set[str]) -> bool:
    """Eltwise of Eltwise is one with more bottoms, in the same order of adding."""
    for layer in w.layers:
        if layer.type_name != "Eltwise":
            continue
        p = layer.param.eltwise_param
        before = only_maker(w, layer, keep, ("Eltwise",))
        if before is None or layer.bottoms.count(layer.bottoms[0]) > 1:
            continue
        q = before.param.eltwise_param
        mine = list(p.coeff) or [1.0] * len(layer.bottoms)
        theirs = list(q.coeff) or [1.0] * len(before.bottoms)
        if p.operation != q.operation or mine[0] != 1:
            continue
        bottoms = [*before.bottoms, *layer.bottoms[1:]]
        del layer.param.bottom[:], p.coeff[:]
        layer.param.bottom.extend(bottoms)
        coeff = [*theirs, *mine[1:]]
        if any(c != 1 for c in coeff):
            p.coeff.extend(coeff)
        w.layers.remove(before)
        return True
    return _coefficients(w, keep)


def _coefficients(w: Writer, keep: set[str]) -> bool:
    """A Power that only multiplies is a coefficient of the sum behind it."""
    made_by, reads = makers(w), readers(w)
    for layer in w.layers:
        p = layer.param.eltwise_param
        if layer.type_name != "Eltwise" or p.operation != p.SUM:
            continue
        for i, name in enumerate(layer.bottoms):
            maker = made_by.get(name)
            if maker is None or maker.type_name != "Power" or name in keep or len(reads[name]) != 1:
                continue
            q = maker.param.power_param
            if q.power != 1 or q.shift != 0:
                continue
            coeff = list(p.coeff) or [1.0] * len(layer.bottoms)
            coeff[i] *= q.scale
            del p.coeff[:]
            p.coeff.extend(coeff)
            layer.param.bottom[i] = maker.bottoms[0]
            w.layers.remove(maker)
            return True
    return False


STEPS = (
    _reshapes, flat_products, _powers, _scales, _scale_bias, _sums, _logarithms, _reductions,
    products_of_rows, windows_with_axis,
)  # fmt: skip
