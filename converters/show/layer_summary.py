"""A layer's parameters in a few words: `3x3 /2 pad 1 -> 64`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from caffeio.converters.diff.messages import flatten
from caffeio.converters.report.model import short_float
from caffeio.layers.window import written_values
from caffeio.proto.caffe_pb2 import EltwiseParameter, LayerParameter, PoolingParameter
from caffeio.shape_text import format_shape


def layer_summary(param: LayerParameter) -> str:
    """The parameters that tell what the layer does."""
    describe = _WORDS.get(param.type)
    return describe(param) if describe is not None else _plain(param)


def _pair(p: Any, name: str, default: int) -> str:
    """`3x3`, from the repeated field or from the _h and _w forms; "" if it is the default."""
    values = written_values(p, name)
    if len(values) == 1:
        values *= 2
    return "" if not values or set(values) == {default} else format_shape(values)


def _short(pair: str) -> str:
    """`2` for `2x2`."""
    values = pair.split("x")
    return values[0] if len(set(values)) == 1 else pair


def _window(p: Any) -> list[str]:
    words = [_pair(p, "kernel_size", 0)]
    stride, pad = _pair(p, "stride", 1), _pair(p, "pad", 0)
    if stride:
        words.append(f"/{_short(stride)}")
    if pad:
        words.append(f"pad {_short(pad)}")
    if dilation := _pair(p, "dilation", 1):
        words.append(f"dilation {_short(dilation)}")
    return words


def _convolution(param: LayerParameter) -> str:
    p = param.convolution_param
    words = _window(p)
    if p.group > 1:
        words.append(f"{p.group} groups")
    words.append(f"-> {p.num_output}")
    if not p.bias_term:
        words.append("no bias")
    return " ".join(filter(None, words))


def _pooling(param: LayerParameter) -> str:
    p = param.pooling_param
    method = PoolingParameter.PoolMethod.Name(p.pool).lower()
    words = ["global", method] if p.global_pooling else [method, *_window(p)]
    if p.round_mode == PoolingParameter.FLOOR:
        words.append("floor")
    return " ".join(filter(None, words))


def _dense(param: LayerParameter) -> str:
    p = param.inner_product_param
    return f"-> {p.num_output}" + ("" if p.bias_term else " no bias")


def _batch_norm(param: LayerParameter) -> str:
    p = param.batch_norm_param
    words = [f"fraction {short_float(p.moving_average_fraction)}"]
    if p.HasField("use_global_stats"):
        words.append("global statistics" if p.use_global_stats else "batch statistics")
    return ", ".join(words)


def _eltwise(param: LayerParameter) -> str:
    p = param.eltwise_param
    words = EltwiseParameter.EltwiseOp.Name(p.operation).lower()
    return f"{words} of {', '.join(map(short_float, p.coeff))}" if p.coeff else words


def _data(param: LayerParameter) -> str:
    for name in ("data_param", "image_data_param", "hdf5_data_param", "window_data_param"):
        if param.HasField(name):
            p = getattr(param, name)
            return f"{p.source}, {p.batch_size} a batch"
    return _plain(param)


def _loss(param: LayerParameter) -> str:
    weights = [short_float(w) for w in param.loss_weight]
    rest = _plain(param)
    words = [f"weight {', '.join(weights)}"] if weights and weights != ["1"] else []
    return ", ".join([*words, *([rest] if rest else [])])


def _plain(param: LayerParameter) -> str:
    """All parameters that are set, less fillers."""
    out = []
    for field, value in param.ListFields():
        if not field.name.endswith("_param") or not isinstance(value, Message):
            continue
        for path, text in flatten(value).items():
            if "filler" not in path:
                out.append(f"{path} {text}")
    text = ", ".join(out)
    return text if len(text) <= 80 else text[:77] + "..."


_WORDS: dict[str, Callable[[LayerParameter], str]] = {
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "Deconvolution": _convolution,
    "DepthwiseConvolution": _convolution,
    "Pooling": _pooling,
    "InnerProduct": _dense,
    "BatchNorm": _batch_norm,
    "Scale": lambda param: "" if not param.scale_param.bias_term else "with bias",
    "Eltwise": _eltwise,
    "Data": _data,
    "ImageData": _data,
    "HDF5Data": _data,
    "WindowData": _data,
    "Input": lambda param: "",
    "SoftmaxWithLoss": _loss,
    "EuclideanLoss": _loss,
    "SigmoidCrossEntropyLoss": _loss,
}


_SHORT = {
    "BatchNorm": "BN",
    "Convolution": "Conv",
    "ConvolutionDepthwise": "DWConv",
    "Deconvolution": "Deconv",
    "DepthwiseConvolution": "DWConv",
    "DetectionOutput": "Detections",
    "EuclideanLoss": "L2Loss",
    "InnerProduct": "InnerProd",
    "Pooling": "Pool",
    "SigmoidCrossEntropyLoss": "SigmoidLoss",
    "SoftmaxWithLoss": "SoftmaxLoss",
}


def short_type(type_name: str) -> str:
    """`Conv+BN+Scale+ReLU` for Convolution+BatchNorm+Scale+ReLU: for narrow screens."""
    return "+".join(_SHORT.get(name, name) for name in type_name.split("+"))
