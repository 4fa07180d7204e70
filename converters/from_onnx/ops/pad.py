"""Pad: zeros by a convolution with 1, other numbers behind them, edges and mirrors by pieces."""

from __future__ import annotations

import math

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import crop, mix_channels, take
from caffeio.converters.from_onnx.exact import window as depthwise
from caffeio.converters.from_onnx.graph import Node
from caffeio.converters.from_onnx.operands import plus_constant
from caffeio.converters.from_onnx.ops.conv import equal_pads
from caffeio.converters.from_onnx.table import operator


@operator("Pad")
def pad(w: Writer, node: Node) -> str:
    """Zeros by a convolution with 1, other numbers in the same way, edges and mirrors by pieces."""
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    pads = w.graph.ints(node, "pads", 1)
    if pads is None:
        raise Refused("its pads are computed")
    axes = w.graph.ints(node, "axes", 3) or list(range(len(shape)))
    ends = {a % len(shape): (pads[i], pads[len(axes) + i]) for i, a in enumerate(axes)}
    ends = {a: pair for a, pair in ends.items() if pair != (0, 0)}
    mode = node.attrs.get("mode", "constant")
    for axis, (low, high) in list(ends.items()):
        begin, end = max(-low, 0), shape[axis] - max(-high, 0)
        if (begin, end) != (0, shape[axis]):
            x = crop(w, x, axis, begin, end)
        ends[axis] = (max(low, 0), max(high, 0))
    ends = {a: pair for a, pair in ends.items() if pair != (0, 0)}
    if mode != "constant":
        for axis, (low, high) in ends.items():
            x = mirror(w, x, axis, low, high, mode)
        return x
    value = w.graph.number(node, "value", 2, 0.0)
    if value is None or not math.isfinite(value):
        raise Refused("it pads with a number that is computed or not finite")
    return _constant_pad(w, x, ends, value)


def mirror(w: Writer, x: str, axis: int, low: int, high: int, mode: str) -> str:
    """Repeat the edge, mirror at it, or go round, by Slice and Concat."""
    size = w.shape(x)[axis]
    if size == 1:
        mode = "edge"
    if mode not in ("edge", "reflect", "wrap"):
        raise Refused(f"pad mode {mode!r}")
    indices = np.pad(np.arange(size), (low, high), mode=mode)  # type: ignore[call-overload]
    return take(w, x, axis, [int(i) for i in indices], hint="pad")


def _constant_pad(w: Writer, x: str, ends: dict[int, tuple[int, int]], value: float) -> str:
    if not ends:
        return x
    rank = len(w.shape(x))
    if rank != 4 or not set(ends) <= {1, 2, 3}:
        if rank == 3 and set(ends) <= {1, 2}:
            shape = w.shape(x)
            x = w.reshape(x, (*shape, 1), hint="as_2d")
            y = _constant_pad(w, x, ends, value)
            return w.reshape(y, w.shape(y)[:3], hint="as_1d")
        raise Refused(f"it pads axes {sorted(ends)} of a blob of {rank} axes with a constant")
    if value:
        try:
            return _with_border(w, _zero_pad(w, x, ends), ends, value)
        except Refused:  # the target has no Bias over maps: the numbers are shifted and back
            pass
    x = _zero_pad(w, w.power(x, shift=-value, hint="from"), ends)
    return w.power(x, shift=value, hint="to")


def _zero_pad(w: Writer, x: str, ends: dict[int, tuple[int, int]]) -> str:
    if 1 in ends:
        x = _more_channels(w, x, *ends[1])
    if set(ends) & {2, 3}:
        x = _border(w, x, ends.get(2, (0, 0)), ends.get(3, (0, 0)))
    return x


def _with_border(w: Writer, x: str, ends: dict[int, tuple[int, int]], value: float) -> str:
    """A padded blob plus `value` at its border, and 0 elsewhere."""
    shape = w.shape(x)
    inside = np.zeros([n if axis in ends else 1 for axis, n in enumerate(shape)], bool)
    inside[
        tuple(slice(ends[a][0], n - ends[a][1]) if a in ends else 0 for a, n in enumerate(shape))
    ] = True
    return plus_constant(w, x, np.where(inside, 0.0, value), shape)


def _more_channels(w: Writer, x: str, low: int, high: int) -> str:
    channels = w.shape(x)[1]
    matrix = np.zeros((low + channels + high, channels), np.float32)
    matrix[low : low + channels] = np.eye(channels)
    return mix_channels(w, x, matrix, hint="channels")


def _border(w: Writer, x: str, rows: tuple[int, int], columns: tuple[int, int]) -> str:
    """Zeros around a map: a convolution of every channel with 1."""
    _, _, height, width = w.shape(x)
    ph, fh, bh = equal_pads(height, 1, 1, 1, *rows)
    pw, fw, bw = equal_pads(width, 1, 1, 1, *columns)
    kernel = np.zeros((fh + 1 + bh, fw + 1 + bw))
    kernel[fh, fw] = 1
    return depthwise(w, x, kernel, hint="border", pad_h=ph, pad_w=pw)
