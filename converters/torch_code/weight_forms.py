"""PyTorch forms of layers that have weights."""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.converters.torch_code.text import (
    Expressions,
    TorchText,
    form,
    literal,
    options,
    pair,
    python_number,
    relu,
)
from caffeio.layers.base import LayerType
from caffeio.layers.batch_index import Parameter
from caffeio.layers.batch_norm import BatchNorm
from caffeio.layers.bn import BN
from caffeio.layers.conv import BaseConvolution
from caffeio.layers.inner_product import Embed, InnerProduct
from caffeio.layers.l2_normalize import Normalize
from caffeio.layers.neuron import PReLU
from caffeio.layers.recurrent import LSTM, RNN, Recurrent
from caffeio.layers.scale import Axpy, Bias, Scale

HELPERS = "caffeio.converters.torch_code.helpers"
Names = tuple[str, ...]


def rank(layer: LayerType, index: int = 0) -> int:
    """Number of axes of a bottom."""
    return len(layer.bottom_shapes[index])


@form(BaseConvolution)
def convolution(t: TorchText, layer: BaseConvolution, x: Names) -> Expressions:
    """Write nn.Conv2d and its family; nn.Linear without spatial axes."""
    weight, bias = layer.blobs[0], layer.blobs[1] if layer.has_bias else None
    spatial = layer.spatial
    if not spatial:
        if layer.group != 1 or layer.start != 1:
            raise t.unsupported("groups or outer axes without spatial axes")
        weight = weight.t().contiguous() if layer.transposed else weight
        text = f"nn.Linear({layer.channels}, {layer.num_output}{_bias(bias)})"
        call = t.module(layer, text, weight=weight, bias=bias)
    else:
        one = literal((1,) * spatial) if spatial > 1 else "1"
        plain = {"1": "1", one: "1"}
        stride, padding = pair(layer.stride), pair(layer.pad)
        more = options(
            stride=(plain.get(stride, stride), "1"),
            padding=(padding, "0"),
            dilation=(pair(layer.dilation), "1"),
            groups=(str(layer.group), "1"),
        )
        kind = f"nn.Conv{'Transpose' if layer.transposed else ''}{spatial}d"
        sizes = f"{layer.channels}, {layer.num_output}, {pair(layer.kernel)}"
        call = t.module(layer, f"{kind}({sizes}{more}{_bias(bias)})", weight=weight, bias=bias)
    tops = tuple(_convolution_form(layer, call, name) for name in x)
    return tops[0] if len(tops) == 1 else tops


def _bias(bias: Tensor | None) -> str:
    return "" if bias is not None else ", bias=False"


def _convolution_form(layer: BaseConvolution, call: str, x: str) -> str:
    start, shape = layer.start, layer.bottom_shapes[0]
    sizes = shape[start + 1 :]
    y = x
    if start == 0:
        y = f"{y}.unsqueeze(0)"
    elif start > 1:
        y = f"{y}.flatten(0, {start - 1})"
    if layer.spatial and not layer.transposed:  # Caffe lets a kernel stick out a bit
        missing = [max(0, n - s) for n, s in zip(layer.least, sizes, strict=True)]
        if any(missing):
            y = f"F.pad({y}, {literal([v for m in reversed(missing) for v in (0, m)])})"
    y = f"{call}({y})"
    if layer.relu:
        y = relu(y, layer.negative_slope)
    if start == 0:
        return f"{y}.squeeze(0)"
    return y if start == 1 else f"{y}.unflatten(0, {literal(shape[:start])})"


@form(InnerProduct)
def inner_product(t: TorchText, layer: InnerProduct, x: Names) -> Expressions:
    """Write nn.Linear of the flattened bottom."""
    weight = layer.blobs[0].t().contiguous() if layer.transpose else layer.blobs[0]
    bias = layer.blobs[1] if len(layer.blobs) > 1 else None
    text = f"nn.Linear({layer.inputs}, {layer.num_output}{_bias(bias)})"
    call = t.module(layer, text, weight=weight, bias=bias)
    flat = x[0] if rank(layer) == layer.start + 1 else f"{x[0]}.flatten({layer.start or ''})"
    y = f"{call}({flat})"
    return relu(y, layer.negative_slope) if layer.relu else y


@form(Embed)
def embed(t: TorchText, layer: Embed, x: Names) -> Expressions:
    """Write nn.Embedding, and a bias."""
    rows, columns = layer.blob_specs[0].shape
    call = t.module(layer, f"nn.Embedding({rows}, {columns})", weight=layer.blobs[0])
    y = f"{call}({x[0]}.long())"
    return f"{y} + {t.param(layer, 'bias', layer.blobs[1])}" if len(layer.blobs) > 1 else y


@form(BatchNorm)
def batch_norm(t: TorchText, layer: BatchNorm, x: Names) -> Expressions:
    """Write nn.BatchNorm2d."""
    extra = [layer.blobs[i] for i in range(3, len(layer.blobs))]
    return scaled_batch_norm(t, layer, x[0], extra)


def scaled_batch_norm(t: TorchText, layer: BatchNorm, x: str, extra: list[Tensor]) -> str:
    """nn.BatchNorm2d with the scale and bias `extra`."""
    statistics: list[Tensor] | None = None
    if layer.use_global:
        statistics = [torch.as_tensor(value) for value in layer.global_statistics()]
    elif layer.part and layer.part != layer.bottom_shapes[0][0]:
        raise t.unsupported("stats_batch_size splits the batch")
    y = norm_module(t, layer, x, layer.eps, statistics, extra, 1 - layer.fraction)
    return relu(y) if layer.relu else y


def norm_module(
    t: TorchText,
    layer: LayerType,
    x: str,
    eps: float,
    statistics: list[Tensor] | None,
    affine: list[Tensor],
    momentum: float = 0.1,
) -> str:
    """nn.BatchNorm1d, 2d or 3d by stored `statistics`, or by those of the batch."""
    axes = {2: 1, 3: 1, 4: 2, 5: 3}.get(rank(layer))
    if axes is None:
        raise t.unsupported(f"BatchNorm of {rank(layer)} axes")
    channels = layer.bottom_shapes[0][1]
    more = options(
        eps=(python_number(eps), "1e-05"),
        momentum=(python_number(round(momentum, 6)) if statistics else "0.1", "0.1"),
        affine=(str(bool(affine)), "True"),
        track_running_stats=(str(statistics is not None), "True"),
    )
    tensors: dict[str, Tensor | None] = {}
    if affine:
        bias = affine[1] if len(affine) > 1 else torch.zeros(channels)
        tensors = {"weight": affine[0].reshape(-1), "bias": bias.reshape(-1)}
    if statistics:
        tensors.update(running_mean=statistics[0].flatten(), running_var=statistics[1].flatten())
    return f"{t.module(layer, f'nn.BatchNorm{axes}d({channels}{more})', **tensors)}({x})"


@form(BN)
def bn(t: TorchText, layer: BN, x: Names) -> Expressions:
    """Write nn.BatchNorm2d; a product and a sum in SegNet's INFERENCE."""
    scale, shift = layer.blobs[0], layer.blobs[1]
    if layer.outputs > 1:
        raise t.unsupported("statistics as tops")
    if layer.plain:
        shape = (scale.numel(), *[1] * (rank(layer) - 2))
        names = [
            t.param(layer, n, v.reshape(shape)) for n, v in (("scale", scale), ("shift", shift))
        ]
        return f"{x[0]} * {names[0]} + {names[1]}"
    stored = [layer.blobs[2], layer.blobs[3]] if layer.uses_stored else None
    return norm_module(t, layer, x[0], layer.eps, stored, [scale, shift], 1 - layer.keep)


@form(PReLU)
def prelu(t: TorchText, layer: PReLU, x: Names) -> Expressions:
    """Write nn.PReLU."""
    slope = layer.blobs[0].reshape(-1)
    return f"{t.module(layer, f'nn.PReLU({len(slope)})', weight=slope)}({x[0]})"


def _spread(t: TorchText, layer: LayerType, suffix: str, blob: Tensor, start: int) -> str:
    """A parameter that broadcasts against bottom 0 from axis `start` on."""
    ones = [1] * (rank(layer) - start - blob.dim())
    return t.param(layer, suffix, blob.reshape(*blob.shape, *ones))


def _operand(t: TorchText, layer: LayerType, suffix: str, x: Names, start: int) -> str:
    """The factor or summand: bottom 1, or the layer's first blob."""
    if len(x) == 1:
        return _spread(t, layer, suffix, layer.blobs[0], start)
    missing = rank(layer) - start - rank(layer, 1)
    return f"{x[1]}[{', '.join(['...', *['None'] * missing])}]" if missing else x[1]


@form(Scale)
def scale(t: TorchText, layer: Scale, x: Names) -> Expressions:
    """Write a product, and a sum."""
    y = f"{x[0]} * {_operand(t, layer, 'scale', x, layer.start)}"
    if not layer.has_bias:
        return y
    return f"{y} + {_spread(t, layer, 'bias', layer.blobs[len(layer.blobs) - 1], layer.start)}"


@form(Bias)
def bias(t: TorchText, layer: Bias, x: Names) -> Expressions:
    """Write a sum."""
    return f"{x[0]} + {_operand(t, layer, 'bias', x, layer.start)}"


@form(Axpy)
def axpy(t: TorchText, layer: Axpy, x: Names) -> Expressions:
    """Write a product and a sum."""
    a, y, b = x
    missing = rank(layer, 1) - rank(layer)
    factor = f"{a}[{', '.join(['...', *['None'] * missing])}]" if missing > 0 else a
    if missing < 0:
        factor = f"{a}.flatten(1)[{', '.join([':', ':', *['None'] * (rank(layer, 1) - 2)])}]"
    return f"{b} + {factor} * {y}"


@form(Normalize)
def normalize(t: TorchText, layer: Normalize, x: Names) -> Expressions:
    """Write a call of a helper."""
    blob, axes = layer.blobs[0], rank(layer)
    shape = (len(blob), *[1] * (axes - 2)) if blob.dim() else ()
    weight = t.param(layer, "scale", blob.reshape(shape))
    dims = tuple(range(1, axes)) if layer.across else (1,)
    return t.call(f"{HELPERS}:l2_normalize", x[0], weight, dims="=" + literal(dims), eps=layer.eps)


@form(Parameter)
def parameter(t: TorchText, layer: Parameter, x: Names) -> Expressions:
    """Write the parameter itself."""
    return t.param(layer, "value", layer.blobs[0])


@form(LSTM)
def lstm(t: TorchText, layer: LSTM, x: Names) -> Expressions:
    """Write a call of a helper: PyTorch's own knows no marks where sequences begin."""
    blobs = _recurrent_blobs(t, layer)
    more = _recurrent_options(layer, x, blobs, ("h", "c"))
    given = [x[0], x[1], blobs[0], blobs[1], blobs[2 + layer.static]]
    call = t.call(f"{HELPERS}:caffe_lstm", *given, **more)
    return [call] if layer.expose else f"{call}[0]"


@form(RNN)
def rnn(t: TorchText, layer: RNN, x: Names) -> Expressions:
    """Write a call of a helper."""
    blobs = _recurrent_blobs(t, layer)
    more = _recurrent_options(layer, x, blobs, ("h",))
    first = 2 + layer.static
    pairs = f"({blobs[0]}, {blobs[1]})", blobs[first], f"({blobs[first + 1]}, {blobs[first + 2]})"
    call = t.call(f"{HELPERS}:caffe_rnn", x[0], x[1], *pairs, **more)
    return [call] if layer.expose else f"{call}[0]"


def _recurrent_blobs(t: TorchText, layer: Recurrent) -> list[str]:
    names = [spec.name for spec in layer.blob_specs]
    return [t.param(layer, name, blob) for name, blob in zip(names, layer.blobs, strict=True)]


def _recurrent_options(
    layer: Recurrent, x: Names, blobs: list[str], states: tuple[str, ...]
) -> dict[str, str]:
    more = {}
    if layer.static:
        more["static"] = f"=F.linear({x[2]}.flatten(1), {blobs[2]})"
    if layer.expose:
        given = x[2 + layer.static :]
        more["states"] = f"=({', '.join(given)},)" if len(given) == 1 else f"=({', '.join(given)})"
    return more
