"""Each layer type's blobs in PyTorch's form: names, layouts, statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.blobs import Array

Named = dict[str, Array]
_GATES = ((0, 0), (1, 1), (2, 3), (3, 2))  # Caffe: i f o g; PyTorch: i f g o


def to_torch(layer: pb.LayerParameter, blobs: Sequence[Array]) -> Named | None:
    """The tensors of the module that a layer is; None for a type that PyTorch has no form of."""
    form = _TO.get(layer.type)
    return None if form is None else form(layer, blobs)


def to_caffe(
    layer: pb.LayerParameter, tensors: Mapping[str, Array]
) -> tuple[list[Array], list[str]]:
    """The blobs of a layer out of its module's tensors, and the names of those that were used."""
    form = _FROM.get(layer.type)
    if form is not None:
        return form(layer, tensors)
    names = [name for name in ("weight", "bias") if name in tensors]
    return [np.asarray(tensors[name]) for name in names], names


def _plain(layer: pb.LayerParameter, blobs: Sequence[Array]) -> Named:
    weight = np.asarray(blobs[0])
    if layer.type in ("InnerProduct", "Embed"):
        weight = weight.reshape(weight.shape[-2:])
        if layer.type == "InnerProduct" and layer.inner_product_param.transpose:
            weight = weight.T
    out = {"weight": weight}
    if len(blobs) > 1:
        out["bias"] = np.asarray(blobs[1]).reshape(-1)
    return out


def _from_plain(
    layer: pb.LayerParameter, tensors: Mapping[str, Array]
) -> tuple[list[Array], list[str]]:
    if "weight" not in tensors:
        return [], []
    weight = np.asarray(tensors["weight"])
    if layer.type == "InnerProduct":
        weight = weight.reshape(weight.shape[0], -1)  # a 1 x 1 convolution is one, too
        if layer.inner_product_param.transpose:
            weight = weight.T
    blobs, used = [weight], ["weight"]
    wants_bias = {
        "InnerProduct": layer.inner_product_param.bias_term,
        "Embed": layer.embed_param.bias_term,
    }.get(layer.type, layer.convolution_param.bias_term)
    if layer.type == "Embed" and "bias" not in tensors:
        wants_bias = wants_bias and layer.HasField("embed_param")
    if wants_bias:
        outputs = weight.shape[0]
        if layer.type == "Deconvolution":
            outputs = weight.shape[1] * max(layer.convolution_param.group, 1)
        elif layer.type == "Embed" or layer.inner_product_param.transpose:
            outputs = weight.shape[1]
        blobs.append(np.asarray(tensors.get("bias", np.zeros(outputs, np.float32))))
        used += ["bias"] if "bias" in tensors else []
    return blobs, used


def _norm(layer: pb.LayerParameter, blobs: Sequence[Array]) -> Named:
    mean, variance, factor = (np.asarray(b, np.float32).reshape(-1) for b in blobs[:3])
    scale = np.float32(0 if factor[0] == 0 else 1 / factor[0])
    out: Named = {
        "running_mean": mean * scale,
        "running_var": variance * scale,
        "num_batches_tracked": np.array(0, np.int64),
    }
    if len(blobs) > 3:
        out["weight"] = np.asarray(blobs[3]).reshape(-1)
        out["bias"] = (
            np.asarray(blobs[4]).reshape(-1) if len(blobs) > 4 else np.zeros_like(out["weight"])
        )
    return out


def _from_norm(
    layer: pb.LayerParameter, tensors: Mapping[str, Array]
) -> tuple[list[Array], list[str]]:
    if "running_mean" not in tensors or "running_var" not in tensors:
        return [], []
    used = ["running_mean", "running_var"]
    blobs = [np.asarray(tensors[name]) for name in used] + [np.ones(1, np.float32)]
    p = layer.batch_norm_param
    if p.scale_bias or p.HasField("scale_filler") or p.HasField("bias_filler"):
        blobs += [np.asarray(tensors[name]) for name in ("weight", "bias") if name in tensors]
        used += [name for name in ("weight", "bias") if name in tensors]
    return blobs, used


def _scale(layer: pb.LayerParameter, blobs: Sequence[Array]) -> Named:
    out = {"weight": np.asarray(blobs[0])}
    out["bias"] = np.asarray(blobs[1]) if len(blobs) > 1 else np.zeros_like(out["weight"])
    return out


def _from_scale(
    layer: pb.LayerParameter, tensors: Mapping[str, Array]
) -> tuple[list[Array], list[str]]:
    bias_term = layer.scale_param.bias_term
    if "weight" not in tensors and "running_mean" in tensors:  # affine=False: it scales by 1
        ones = np.ones_like(np.asarray(tensors["running_mean"]))
        return [ones, np.zeros_like(ones)][: 1 + bias_term], []
    if "weight" not in tensors:
        return [], []
    weight = np.asarray(tensors["weight"])
    if not bias_term:
        unused = "bias" in tensors and not np.any(np.asarray(tensors["bias"]))
        return [weight], ["weight", "bias"] if unused else ["weight"]
    bias = tensors.get("bias", np.zeros_like(weight))
    return [weight, np.asarray(bias)], [n for n in ("weight", "bias") if n in tensors]


def _slope(layer: pb.LayerParameter, blobs: Sequence[Array]) -> Named:
    return {"weight": np.asarray(blobs[0]).reshape(-1)}


def _from_slope(
    layer: pb.LayerParameter, tensors: Mapping[str, Array]
) -> tuple[list[Array], list[str]]:
    if "weight" not in tensors:
        return [], []
    weight = np.asarray(tensors["weight"])
    shared = layer.prelu_param.channel_shared and weight.size == 1
    return [weight.reshape(()) if shared else weight], ["weight"]


def _gates(array: Array, *, back: bool = False) -> Array:
    parts = np.split(np.asarray(array), 4)
    out = list(parts)
    for here, there in _GATES:
        out[here if back else there] = parts[there if back else here]
    return np.concatenate(out)


def _lstm(layer: pb.LayerParameter, blobs: Sequence[Array]) -> Named | None:
    if len(blobs) != 3:
        return None
    x, bias, h = blobs
    return {
        "weight_ih_l0": _gates(x),
        "weight_hh_l0": _gates(h),
        "bias_ih_l0": _gates(np.asarray(bias).reshape(-1)),
        "bias_hh_l0": np.zeros(np.asarray(bias).size, np.float32),
    }


def _from_lstm(
    layer: pb.LayerParameter, tensors: Mapping[str, Array]
) -> tuple[list[Array], list[str]]:
    names = ["weight_ih_l0", "weight_hh_l0"]
    if not all(name in tensors for name in names):
        return [], []
    biases = [name for name in ("bias_ih_l0", "bias_hh_l0") if name in tensors]
    x, h = (np.asarray(tensors[name]) for name in names)
    bias = sum((np.asarray(tensors[name]) for name in biases), np.zeros(len(x), np.float32))
    return [_gates(x, back=True), _gates(bias, back=True), _gates(h, back=True)], names + biases


_PLAIN = (
    "Convolution", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution", "InnerProduct",
    "Embed",
)  # fmt: skip
_TO: dict[str, Callable[[pb.LayerParameter, Sequence[Array]], Named | None]] = {
    **dict.fromkeys(_PLAIN, _plain),
    "BatchNorm": _norm,
    "Scale": _scale,
    "PReLU": _slope,
    "LSTM": _lstm,
}
_From = Callable[[pb.LayerParameter, Mapping[str, Array]], tuple[list[Array], list[str]]]
_FROM: dict[str, _From] = {
    **dict.fromkeys(_PLAIN, _from_plain),
    "BatchNorm": _from_norm,
    "Scale": _from_scale,
    "PReLU": _from_slope,
    "LSTM": _from_lstm,
}
