"""Softmax, ArgMax, and the Reduce operators: a reduction over a run of axes is a Pooling."""

from __future__ import annotations

import math
from typing import Any

from caffeio.converters.from_onnx import exact
from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Dims, Node
from caffeio.converters.from_onnx.operands import combined
from caffeio.converters.from_onnx.ops.pool import over_map
from caffeio.converters.from_onnx.patterns.base import scalar
from caffeio.converters.from_onnx.table import operator
from caffeio.converters.rewrites.moves import MOST_PIECES


@operator("Softmax", "LogSoftmax")
def softmax(w: Writer, node: Node) -> str:
    """Softmax, and a Log behind it; before opset 13 it goes over all axes from its own on.

    `along` says that it goes over one axis all the same: a Transpose before it has been taken away.
    """
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    flat = w.graph.opset < 13 and not node.attrs.get("along")
    axis = int(node.attrs.get("axis", 1 if flat else -1)) % len(shape)
    y = x
    if flat and math.prod(shape[axis + 1 :]) != 1:
        y = w.reshape(x, (*shape[:axis], math.prod(shape[axis:])), hint="flat")
    y = w.unary("Softmax", y, softmax_param={"axis": axis} if axis != 1 else {})
    y = w.reshape(y, shape, hint="back")
    if node.op == "Softmax":
        return y
    w.notes.append(
        f"{node.outputs[0]!r}: LogSoftmax is a Softmax and a Log; what is more than 87 below the "
        "largest of its axis becomes -inf, or loses digits"
    )
    return w.unary("Log", y, hint="log")


@operator("ArgMax", "ArgMin")
def arg_max(w: Writer, node: Node) -> str:
    """ArgMax along an axis; Caffe keeps the axis and takes the last of equals.

    It sorts pairs of a value and its index, the largest first (argmax_layer.cpp).
    """
    if not node.attrs.get("select_last_index", 0):
        w.notes.append(
            f"{node.outputs[0]!r}: of equal values Caffe's ArgMax takes the last, {node.op} the "
            "first"
        )
    x = w.blob(node.inputs[0])
    x = w.power(x, scale=1.0 if node.op == "ArgMax" else -1.0, hint="minus")
    shape = w.shape(x)
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    if w.batch.get(x) == axis:
        w.fix_batch()
    new = (*shape[:axis], 1, *shape[axis + 1 :])
    y: str = w.layer("ArgMax", [x], new, argmax_param={"axis": axis})
    return _shaped(w, y, node)


def _shaped(w: Writer, y: str, node: Node) -> str:
    out = node.outputs[0]
    batch = w.batch.get(y)
    if batch is not None and w.graph.larger is not None:
        batch = w.graph.batch_axis(out)
    elif batch is not None and batch != 0:
        batch = None
    return w.reshape(y, w.graph.shapes[out], batch=batch)


@operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
          "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd")  # fmt: skip
def reduce(w: Writer, node: Node) -> str:
    """Means and sums, or the largest, over axes that may be any."""
    x = w.blob(node.inputs[0])
    shape = w.shape(x)
    axes = w.graph.ints(node, "axes", 1)
    if axes is None and node.input(1):
        raise Refused("its axes are computed")
    if not axes:
        if node.attrs.get("noop_with_empty_axes", 0):
            return w.unary("Power", x, power_param={})
        axes = list(range(len(shape)))
    axes = sorted(axis % len(shape) for axis in axes)
    kind = node.op.removeprefix("Reduce")
    if kind == "Prod":
        return _shaped(w, _product(w, x, axes), node)
    if kind == "LogSumExp":
        return _shaped(w, _log_sum_exp(w, x, axes), node)
    own = {"L1": "ASUM", "SumSquare": "SUMSQ"}
    if _is_factor_of(w, node):
        own.update(Mean="MEAN", Sum="SUM")
    if kind in own and (y := _reduction(w, x, axes, own[kind])) is not None:
        return _shaped(w, y, node)
    if kind == "L1":
        x = w.unary("AbsVal", x, hint="each")
    if kind in ("L2", "SumSquare"):
        x = w.power(x, power=2, hint="square")
    if kind == "Min":
        x = w.power(x, scale=-1, hint="minus")
    method = {"Mean": "AVE", "Max": "MAX", "Min": "MAX"}.get(kind, "SUM")
    y = reduced(w, x, axes, method)
    if kind == "L2":
        y = w.power(y, power=0.5, hint="root")
    if kind == "Min":
        y = w.power(y, scale=-1, hint="back")
    if kind == "LogSum":
        y = w.unary("Log", y, hint="log")
    return _shaped(w, y, node)


def _is_factor_of(w: Writer, node: Node) -> bool:
    """Whether axes go and a factor follows, which is a Reduction's coefficient."""
    out, source = node.outputs[0], w.graph.shapes[node.inputs[0]]
    behind = w.graph.readers().get(out, [])
    return (
        len(w.graph.shapes[out]) < len(source)
        and out not in w.graph.outputs
        and len(behind) == 1
        and behind[0].op == "Mul"
        and any(scalar(w.graph, name) is not None for name in behind[0].inputs)
    )


def _product(w: Writer, x: str, axes: list[int]) -> str:
    """The product over axes, which have size 1 then: slices, and an Eltwise of them."""
    for axis in axes:
        if w.shape(x)[axis] > MOST_PIECES:
            raise Refused(f"it needs more than {MOST_PIECES} pieces of axis {axis}")
        if w.shape(x)[axis] > 1:
            parts = exact.slices(w, x, axis, range(1, w.shape(x)[axis]), hint="factors")
            x = w.eltwise("PROD", parts, hint="product")
    return x


def _log_sum_exp(w: Writer, x: str, axes: list[int]) -> str:
    """The largest, and the logarithm of the sum of what the others are below it: exp(89) is inf."""
    most = reduced(w, x, axes, "MAX")
    below = combined(w, [x, most], [1, -1], w.shape(x), "SUM")
    total = reduced(w, w.unary("Exp", below, hint="each"), axes, "SUM")
    return w.eltwise("SUM", [w.unary("Log", total, hint="log"), most])


def reduced(w: Writer, x: str, axes: list[int], method: str) -> str:
    """AVE, SUM or MAX over `axes`, which have size 1 then."""
    shape = w.shape(x)
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    if shape == kept and w.batch.get(x) not in axes:
        return x
    if axes == [2, 3] and len(shape) == 4 and method != "SUM":
        return over_map(w, x, method, kept)
    own = {"AVE": "MEAN", "SUM": "SUM"}.get(method)
    if own is not None and (y := _reduction(w, x, axes, own)) is not None:
        return w.reshape(y, kept)
    if w.batch.get(x) in axes:
        w.fix_batch()
    if axes == list(range(2, len(shape))) and method != "SUM":
        return over_map(w, x, method, kept)
    last = next(a for i, a in enumerate(axes) if i + 1 == len(axes) or axes[i + 1] != a + 1)
    run = [a for a in axes if a <= last]
    y = _reduce_axes(w, x, run[0], last + 1, "MAX" if method == "MAX" else "AVE")
    if method == "SUM":
        y = w.power(y, scale=float(math.prod(shape[run[0] : last + 1])), hint="count")
    return reduced(w, y, [a for a in axes if a > last], method) if run != axes else y


def _reduction(w: Writer, x: str, axes: list[int], operation: str) -> str | None:
    """A Reduction, which takes all axes from one on; None where it or the target does not fit."""
    axis, shape, batch = axes[0], w.shape(x), w.batch.get(x)
    if axes != list(range(axis, len(shape))):
        return None
    left = None if batch is None or batch >= axis else batch
    fields: dict[str, Any] = {"operation": operation} | ({"axis": axis} if axis else {})
    return w.tried(
        lambda: w.layer("Reduction", [x], shape[:axis], batch=left, reduction_param=fields)
    )


def _reduce_axes(w: Writer, x: str, begin: int, end: int, method: str) -> str:
    """Axes [begin, end) pooled: taken as (outer, 1, axes, inner)."""
    shape, batch = w.shape(x), w.batch.get(x)
    count = math.prod(shape[begin:end])
    kept: Dims = (*shape[:begin], *[1] * (end - begin), *shape[end:])
    if len(shape) == 4 and (begin, end) in ((2, 3), (3, 4)):
        y, inner = x, shape[5 - end]
        kernel = {"kernel_h": count, "kernel_w": 1} if begin == 2 else {
            "kernel_h": 1, "kernel_w": count}  # fmt: skip
        top: str = w.layer("Pooling", [y], kept, pooling_param={"pool": method, **kernel})
        return top
    outer, inner = math.prod(shape[:begin]), math.prod(shape[end:])
    inside = batch is not None and batch >= end
    to = None if batch is None else 3 if inside else 0
    y = w.reshape(x, (outer, 1, count, inner), hint="rows", batch=to)
    fields = {"pool": method, "kernel_h": count, "kernel_w": 1}
    y = w.layer("Pooling", [y], (outer, 1, 1, inner), pooling_param=fields)
    return w.reshape(y, kept, hint="back", batch=batch)
