"""Why two models part at a layer, as far as the numbers tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from caffeio.converters.verify.numbers import relative_difference
from caffeio.layers.batch_norm import BatchNorm
from caffeio.shape_text import format_shape

if TYPE_CHECKING:
    from caffeio.converters.verify.row import ComparedLayer
    from caffeio.converters.verify.sides import Side
    from caffeio.net.net import Trace

Values = tuple[list[np.ndarray] | None, np.ndarray | None]
NEAR = 1e-4


def likely_cause(
    leader: Side, other: Side, trace: Trace, row: ComparedLayer, values: Values
) -> str:
    """A sentence on the first layer whose top differs; what was tried is in `_EXPLANATIONS`."""
    bottoms, top = values
    if row.other is not None and np.prod(row.other) != np.prod(row.shape):
        return _of_shapes(row)
    text = _of_weights(leader, other, trace)
    if text:
        return text
    if bottoms is None or top is None or top.shape != tuple(trace.tops[0].shape):
        return "the other model does not show what this layer reads: look at the layers before it"
    if _again(trace, bottoms, top):
        return (
            "the layer itself agrees on the same bottoms: the difference comes from before it and "
            "grows (rounding, or an input that does not show)"
        )
    for explain in (_of_batch_norm, _of_passing, _of_input_order, _of_factor):
        text = explain(trace, bottoms, top)
        if text:
            return text
    return f"the two compute {row.kind} differently: its parameters are not understood alike"


def _of_shapes(row: ComparedLayer) -> str:
    dims = f"{format_shape(row.shape)} against {format_shape(row.other or ())}"
    if row.kind == "Pooling":
        return f"{dims}: one rounds the number of windows up (as Caffe does), the other down"
    return f"the shapes differ: {dims}"


def _of_weights(leader: Side, other: Side, trace: Trace) -> str:
    name = trace.step.node.name
    mine, theirs = leader.parameters(name), other.parameters(name)
    if not mine or not theirs or trace.step.node.type == "BatchNorm":
        return ""
    for i, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a.size != b.size:
            return f"blob {i} has {a.size} values on one side, {b.size} on the other"
        off = relative_difference(b.reshape(a.shape), a)
        if off > 1e-6:
            if a.ndim == 4 and relative_difference(b.reshape(a.shape)[:, ::-1], a) <= 1e-6:
                return f"blob {i} has its input channels in the other order (RGB against BGR)"
            return f"blob {i} of the layer is another one: off by {off:.2g} of its largest value"
    return ""


def _tensor(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(value))


def _again(trace: Trace, bottoms: list[np.ndarray], top: np.ndarray) -> bool:
    with torch.no_grad():
        made = trace.step.layer(*map(_tensor, bottoms))
    made = made[0] if isinstance(made, tuple) else made
    return relative_difference(top, made.numpy()) <= NEAR


def _of_batch_norm(trace: Trace, bottoms: list[np.ndarray], top: np.ndarray) -> str:
    layer = trace.step.layer
    if not isinstance(layer, BatchNorm):
        return ""
    x = bottoms[0].astype(np.float64)
    mean, variance, factor = (b.detach().numpy().astype(np.float64) for b in list(layer.blobs)[:3])
    shape = (1, -1, *[1] * (x.ndim - 2))
    over = tuple(i for i in range(x.ndim) if i != 1)
    scale = 0.0 if factor[0] == 0 else 1 / factor[0]
    stored = (mean * scale, variance * scale)
    tries = {
        "one uses the batch's own statistics, the other the stored ones (use_global_stats)": (
            stored if not layer.use_global else (x.mean(over), x.var(over)),
            layer.eps,
        ),
        "the stored sums are not divided by their factor": ((mean, variance), layer.eps),
        "eps is 0.001 on one side": (stored, 1e-3),
        "eps is 1e-5 on one side": (stored, 1e-5),
    }
    for text, ((m, v), eps) in tries.items():
        made = (x - m.reshape(shape)) / np.sqrt(np.abs(v).reshape(shape) + eps)
        if relative_difference(top, made) <= NEAR:
            return text
    return ""


def _of_passing(trace: Trace, bottoms: list[np.ndarray], top: np.ndarray) -> str:
    if bottoms and bottoms[0].shape == top.shape and relative_difference(top, bottoms[0]) <= NEAR:
        return "the other model leaves the layer out: its top is its bottom"
    return ""


def _of_input_order(trace: Trace, bottoms: list[np.ndarray], top: np.ndarray) -> str:
    x = bottoms[0]
    if x.ndim == 4 and x.shape[1] == 3 and _again(trace, [x[:, ::-1], *bottoms[1:]], top):
        return "the channels of its bottom are in the other order (RGB against BGR)"
    return ""


def _of_factor(trace: Trace, bottoms: list[np.ndarray], top: np.ndarray) -> str:
    mine = trace.tops[0].numpy().astype(np.float64).reshape(-1)
    theirs = top.astype(np.float64).reshape(-1)
    square = float((mine * mine).sum())
    if not np.isfinite(square) or square == 0:
        return ""
    k = float((mine * theirs).sum() / square)
    if relative_difference(theirs, k * mine) <= NEAR:
        return f"the other model's values are {k:.6g} times these"
    return ""
