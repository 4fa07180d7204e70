"""Pooling. Caffe rounds the number of windows up and cuts those that begin in the padding off.

Where ONNX has fewer windows, the target's own field says so, or a Slice cuts the last ones off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import crop
from caffeio.converters.from_onnx.exact import window as depthwise
from caffeio.converters.from_onnx.graph import Array, Dims, Node
from caffeio.converters.from_onnx.ops.conv import equal_pads, window_of
from caffeio.converters.from_onnx.ops.dilated import PADDING, Windows, dilated_max
from caffeio.converters.from_onnx.ops.pad import mirror
from caffeio.converters.from_onnx.table import operator
from caffeio.converters.onnx.runtime import evaluate


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(w: Writer, node: Node) -> str:
    """Pooling over the whole map."""
    x = w.blob(node.inputs[0])
    method = "AVE" if node.op == "GlobalAveragePool" else "MAX"
    return over_map(w, x, method, w.graph.shapes[node.outputs[0]])


def over_map(w: Writer, x: str, method: str, out: Dims) -> str:
    """The mean or the largest of all axes from the third on, as the shape `out`."""
    shape = w.shape(x)
    if len(shape) != 4:
        x = w.reshape(x, (*shape[:2], math.prod(shape[2:]), 1), hint="as_2d")
    fields = {"pool": method, "global_pooling": True}
    y: str = w.layer("Pooling", [x], (*shape[:2], 1, 1), pooling_param=fields)
    return w.reshape(y, out)


@operator("MaxPool")
def max_pool(w: Writer, node: Node) -> str:
    """A Pooling, cut to ONNX's number of windows."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise Refused("its indices are used", "a vendor's Upsample layer with a mask")
    return _over_maps(w, node, _max_of_map)


@operator("AveragePool")
def average_pool(w: Writer, node: Node) -> str:
    """A Pooling; other divisors than Caffe's by a Scale with one number for each place."""
    return _over_maps(w, node, _average_of_map)


def _over_maps(w: Writer, node: Node, pool: Callable[..., str]) -> str:
    """The pooling of one or two axes, or of three as first two and then one."""
    if len(w.graph.shape(node.inputs[0])) != 5 or _of_channels(w, node):
        x, sizes, window, out = _prepared(w, node)
        return _back(w, pool(w, x, node, sizes, window, out), node)
    x, out = w.blob(node.inputs[0]), w.graph.shapes[node.outputs[0]]
    n, channels, depth, *spatial = w.shape(x)
    sizes = [int(size) for size in node.attrs["kernel_shape"]]
    window = window_of(node, (depth, *spatial), sizes)
    x = w.reshape(x, (n, channels * depth, *spatial), hint="maps")
    maps = {key: values[1:] for key, values in window.items()}
    x = pool(w, x, node, sizes[1:], maps, (n, channels * depth, *out[3:]))
    x = w.reshape(x, (n, channels, depth, out[3] * out[4]), hint="depth")
    line = {k: [v[0], 0 if k in ("begin", "end") else 1] for k, v in window.items()}
    x = pool(w, x, node, [sizes[0], 1], line, (n, channels, out[2], out[3] * out[4]))
    return _back(w, x, node)


def _max_of_map(w: Writer, x: str, node: Node, sizes: list[int], window: Windows, out: Dims) -> str:
    if any(d != 1 and k != 1 for d, k in zip(window["dilation"], sizes, strict=True)):
        return dilated_max(w, x, sizes, window, out)
    begin = list(window["begin"])
    for i in range(2):
        kernel, stride, size = sizes[i], window["stride"][i], w.shape(x)[2 + i]
        last = (out[2 + i] - 1) * stride - begin[i]
        if begin[i] >= kernel or last >= size:
            raise Refused(PADDING)
        if _windows(size, kernel, stride, begin[i]) < out[2 + i]:
            # a window that reaches over the edge holds the edge, so repeating it changes nothing
            x = mirror(w, x, 2 + i, begin[i], max(last + kernel - size, 0), "edge")
            begin[i] = 0
    return _pooling(w, x, "MAX", sizes, window["stride"], begin, out)


def _average_of_map(
    w: Writer, x: str, node: Node, sizes: list[int], window: Windows, out: Dims
) -> str:
    theirs = _divisors(w, node, sizes, window, w.shape(x), out)
    begin, shape = window["begin"], w.shape(x)
    plain = all(d == 1 for d in window["dilation"]) and all(
        b < k and _windows(shape[2 + i], k, s, b) >= out[2 + i]
        for i, (b, k, s) in enumerate(zip(begin, sizes, window["stride"], strict=True))
    )
    stride = window["stride"]
    y = w.tried(lambda: _pooling(w, x, "AVE", sizes, stride, begin, out)) if plain else None
    if y is None:
        return _by_convolution(w, x, sizes, window, out, theirs)
    ours = np.outer(
        *(
            _counts(shape[2 + i], sizes[i], window["stride"][i], begin[i], out[2 + i])
            for i in range(2)
        )
    )
    return _rescaled(w, y, ours / theirs)


def _prepared(w: Writer, node: Node) -> tuple[str, list[int], Windows, Dims]:
    """The bottom as a map, kernel, window, and the shape of the result as a map."""
    x = w.blob(node.inputs[0])
    shape, out = w.shape(x), w.graph.shapes[node.outputs[0]]
    sizes = [int(n) for n in node.attrs["kernel_shape"]]
    window = window_of(node, shape[2:], sizes)
    if len(shape) == 3:
        x = w.reshape(x, (*shape, 1), hint="as_2d")
        sizes, out = [*sizes, 1], (*out, 1)
        window = {k: [*v, 0 if k in ("begin", "end") else 1] for k, v in window.items()}
    elif _of_channels(w, node):
        x = w.reshape(x, (*shape[:3], shape[3] * shape[4]), hint="rows")
        sizes, out = [sizes[0], 1], (*out[:3], out[3] * out[4])
        window = {k: v[:2] for k, v in window.items()}
    elif len(shape) != 4:
        raise Refused(f"pooling over {len(shape) - 2} axes")
    return x, sizes, window, out


def _of_channels(w: Writer, node: Node) -> bool:
    """Whether the first of three axes alone has windows, as exporters write LRN."""
    shape, sizes = w.graph.shape(node.inputs[0]), list(node.attrs["kernel_shape"])
    if len(shape) != 5 or sizes[1:] != [1, 1]:
        return False
    window = window_of(node, shape[2:], sizes)
    ones = all(window[k][1:] == [1, 1] for k in ("stride", "dilation"))
    return ones and all(window[k][1:] == [0, 0] for k in ("begin", "end"))


def _back(w: Writer, y: str, node: Node) -> str:
    return w.reshape(y, w.graph.shapes[node.outputs[0]], hint="as_1d")


def _pooling(
    w: Writer, x: str, method: str, kernel: list[int], stride: list[int], pad: list[int], out: Dims
) -> str:
    """A Pooling whose result is `out`."""
    fields: dict[str, Any] = {"pool": method}
    for name, values, default in (("kernel", kernel, 0), ("stride", stride, 1), ("pad", pad, 0)):
        if values[0] != values[1]:
            fields[f"{name}_h"], fields[f"{name}_w"] = values
        elif values[0] != default:
            fields["kernel_size" if name == "kernel" else name] = values[:1]
    shape = w.shape(x)
    sizes = [
        _windows(n, k, s, p) for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True)
    ]
    if any(have < want for have, want in zip(sizes, out[2:], strict=True)):
        raise Refused("it has more windows than Caffe makes")
    if tuple(sizes) != out[2:]:
        floors = [
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True)
        ]
        if tuple(floors) == out[2:]:
            if w.target.has_field("PoolingParameter.ceil_mode"):
                fields["ceil_mode"] = False
            else:
                fields["round_mode"] = "FLOOR"  # where the target lacks it, Slices cut
            sizes = floors
    y: str = w.layer("Pooling", [x], (*shape[:2], *sizes), pooling_param=fields)
    for i in range(2):
        if sizes[i] > out[2 + i]:
            y = crop(w, y, 2 + i, 0, out[2 + i])
    return y


def _windows(size: int, kernel: int, stride: int, pad: int) -> int:
    """Caffe's number of windows. Source: src/caffe/layers/pooling_layer.cpp, Reshape."""
    count = math.ceil((size + 2 * pad - kernel) / stride) + 1
    if pad and (count - 1) * stride >= size + pad:
        count -= 1
    return count


def _counts(size: int, kernel: int, stride: int, pad: int, count: int) -> Array:
    """Caffe's divisors along one axis: what a window covers of the padded map."""
    starts = np.arange(count) * stride - pad
    ends: Array = np.minimum(starts + kernel, size + pad)
    return np.asarray(ends - starts)


def _divisors(
    w: Writer, node: Node, sizes: list[int], window: Windows, shape: Dims, out: Dims
) -> Array:
    """ONNX's divisors (H, W): what the runtime itself makes of ones tells them."""
    ones = np.ones((1, 1, *shape[2:]), np.float32)
    attrs = {k: v for k, v in node.attrs.items() if k not in ("auto_pad", "pads")}
    attrs["kernel_shape"], attrs["strides"] = sizes, window["stride"]
    attrs.pop("dilations", None)
    if any(d != 1 for d in window["dilation"]):
        attrs["dilations"] = window["dilation"]
    attrs["pads"] = [*window["begin"], *window["end"]]
    found = evaluate("AveragePool", [ones], max(w.graph.opset, 10), **attrs)[0, 0]
    covered = [
        [
            sum(
                0 <= i * window["stride"][a] - window["begin"][a] + j * window["dilation"][a] < n
                for j in range(sizes[a])
            )
            for i in range(out[2 + a])
        ]
        for a, n in enumerate(shape[2:])
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.outer(*map(np.asarray, covered)) / found.astype(np.float64)
    if not (np.isfinite(result) & (result > 0)).all():  # a window of padding alone
        raise Refused(PADDING)
    return np.asarray(np.rint(result))


def _rescaled(w: Writer, y: str, factor: Array) -> str:
    if np.all(factor == 1):
        return y
    if np.all(factor == factor.flat[0]):
        return w.power(y, scale=float(factor.flat[0]), hint="divisor")
    return w.scale(y, [factor], {"axis": 2, "num_axes": 2}, hint="divisor")


def _by_convolution(
    w: Writer, x: str, sizes: list[int], window: Windows, out: Dims, divisor: Array
) -> str:
    """Averages as a convolution of every channel with ones, divided place by place."""
    spans, fields = [], {}
    for i, name in enumerate(("h", "w")):
        gap, kernel = window["dilation"][i], sizes[i]
        comb = np.zeros(gap * (kernel - 1) + 1)
        comb[::gap] = 1
        size = w.shape(x)[2 + i]
        reach = (out[2 + i] - 1) * window["stride"][i] + len(comb)
        end = max(reach - size - window["begin"][i], 0)
        pad, front, back = equal_pads(
            size, len(comb), window["stride"][i], 1, window["begin"][i], end
        )
        spans.append(np.pad(comb, (front, back)))
        fields[f"pad_{name}"], fields[f"stride_{name}"] = pad, window["stride"][i]
    kernel2 = np.outer(*spans)
    whole = float(np.bincount(divisor.astype(int).reshape(-1)).argmax())
    y = depthwise(w, x, kernel2 / whole, hint="average", **fields)
    for i in range(2):
        if w.shape(y)[2 + i] > out[2 + i]:
            y = crop(w, y, 2 + i, 0, out[2 + i])
    return _rescaled(w, y, whole / divisor)


@operator("LrnWithin")
def lrn_within(w: Writer, node: Node) -> str:
    """LRN of every channel by itself."""
    a = node.attrs
    fields = {
        "norm_region": "WITHIN_CHANNEL",
        "local_size": int(a["size"]),
        "alpha": float(a["alpha"]),
        "beta": float(a["beta"]),
    }
    return w.unary("LRN", w.blob(node.inputs[0]), lrn_param=fields)


@operator("LRN")
def lrn(w: Writer, node: Node) -> str:
    """LRN across channels: the same formula."""
    a = node.attrs
    if int(a["size"]) % 2 == 0:
        raise Refused("LRN over an even number of channels")
    fields = {
        "local_size": int(a["size"]),
        "alpha": float(a.get("alpha", 1e-4)),
        "beta": float(a.get("beta", 0.75)),
        "k": float(a.get("bias", 1.0)),
    }
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    if len(shape) != 4:  # Caffe's LRN takes maps only
        x = w.reshape(x, (*shape[:2], math.prod(shape[2:]), 1), hint="as_2d")
    return w.reshape(w.unary("LRN", x, lrn_param=fields), shape, hint="back")
