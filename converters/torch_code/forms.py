"""PyTorch forms of layers without weights."""

from __future__ import annotations

import torch

from caffeio.converters.torch_code.text import (
    Expressions,
    TorchText,
    form,
    literal,
    options,
    pair,
    python_number,
    relu,
    scaled,
)
from caffeio.converters.torch_code.weight_forms import HELPERS, Names, rank
from caffeio.layers.batch_index import BatchReindex, Filter
from caffeio.layers.concat import Concat, Silence, Slice, Split
from caffeio.layers.dropout import Dropout, SpatialDropout
from caffeio.layers.eltwise import Eltwise
from caffeio.layers.im2col import Im2col
from caffeio.layers.indicator import ContinuationIndicator
from caffeio.layers.lrn import LRN, MVN
from caffeio.layers.lstm_unit import LSTMUnit
from caffeio.layers.neuron import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    ReLU,
    ReLU6,
    Sigmoid,
    Swish,
    TanH,
    Threshold,
)
from caffeio.layers.power import Exp, Log, Power
from caffeio.layers.python.dropout import SpatialDropoutLayer
from caffeio.layers.reduction import ArgMax, Reduction, Softmax
from caffeio.layers.shape import Crop, Flatten, Permute, Reshape, Tile


@form(ReLU)
def rectify(t: TorchText, layer: ReLU, x: Names) -> Expressions:
    """Write F.relu or F.leaky_relu."""
    return relu(x[0], layer.slope)


@form(ReLU6)
def relu6(t: TorchText, layer: ReLU6, x: Names) -> Expressions:
    """Write F.relu6."""
    return f"{relu(x[0], layer.slope)}.clamp(max=6)" if layer.slope else f"F.relu6({x[0]})"


@form(ELU)
def elu(t: TorchText, layer: ELU, x: Names) -> Expressions:
    """Write F.elu."""
    return scaled(f"F.elu({x[0]}{options(alpha=(python_number(layer.alpha), '1.0'))})", layer.scale)


@form(AbsVal, BNLL, Sigmoid, TanH)
def unary(t: TorchText, layer: AbsVal | BNLL | Sigmoid | TanH, x: Names) -> Expressions:
    """Write one function of torch."""
    names = {AbsVal: "torch.abs", BNLL: "F.softplus", Sigmoid: "torch.sigmoid", TanH: "torch.tanh"}
    return f"{next(name for cls, name in names.items() if isinstance(layer, cls))}({x[0]})"


@form(Clip)
def clip(t: TorchText, layer: Clip, x: Names) -> Expressions:
    """Write clamp, the lower limit last."""
    low, high = map(python_number, layer.limits)
    if layer.limits[0] > layer.limits[1]:
        return f"{x[0]}.clamp(max={high}).clamp(min={low})"
    return f"{x[0]}.clamp({low}, {high})"


@form(Swish)
def swish(t: TorchText, layer: Swish, x: Names) -> Expressions:
    """Write F.silu."""
    if layer.beta == 1:
        return f"F.silu({x[0]})"
    return f"{x[0]} * torch.sigmoid({scaled(x[0], layer.beta)})"


@form(Threshold)
def threshold(t: TorchText, layer: Threshold, x: Names) -> Expressions:
    """Write a comparison."""
    return f"({x[0]} > {python_number(layer.threshold)}).float()"


@form(Exp)
def exponential(t: TorchText, layer: Exp, x: Names) -> Expressions:
    """Write torch.exp."""
    return scaled(f"torch.exp({scaled(x[0], layer.inner)})", layer.outer)


@form(Log)
def logarithm(t: TorchText, layer: Log, x: Names) -> Expressions:
    """Write torch.log."""
    return scaled(f"torch.log({scaled(x[0], layer.scale, layer.shift)})", layer.outer)


@form(Power)
def power(t: TorchText, layer: Power, x: Names) -> Expressions:
    """Write products, sums and powers, as far as they change anything."""
    if layer.power * layer.scale == 0:
        value = torch.tensor(layer.shift).pow(layer.power).item() if layer.power else 1.0
        return f"torch.full_like({x[0]}, {python_number(value)})"
    base = scaled(x[0], layer.scale, layer.shift)
    if layer.power == 1:
        return base
    inner = base if base == x[0] else f"({base})"
    return f"{inner}.square()" if layer.power == 2 else f"{inner} ** {python_number(layer.power)}"


@form(Dropout)
def dropout(t: TorchText, layer: Dropout, x: Names) -> Expressions:
    """Write F.dropout, which does nothing in evaluation; a factor where a fork has one."""
    if layer.drops and layer.ratio:
        raise t.unsupported("it drops at random")
    if layer.factor != 1:
        return scaled(x[0], layer.factor)
    return (
        f"F.dropout({x[0]}, {python_number(layer.ratio)}, self.training)" if layer.ratio else x[0]
    )


@form(SpatialDropout)
def spatial_dropout(t: TorchText, layer: SpatialDropout, x: Names) -> Expressions:
    """Write F.dropout2d in training; nothing in evaluation."""
    if layer.train_phase and layer.ratio:
        raise t.unsupported("it drops at random")
    return x[0]


@form(SpatialDropoutLayer)
def whole_planes(t: TorchText, layer: SpatialDropoutLayer, x: Names) -> Expressions:
    """Write ENet's factor."""
    if layer.drops:
        raise t.unsupported("it drops at random")
    return scaled(x[0], 1 / (1 - layer.ratio))


@form(Eltwise)
def eltwise(t: TorchText, layer: Eltwise, x: Names) -> Expressions:
    """Write +, * or torch.maximum."""
    kept = list(zip(x, layer.coeff, strict=True))[1 if layer.loses_first else 0 :]
    if layer.operation == "MAX":
        y = kept[0][0]
        for name, _ in kept[1:]:
            y = f"torch.maximum({y}, {name})"
        return y
    if layer.operation == "PROD":
        return " * ".join(name for name, _ in kept)
    y = scaled(*kept[0])
    for name, coeff in kept[1:]:
        y += f" - {scaled(name, -coeff)}" if coeff < 0 else f" + {scaled(name, coeff)}"
    return y


@form(Softmax)
def softmax(t: TorchText, layer: Softmax, x: Names) -> Expressions:
    """Write torch.softmax."""
    return f"torch.softmax({x[0]}, {layer.dim})"


@form(Reduction)
def reduction(t: TorchText, layer: Reduction, x: Names) -> Expressions:
    """Write a sum or a mean over the last axes."""
    dims = literal(tuple(range(layer.start, rank(layer)))) if rank(layer) else "()"
    one = {"ASUM": ".abs()", "SUMSQ": ".square()"}.get(layer.operation, "")
    kind = "mean" if layer.operation == "MEAN" else "sum"
    return scaled(f"{x[0]}{one}.{kind}({dims})", layer.coeff)


@form(ArgMax)
def arg_max(t: TorchText, layer: ArgMax, x: Names) -> Expressions:
    """Write a call of a helper: of equal values Caffe takes the last."""
    helper = f"{HELPERS}:arg_max"
    if layer.dim is not None:
        found = t.call(helper, x[0], str(layer.dim), top_k=layer.top_k)
        return f"{found}[{0 if layer.out_max_val else 1}]"
    found = t.call(helper, f"{x[0]}.flatten(1)", "1", top_k=layer.top_k)
    more = "".join([", None"] * (rank(layer) - 3))
    if layer.out_max_val:
        y = f"torch.stack({found}[::-1], 1)"
        return f"{y}[..., {more[2:]}]" if more else y
    return f"{found}[1][:, None{', :' + more if more else ''}]"


@form(LRN)
def lrn(t: TorchText, layer: LRN, x: Names) -> Expressions:
    """Write F.local_response_norm; within a channel an average of squares."""
    if not layer.across:
        size = layer.size
        mean = f"F.avg_pool2d({x[0]}.square(), {size}, 1, {size // 2})"
        return f"{x[0]} * ({scaled(mean, layer.alpha, 1.0)}) ** {python_number(-layer.beta)}"
    if layer.runs_in_place:  # Caffe multiplies the power with itself then
        norm = f"F.local_response_norm({x[0]}, {_lrn_options(layer)})"
        return f"({norm} / {x[0]}).square()"
    return f"F.local_response_norm({x[0]}, {_lrn_options(layer)})"


def _lrn_options(layer: LRN) -> str:
    alpha, beta, k = map(python_number, (layer.alpha, layer.beta, layer.k))
    return f"{layer.size}{options(alpha=(alpha, ''), beta=(beta, ''), k=(k, '1.0'))}"


@form(MVN)
def mvn(t: TorchText, layer: MVN, x: Names) -> Expressions:
    """Write a call of a helper."""
    y = x[0] + f"[{', '.join(['...', *['None'] * (4 - rank(layer))])}]" * (rank(layer) < 4)
    plain = None if layer.normalize_variance else False
    dims = "=" + literal(layer.dims)
    return t.call(f"{HELPERS}:mean_variance_normalize", y, dims=dims, eps=layer.eps, variance=plain)


@form(Concat)
def concat(t: TorchText, layer: Concat, x: Names) -> Expressions:
    """Write torch.cat."""
    return x[0] if len(x) == 1 else f"torch.cat([{', '.join(x)}], {layer.concat_axis})"


@form(Slice)
def cut(t: TorchText, layer: Slice, x: Names) -> Expressions:
    """Write chunk, or split where the parts differ."""
    if layer.parts == 1:
        return x
    sizes = layer.sizes(layer.bottom_shapes[0])
    if len(set(sizes)) == 1:
        return [f"{x[0]}.chunk({len(sizes)}, {layer.slice_axis})"]
    return [f"{x[0]}.split({sizes}, {layer.slice_axis})"]


@form(Split)
def split(t: TorchText, layer: Split, x: Names) -> Expressions:
    """Write other names of one value."""
    return x * max(1, len(layer.context.top_names))


@form(Silence)
def silence(t: TorchText, layer: Silence, x: Names) -> Expressions:
    """Write nothing."""
    return ()


@form(Flatten)
def flatten(t: TorchText, layer: Flatten, x: Names) -> Expressions:
    """Write flatten."""
    if layer.end == layer.start + 1:
        return x[0]
    last = layer.end - 1
    return f"{x[0]}.flatten({layer.start}{'' if layer.end == rank(layer) else f', {last}'})"


@form(Reshape)
def reshape(t: TorchText, layer: Reshape, x: Names) -> Expressions:
    """Write reshape; axes that are copied are asked for, so that other batches fit."""
    if layer.shuffle != 1:
        return f"F.pixel_shuffle({x[0]}, {layer.shuffle})"
    shape = layer.bottom_shapes[0]
    dims = [(layer.start + i if d == 0 else None, d) for i, d in enumerate(layer.dims)]
    sizes: list[tuple[int | None, int]] = [(i, shape[i]) for i in range(layer.start)]
    sizes += [(axis, shape[axis] if axis is not None else d) for axis, d in dims]
    sizes += [(i, shape[i]) for i in range(layer.end, len(shape))]
    words = [f"{x[0]}.shape[{axis}]" if axis == 0 else str(size) for axis, size in sizes]
    return f"{x[0]}.reshape({', '.join(words) or '()'})"


@form(Permute)
def permute(t: TorchText, layer: Permute, x: Names) -> Expressions:
    """Write permute."""
    return f"{x[0]}.permute({', '.join(map(str, layer.order))})"


@form(Crop)
def crop(t: TorchText, layer: Crop, x: Names) -> Expressions:
    """Write a slice as large as the other bottom."""
    parts = [":"] * layer.start
    for axis, offset in enumerate(layer.offsets, layer.start):
        size = f"{x[1]}.shape[{axis}]"
        parts.append(f"{offset} : {offset} + {size}" if offset else f": {size}")
    return f"{x[0]}[{', '.join(parts)}]"


@form(Tile)
def tile(t: TorchText, layer: Tile, x: Names) -> Expressions:
    """Write repeat."""
    times = [layer.tiles if i == layer.tile_axis else 1 for i in range(rank(layer))]
    return x[0] if layer.tiles == 1 else f"{x[0]}.repeat({', '.join(map(str, times))})"


@form(Im2col)
def im2col(t: TorchText, layer: Im2col, x: Names) -> Expressions:
    """Write F.unfold."""
    if len(layer.kernel) != 2 or layer.start != 1:
        raise t.unsupported("only two spatial axes behind the channels")
    more = options(
        dilation=(pair(layer.dilation), "1"),
        padding=(pair(layer.pad), "0"),
        stride=(pair(layer.stride), "1"),
    )
    places = literal(layer.top_shapes[0][2:])
    return f"F.unfold({x[0]}, {pair(layer.kernel)}{more}).unflatten(2, {places})"


@form(BatchReindex)
def batch_reindex(t: TorchText, layer: BatchReindex, x: Names) -> Expressions:
    """Write an indexing."""
    return f"{x[0]}[{x[1]}.long()]"


@form(Filter)
def keep_items(t: TorchText, layer: Filter, x: Names) -> Expressions:
    """Write an indexing with a mask."""
    return tuple(f"{name}[{x[-1]}.flatten() != 0]" for name in x[:-1])


@form(ContinuationIndicator)
def indicator(t: TorchText, layer: ContinuationIndicator, x: Names) -> Expressions:
    """Write ones behind a first row of zeros."""
    ones = f"{x[0]}.new_ones({layer.steps - 1}, {x[0]}.shape[{layer.along}])"
    return f"F.pad({ones}, (0, 0, 1, 0))"


@form(LSTMUnit)
def lstm_unit(t: TorchText, layer: LSTMUnit, x: Names) -> Expressions:
    """Write a call of a helper."""
    c, gates, cont = x
    return [t.call(f"{HELPERS}:lstm_step", gates, c, f"{cont}[..., None]")]
