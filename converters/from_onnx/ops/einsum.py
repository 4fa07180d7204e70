"""Products with a constant matrix along one axis or several: Einsum, CumSum, GatherND, Trilu."""

from __future__ import annotations

import math

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import mix_channels, permute
from caffeio.converters.from_onnx.graph import Array, Node
from caffeio.converters.from_onnx.operands import times_constant
from caffeio.converters.from_onnx.ops.dense import inner_product
from caffeio.converters.from_onnx.ops.reduce import reduced
from caffeio.converters.from_onnx.table import CUT, operator

_MOST = 1 << 22  # numbers of a matrix that only picks
_LONGEST = 4096  # of an axis that is summed up by a matrix


def along(w: Writer, x: str, axis: int, matrix: Array) -> str:
    """One axis multiplied by a matrix (out, in): an InnerProduct, or a 1x1 Convolution."""
    shape, batch = w.shape(x), w.batch.get(x)
    if batch == axis:
        w.fix_batch()
    if axis == len(shape) - 1 and axis > 0:
        return inner_product(w, x, matrix, None, axis)
    if axis == 1 and len(shape) == 4:
        return mix_channels(w, x, matrix)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    to = None if batch is None or batch == axis else 0 if batch < axis else 2
    y = w.reshape(x, (outer, shape[axis], inner, 1), hint="rows", batch=to)
    y = mix_channels(w, y, matrix)
    return w.reshape(y, (*shape[:axis], len(matrix), *shape[axis + 1 :]), hint="back", batch=batch)


@operator("Einsum")
def einsum(w: Writer, node: Node) -> str:
    """One blob, and at most one constant: a product, a sum, and an order of axes."""
    terms, right = _terms(node)
    computed = [i for i, name in enumerate(node.inputs) if w.graph.constant(name) is None]
    if len(node.inputs) > 2 or len(computed) != 1:
        raise Refused("Caffe multiplies no two computed matrices", CUT)
    x, labels = w.blob(node.inputs[computed[0]]), terms[computed[0]]
    if len(terms) == 1:
        x, labels = _summed(w, x, labels, right)
        return permute(w, x, [labels.index(label) for label in right])
    other = 1 - computed[0]
    array = w.graph.constant(node.inputs[other])
    assert array is not None
    factor, names = np.asarray(array, np.float64), terms[other]
    sizes = dict(zip(labels, w.shape(x), strict=True))
    if any(sizes.get(label, n) != n for label, n in zip(names, factor.shape, strict=True)):
        raise Refused("its factors differ in a size")
    for label in sorted(set(names) - set(right) - set(labels)):
        factor = factor.sum(names.index(label))
        names = names.replace(label, "")
    x, labels = _summed(w, x, labels, right + names)
    summed = [label for label in names if label not in right]
    if not summed:
        return _scaled(w, x, labels, factor, names, right)
    if set(names) & set(labels) & set(right):
        raise Refused("a stack of constant matrices is one of its factors")
    return _contracted(w, x, labels, factor, names, right)


def _terms(node: Node) -> tuple[list[str], str]:
    """The labels of the inputs and of the output."""
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if "." in left + right or any(len(set(term)) < len(term) for term in (*terms, right)):
        raise Refused("it has an ellipsis or a diagonal", "write it without")
    return terms, right


def _summed(w: Writer, x: str, labels: str, keep: str) -> tuple[str, str]:
    """The blob without the axes that are not asked for."""
    gone = [i for i, label in enumerate(labels) if label not in keep]
    if not gone:
        return x, labels
    y, batch = reduced(w, x, gone, "SUM"), w.batch.get(x)
    shape = tuple(n for i, n in enumerate(w.shape(y)) if i not in gone)
    to = None if batch is None or batch in gone else batch - sum(i < batch for i in gone)
    left = "".join(label for label in labels if label in keep)
    return w.reshape(y, shape, hint="summed", batch=to), left


def _scaled(w: Writer, x: str, labels: str, factor: Array, names: str, right: str) -> str:
    """No sum: the blob in the output's order, times the constant."""
    y = permute(w, x, [labels.index(label) for label in right if label in labels])
    sizes = dict(zip(labels, w.shape(x), strict=True)) | dict(zip(names, factor.shape, strict=True))
    shape, batch = tuple(sizes[c] if c in labels else 1 for c in right), w.batch.get(y)
    if batch is not None:
        batch = right.index([c for c in right if c in labels][batch])
    y = w.reshape(y, shape, hint="axes", batch=batch)
    array = factor.transpose([names.index(c) for c in right if c in names])
    array = array.reshape([sizes[c] if c in names else 1 for c in right])
    return times_constant(w, y, array, tuple(sizes[c] for c in right))


def _contracted(w: Writer, x: str, labels: str, factor: Array, names: str, right: str) -> str:
    """A sum over the labels that both have and the output has not."""
    summed = [c for c in labels if c in names]
    new = [c for c in names if c not in summed]
    array = factor.transpose([names.index(c) for c in (*new, *summed)])
    matrix = array.reshape(math.prod(array.shape[: len(new)]), -1)
    if len(summed) == 1 and len(new) == 1:
        y = along(w, x, labels.index(summed[0]), matrix)
        now = labels.replace(summed[0], new[0])
        return permute(w, y, [now.index(c) for c in right])
    kept = [c for c in labels if c not in summed]
    if not kept:
        raise Refused("nothing of its computed factor is left")
    y = permute(w, x, [labels.index(c) for c in (*kept, *summed)])
    batch = w.batch.get(y)
    if batch is not None and batch >= len(kept):
        w.fix_batch()
        batch = None
    shape = w.shape(y)[: len(kept)]
    y = w.reshape(y, (*shape, matrix.shape[1]), hint="rows", batch=batch)
    y = inner_product(w, y, matrix, None, len(kept))
    y = w.reshape(y, (*shape, *array.shape[: len(new)]), hint="back", batch=batch)
    now = "".join((*kept, *new))
    return permute(w, y, [now.index(c) for c in right])


@operator("CumSum")
def cum_sum(w: Writer, node: Node) -> str:
    """Running sums: a product with a triangle of ones."""
    found = w.graph.constant(node.inputs[1])
    if found is None:
        raise Refused("its axis is computed")
    x = w.blob(node.inputs[0])
    axis = int(found.reshape(())) % len(w.shape(x))
    size = w.shape(x)[axis]
    if size > _LONGEST:
        raise Refused(f"it sums up an axis of {size} (at most {_LONGEST})", CUT)
    ones = np.tril(np.ones((size, size)), -1 if node.attrs.get("exclusive", 0) else 0)
    return along(w, x, axis, ones[::-1, ::-1] if node.attrs.get("reverse", 0) else ones)


@operator("Trilu")
def trilu(w: Writer, node: Node) -> str:
    """The part above or below a diagonal: a product with ones and zeros."""
    offset = w.graph.number(node, "k", 1, 0)
    if offset is None:
        raise Refused("its diagonal is computed")
    x = w.blob(node.inputs[0])
    if w.batch.get(x) in (len(w.shape(x)) - 2, len(w.shape(x)) - 1):
        w.fix_batch()
    part = np.triu if node.attrs.get("upper", 1) else np.tril
    return times_constant(w, x, part(np.ones(w.shape(x)[-2:]), int(offset)), w.shape(x))


@operator("GatherND")
def gather_nd(w: Writer, node: Node) -> str:
    """Constant places of the first axes: a product with a matrix that has one 1 a row."""
    found, out = w.graph.constant(node.inputs[1]), node.outputs[0]
    if found is None or node.attrs.get("batch_dims", 0):
        raise Refused("Caffe picks nothing by computed indices", CUT)
    x = w.blob(node.inputs[0])
    shape, batch, depth = w.shape(x), w.batch.get(x), found.shape[-1]
    rows = math.prod(shape[:depth])
    places = np.moveaxis(found.astype(np.int64), -1, 0) % np.reshape(
        shape[:depth], (depth, *[1] * (found.ndim - 1))
    )
    picked = np.ravel_multi_index(tuple(places), shape[:depth]).reshape(-1)
    if picked.size * rows > _MOST:
        raise Refused(f"it picks {picked.size} of {rows} places", CUT)
    if batch is not None and batch < depth:
        w.fix_batch()
    to = None if batch is None or batch < depth else batch - depth + 1
    matrix = np.zeros((picked.size, rows), np.float32)
    matrix[np.arange(picked.size), picked] = 1
    y = along(w, w.reshape(x, (rows, *shape[depth:]), hint="places", batch=to), 0, matrix)
    return w.reshape(y, w.graph.shapes[out], batch=None if to is None else w.graph.batch_axis(out))
