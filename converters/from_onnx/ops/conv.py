"""Conv and ConvTranspose: unequal pads become zeros in the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import crop
from caffeio.converters.from_onnx.graph import Array, Dims, Node
from caffeio.converters.from_onnx.table import operator

_COMPUTED = "its weights are computed by the model; Caffe's are constants"


def weights_of(w: Writer, node: Node) -> tuple[Array, Array | None]:
    """Constant weights and bias of a node. Raises Refused if they are computed."""
    weight = w.graph.constant(node.inputs[1])
    bias = w.graph.constant(node.input(2)) if node.input(2) else None
    if weight is None or (node.input(2) and bias is None):
        raise Refused(_COMPUTED)
    return weight, bias


def window_of(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> dict[str, list[int]]:
    """Strides, dilations and pads (begins, then ends) of a node, `auto_pad` resolved."""
    axes = len(spatial)
    stride = [int(n) for n in node.attrs.get("strides", [1] * axes)]
    dilation = [int(n) for n in node.attrs.get("dilations", [1] * axes)]
    pads = [int(n) for n in node.attrs.get("pads", [0] * 2 * axes)]
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * axes
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(axes):
            out = -(-spatial[i] // stride[i])
            extent = dilation[i] * (kernel[i] - 1) + 1
            total = max((out - 1) * stride[i] + extent - spatial[i], 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[axes + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    return {"stride": stride, "dilation": dilation, "begin": pads[:axes], "end": pads[axes:]}


def equal_pads(
    size: int, kernel: int, stride: int, dilation: int, begin: int, end: int
) -> tuple[int, int, int]:
    """One pad for both ends, and the zeros in front of and behind the kernel that make up for it.

    Raises Refused if no few zeros do.
    """
    out_size = (size + begin + end - dilation * (kernel - 1) - 1) // stride
    for total in range(abs(end - begin) + stride + 1):
        for front in range(total + 1):
            back = total - front
            pad = begin + dilation * front
            count = size + 2 * pad - dilation * (kernel + total - 1) - 1
            if pad >= 0 and count >= 0 and count // stride == out_size:
                return pad, front, back
    raise Refused(f"pads {begin} and {end} have no equal form")


@operator("Conv")
def conv(w: Writer, node: Node) -> str:
    """A Convolution; 1-D ones as H x 1, until `absorbing.py` finds that nothing else wants maps."""
    weight, bias = weights_of(w, node)
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    return convolve(w, x, weight, bias, window_of(node, shape[2:], weight.shape[2:]), node)


def convolve(
    w: Writer, x: str, weight: Array, bias: Array | None, window: dict[str, list[int]], node: Node
) -> str:
    """A Convolution of `x` with constant weights."""
    shape = w.shape(x)
    flat = len(shape) == 3
    if flat:
        x = w.reshape(x, (*shape, 1), hint="as_2d")
        weight = weight[..., None]
        window = _with_thin_axis(window)
    _refuse_more_axes(shape)
    group = shape[1] // weight.shape[1]
    spatial = w.shape(x)[2:]
    if weight.shape[1] == 1 and w.target.rule("thin_depthwise"):
        weight, window = _without_idle_taps(weight, window, spatial)
    pads, kernels, sizes = [], [], []
    for i, size in enumerate(spatial):
        one = [window[k][i] for k in ("stride", "dilation", "begin", "end")]
        pad, front, back = equal_pads(size, weight.shape[2 + i], *one)
        pads.append(pad)
        kernels.append((front, back))
        reach = one[1] * (weight.shape[2 + i] - 1) + 1
        sizes.append((size + one[2] + one[3] - reach) // one[0] + 1)
    weight = _with_zeros(weight, kernels)
    fields = _fields(weight.shape[0], weight.shape[2:], window, pads, group, bias)
    out = (shape[0], weight.shape[0], *sizes)
    blobs = [weight] if bias is None else [weight, bias]
    top: str = w.layer("Convolution", [x], out, blobs=blobs, convolution_param=fields)
    return w.reshape(top, out[:3], hint="as_1d") if flat else top


def _refuse_more_axes(shape: Dims) -> None:
    if len(shape) > 5:
        raise Refused(
            f"it slides over {len(shape) - 2} axes, and our own layers over three at most"
        )


def _with_thin_axis(window: dict[str, list[int]]) -> dict[str, list[int]]:
    """A window over one axis as one over maps of one column; its dilation is the same there."""
    column = {"begin": [0], "end": [0], "stride": [1], "dilation": window["dilation"]}
    return {key: values + column[key] for key, values in window.items()}


def _without_idle_taps(
    weight: Array, window: dict[str, list[int]], spatial: Dims
) -> tuple[Array, dict[str, list[int]]]:
    """The kernel without taps that see the padding only, along axes of size 1."""
    window = {key: list(values) for key, values in window.items()}
    for i, size in enumerate(spatial):
        step, gap, begin, end = (window[key][i] for key in ("stride", "dilation", "begin", "end"))
        taps = weight.shape[2 + i]
        count = (size + begin + end - gap * (taps - 1) - 1) // step + 1
        busy = [
            j for j in range(taps) if any(n * step - begin + j * gap == 0 for n in range(count))
        ]
        if size != 1 or not busy or begin < busy[0] * gap or end < (taps - 1 - busy[-1]) * gap:
            continue
        weight = weight.take(range(busy[0], busy[-1] + 1), axis=2 + i)
        window["begin"][i] -= busy[0] * gap
        window["end"][i] -= (taps - 1 - busy[-1]) * gap
    return weight, window


def _with_zeros(weight: Array, kernels: list[tuple[int, int]]) -> Array:
    """The weights with zeros around each kernel; the same array where there are none."""
    if not any(front or back for front, back in kernels):
        return weight
    return np.pad(weight, [(0, 0), (0, 0), *kernels])


def _fields(
    outputs: int,
    kernel: Dims,
    window: dict[str, list[int]],
    pads: list[int],
    group: int,
    bias: Array | None,
) -> dict[str, Any]:
    """A convolution_param; what is the default is left out."""
    fields: dict[str, Any] = {"num_output": outputs}
    if bias is None:
        fields["bias_term"] = False
    lists = (("kernel_size", list(kernel), None), ("stride", window["stride"], 1),
             ("pad", pads, 0), ("dilation", window["dilation"], 1))  # fmt: skip
    for name, values, default in lists:
        if all(v == default for v in values):
            continue
        short = {"kernel_size": "kernel"}.get(name, name)
        if len(set(values)) == 1 or len(values) != 2 or name == "dilation":
            fields[name] = values[:1] if len(set(values)) == 1 else values
        else:
            fields[f"{short}_h"], fields[f"{short}_w"] = values
    if group != 1:
        fields["group"] = group
    if len(kernel) != 2:
        fields["engine"] = "CAFFE"  # cuDNN's takes two axes only
    return fields


@operator("ConvTranspose")
def conv_transpose(w: Writer, node: Node) -> str:
    """A Deconvolution; the kernel gets zeros behind for output_padding, and what is over is cut."""
    weight, bias = weights_of(w, node)
    x = w.blob(node.inputs[0])
    shape, out_size = w.shape(x), w.graph.shapes[node.outputs[0]]
    _refuse_more_axes(shape)
    flat = len(shape) == 3
    group = int(node.attrs.get("group", 1))
    window = window_of(node, shape[2:], weight.shape[2:])
    begin = _begins(node, shape, out_size, weight.shape[2:], window)
    if flat:
        x = w.reshape(x, (*shape, 1), hint="as_2d")
        weight, begin = weight[..., None], [*begin, 0]
        window = _with_thin_axis(window)
        out_size = (*out_size, 1)
    top = deconvolve(w, x, weight, bias, group, window, begin, out_size[2:])
    return w.reshape(top, out_size[:3], hint="as_1d") if flat else top


def _begins(
    node: Node, shape: Dims, out_size: Dims, kernel: Dims, window: dict[str, list[int]]
) -> list[int]:
    """The pads at the beginning; those that follow from an output shape are split as ONNX does."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    explicit = "output_shape" in node.attrs
    if not explicit and auto in ("NOTSET", "VALID"):
        return window["begin"]
    extra = [int(n) for n in node.attrs.get("output_padding", [0] * len(kernel))]
    begins = []
    for i, size in enumerate(shape[2:]):
        reach = window["dilation"][i] * (kernel[i] - 1) + 1
        total = window["stride"][i] * (size - 1) + extra[i] + reach - out_size[2 + i]
        total = max(total, 0)
        begins.append(total // 2 if auto == "SAME_UPPER" or (not explicit and auto == "NOTSET")
                      else total - total // 2)  # fmt: skip
    return begins


def deconvolve(
    w: Writer,
    x: str,
    weight: Array,
    bias: Array | None,
    group: int,
    window: dict[str, list[int]],
    begin: Sequence[int],
    out_size: Sequence[int],
) -> str:
    """A Deconvolution whose output begins `begin` in and has the size `out_size` (two axes)."""
    shape = w.shape(x)
    pads, sizes, kernels = [], [], []
    for i, size in enumerate(shape[2:]):
        step, gap = window["stride"][i], window["dilation"][i]
        reach = step * (size - 1) + gap * (weight.shape[2 + i] - 1) + 1
        pad = max(begin[i], 0)
        short = out_size[i] + pad - (reach - pad)  # what the end lacks with the pad at both ends
        back = max(-(-short // gap), 0)
        front = max(-(-(pad - begin[i]) // gap), 0)
        if front and (pad - begin[i]) % gap:
            raise Refused("a negative pad that is no multiple of the dilation")
        pads.append(pad)
        kernels.append((front, back))
        sizes.append(reach + gap * (front + back) - 2 * pad)
    weight = _with_zeros(weight, kernels)
    fields = _fields(weight.shape[1] * group, weight.shape[2:], window, pads, group, bias)
    blobs = [weight] if bias is None else [weight, bias]
    out = (shape[0], weight.shape[1] * group, *sizes)
    top: str = w.layer("Deconvolution", [x], out, blobs=blobs, convolution_param=fields)
    for i in range(len(sizes)):
        if sizes[i] > out_size[i]:
            top = crop(w, top, 2 + i, 0, out_size[i])
    return top
