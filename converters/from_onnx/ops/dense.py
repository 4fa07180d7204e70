"""Gemm, MatMul and Gather from a constant table."""

from __future__ import annotations

import math

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import mix_channels, permute, take
from caffeio.converters.from_onnx.graph import Array, Node
from caffeio.converters.from_onnx.operands import combined, plus_constant
from caffeio.converters.from_onnx.table import operator

_TWO = "both of its matrices are computed; Caffe multiplies by constants only"


@operator("Gemm")
def gemm(w: Writer, node: Node) -> str:
    """An InnerProduct; alpha, beta and transB go into the weights."""
    a, b = (w.graph.constant(name) for name in node.inputs[:2])
    if b is None or a is not None:
        raise Refused(_TWO if a is None else "its first matrix is the constant one")
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    weight = b if alpha == 1 else b.astype(np.float64) * alpha
    weight = weight if node.attrs.get("transB", 0) else weight.T
    x = w.blob(node.inputs[0])
    if node.attrs.get("transA", 0):
        x = permute(w, x, (1, 0))
    bias: Array | None = None
    rest: Array | None = None
    added = w.graph.constant(node.inputs[2]) if node.input(2) else None
    if added is not None:
        if added.size in (1, weight.shape[0]) and math.prod(added.shape[:-1]) == 1:
            bias = np.broadcast_to(added.reshape(-1) * beta, (weight.shape[0],))
        else:
            rest = added.astype(np.float64) * beta
    y = inner_product(w, x, weight, bias, 1)
    if node.input(2) and added is None:
        out = w.shape(y)
        return combined(w, [y, w.blob(node.inputs[2])], [1.0, beta], out, "SUM")
    return y if rest is None else plus_constant(w, y, rest, w.shape(y))


def inner_product(w: Writer, x: str, weight: Array, bias: Array | None, axis: int) -> str:
    """An InnerProduct over the axes from `axis` on with weights (out, in)."""
    shape = w.shape(x)
    if w.batch.get(x) is not None and int(w.batch[x] or 0) >= axis:
        w.fix_batch()
    if axis != 1 and w.target.rule("product_axis_1") and axis == len(shape) - 1:
        batch = w.batch.get(x)
        rows = w.reshape(
            x, (math.prod(shape[:-1]), shape[-1]), "rows", None if batch is None else 0
        )
        y = inner_product(w, rows, weight, bias, 1)
        return w.reshape(y, (*shape[:-1], weight.shape[0]), hint="back", batch=batch)
    fields: dict[str, object] = {"num_output": weight.shape[0]}
    if bias is None:
        fields["bias_term"] = False
    if axis != 1:
        fields["axis"] = axis
    blobs = [weight] if bias is None else [weight, bias]
    top: str = w.layer(
        "InnerProduct", [x], (*shape[:axis], weight.shape[0]), blobs=blobs,
        inner_product_param=fields,
    )  # fmt: skip
    return top


@operator("MatMul")
def matmul(w: Writer, node: Node) -> str:
    """An InnerProduct over the last axis; a constant on the left mixes the axis before it."""
    a, b = (w.graph.constant(name) for name in node.inputs[:2])
    out = w.graph.shapes[node.outputs[0]]
    bias = w.graph.constant(node.input(2)) if node.input(2) else None
    if a is None and b is None:
        raise Refused(_TWO)
    if b is not None:
        return _by_right(w, w.blob(node.inputs[0]), b, bias)
    assert a is not None
    x = w.blob(node.inputs[1])
    shape = w.shape(x)
    if a.ndim > 2 and math.prod(a.shape[:-2]) == 1:
        a = a.reshape(a.shape[-2:])
    if a.ndim != 2 or len(shape) < 2:
        raise Refused("a constant of other than two axes is its first matrix")
    *outer, rows, columns = shape
    batch = 0 if w.batch.get(x) is not None and w.batch[x] in range(len(outer)) else None
    y = w.reshape(x, (math.prod(outer), rows, columns, 1), hint="rows", batch=batch)
    y = mix_channels(w, y, a, hint="left")
    return w.reshape(y, out, batch=w.batch.get(x))


def _by_right(w: Writer, x: str, b: Array, bias: Array | None) -> str:
    shape = w.shape(x)
    if b.ndim > 2 and math.prod(b.shape[:-2]) == 1 and b.ndim <= len(shape):
        b = b.reshape(b.shape[-2:])
    if b.ndim == 1:
        b = b[:, None]
        y = _by_right(w, x, b, bias)
        return w.reshape(y, w.shape(y)[:-1])
    if b.ndim != 2:
        raise Refused("a stack of constant matrices is its second one")
    return inner_product(w, x, b.T, bias, len(shape) - 1)


@operator("Gather")
def gather(w: Writer, node: Node) -> str:
    """Constant indices: pieces along the axis; a constant table and computed indices: Embed."""
    table, indices = (w.graph.constant(name) for name in node.inputs[:2])
    axis = int(node.attrs.get("axis", 0))
    out = w.graph.shapes[node.outputs[0]]
    if indices is not None:
        x = w.blob(node.inputs[0])
        axis %= len(w.shape(x))
        size = w.shape(x)[axis]
        if w.batch.get(x) == axis:
            w.fix_batch()
        chosen = [int(i) % size for i in indices.reshape(-1)]
        batch = w.batch.get(x)
        if batch is not None and batch > axis:
            batch += indices.ndim - 1
        return w.reshape(take(w, x, axis, chosen), out, batch=batch)
    if table is None and axis == 0 and len(w.graph.shape(node.inputs[1])) == 1:
        blobs = [w.blob(name) for name in node.inputs[:2]]
        picked: str = w.layer("BatchReindex", blobs, out, batch=None)
        return picked
    if table is None or axis != 0 or table.ndim != 2:
        raise Refused(
            "its indices are computed",
            "cut the graph in front of it with --output-blob, or give the "
            "indices as constants"
        )  # fmt: skip
    fields = {"input_dim": table.shape[0], "num_output": table.shape[1], "bias_term": False}
    top: str = w.layer("Embed", [w.blob(node.inputs[1])], out, blobs=[table], embed_param=fields)
    return top
