"""Pooling. Caffe rounds the number of windows up and cuts those that begin in the padding off.

Where ONNX has fewer windows, the target's own field says so, or a Slice cuts the last ones off.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import crop
from caffeio.converters.from_onnx.exact import window as depthwise
from caffeio.converters.from_onnx.graph import Array, Dims, Node
from caffeio.converters.from_onnx.ops.conv import equal_pads, mirror, window_of
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
    x, sizes, window, out = _prepared(w, node)
    if any(d != 1 for d in window["dilation"]):
        raise Refused("its windows are dilated")
    begin = list(window["begin"])
    for i in range(2):
        kernel, stride, size = sizes[i], window["stride"][i], w.shape(x)[2 + i]
        last = (out[2 + i] - 1) * stride - begin[i]
        if begin[i] >= kernel or last >= size:
            raise Refused("some of its windows lie in the padding alone")
        if _windows(size, kernel, stride, begin[i]) < out[2 + i]:
            # a window that reaches over the edge holds the edge, so repeating it changes nothing
            x = mirror(w, x, 2 + i, begin[i], max(last + kernel - size, 0), "edge")
            begin[i] = 0
    return _back(w, _pooling(w, x, "MAX", sizes, window["stride"], begin, out), node)


@operator("AveragePool")
def average_pool(w: Writer, node: Node) -> str:
    """A Pooling; other divisors than Caffe's by a Scale with one number for each place."""
    x, sizes, window, out = _prepared(w, node)
    theirs = _divisors(w, node, sizes, window, w.shape(x), out)
    begin = window["begin"]
    shape = w.shape(x)
    plain = all(d == 1 for d in window["dilation"]) and all(
        b < k and _windows(shape[2 + i], k, s, b) >= out[2 + i]
        for i, (b, k, s) in enumerate(zip(begin, sizes, window["stride"], strict=True))
    )
    if plain:
        y = _pooling(w, x, "AVE", sizes, window["stride"], begin, out)
        ours = np.outer(
            *(
                _counts(shape[2 + i], sizes[i], window["stride"][i], begin[i], out[2 + i])
                for i in range(2)
            )
        )
        return _back(w, _rescaled(w, y, ours / theirs), node)
    return _back(w, _by_convolution(w, x, sizes, window, out, theirs), node)


def _prepared(w: Writer, node: Node) -> tuple[str, list[int], dict[str, list[int]], Dims]:
    """The bottom as a map, kernel, window, and the shape of the result as a map."""
    x = w.blob(node.inputs[0])
    shape, out = w.shape(x), w.graph.shapes[node.outputs[0]]
    sizes = [int(n) for n in node.attrs["kernel_shape"]]
    window = window_of(node, shape[2:], sizes)
    if len(shape) == 3:
        x = w.reshape(x, (*shape, 1), hint="as_2d")
        sizes, out = [*sizes, 1], (*out, 1)
        window = {k: [*v, 0 if k in ("begin", "end") else 1] for k, v in window.items()}
    elif len(shape) == 5 and sizes[1:] == [1, 1] and _trivial(window):  # over channels, as LRN
        x = w.reshape(x, (*shape[:3], shape[3] * shape[4]), hint="rows")
        sizes, out = [sizes[0], 1], (*out[:3], out[3] * out[4])
        window = {k: v[:2] for k, v in window.items()}
    elif len(shape) != 4:
        raise Refused(f"pooling over {len(shape) - 2} axes")
    return x, sizes, window, out


def _trivial(window: dict[str, list[int]]) -> bool:
    """Whether the second and third of three axes have neither strides nor pads."""
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
    w: Writer, node: Node, sizes: list[int], window: dict[str, list[int]], shape: Dims, out: Dims
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
    if not np.isfinite(result).all():
        raise Refused("some of its windows lie in the padding alone")
    return np.asarray(np.rint(result))


def _rescaled(w: Writer, y: str, factor: Array) -> str:
    if np.all(factor == 1):
        return y
    if np.all(factor == factor.flat[0]):
        return w.power(y, scale=float(factor.flat[0]), hint="divisor")
    fields = {"axis": 2, "num_axes": 2}
    top: str = w.layer("Scale", [y], w.shape(y), blobs=[factor], hint="divisor", scale_param=fields)
    return top


def _by_convolution(
    w: Writer, x: str, sizes: list[int], window: dict[str, list[int]], out: Dims, divisor: Array
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
    return w.unary("LRN", w.blob(node.inputs[0]), lrn_param=fields)
