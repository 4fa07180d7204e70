"""Sums and products of two blobs of different shapes, and of a blob and constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffeio.converters.from_onnx import exact
from caffeio.converters.from_onnx.caffe_net import Writer
from caffeio.converters.from_onnx.graph import Array, Dims
from caffeio.converters.from_onnx.rules import takes_operand
from caffeio.converters.from_onnx.wiring import SHAPES


def _aligned(array: Array, rank: int) -> Array:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def plus_constant(w: Writer, x: str, array: Array, out: Dims) -> str:
    """`x` + constants: Power for one number, Bias for a run of axes."""
    if array.size == 1 and len(out) == len(w.shape(x)):
        return w.power(x, shift=float(array.reshape(())))
    return _with_constant(w, x, array, out, "Bias")


def times_constant(w: Writer, x: str, array: Array, out: Dims) -> str:
    """`x` * constants: Power for one number, Scale for a run of axes."""
    if array.size == 1 and len(out) == len(w.shape(x)):
        return w.power(x, scale=float(array.reshape(-1)[0]))
    return _with_constant(w, x, array, out, "Scale")


def _with_constant(w: Writer, x: str, array: Array, out: Dims, kind: str) -> str:
    x = grown(w, x, out)
    array = _aligned(array, len(out))
    wide = [i for i, n in enumerate(array.shape) if n != 1]
    begin, end = (wide[0], wide[-1] + 1) if wide else (1 if len(out) > 1 else 0, 1)
    if begin == 0 and w.batch.get(x) == 0:
        w.fix_batch()
    run = np.broadcast_to(array, (*array.shape[:begin], *out[begin:end], *array.shape[end:]))
    blob = run.reshape(out[begin:end]) if wide else run.reshape(-1)[:1]
    if not wide:
        return (
            w.power(x, shift=float(blob[0])) if kind == "Bias" else w.power(x, scale=float(blob[0]))
        )
    fields: Any = {} if begin == 1 else {"axis": begin}
    if end - begin != 1:
        fields["num_axes"] = end - begin
    if kind == "Scale":
        return w.scale(x, [blob], fields)
    if not w.target.has("Bias"):
        return w.scale(x, [np.ones_like(blob), blob], {**fields, "bias_term": True})
    top: str = w.layer("Bias", [x], out, blobs=[blob], bias_param=fields)
    return top


def grown(w: Writer, x: str, out: Dims) -> str:
    """`x` with as many axes as `out`, repeated along those where it has 1."""
    have, batch = w.shape(x), w.batch.get(x)
    more = len(out) - len(have)
    if more:
        to = None if batch is None else batch + more
        x = w.reshape(x, (1,) * more + have, batch=to)
    return exact.spread(w, x, out)


def combined(w: Writer, xs: list[str], coeff: list[float], out: Dims, operation: str) -> str:
    """An Eltwise; the smaller of two blobs by a Scale or Bias with two bottoms, else repeated."""
    shapes = [w.shape(x) for x in xs]
    if len(xs) == 1 and coeff == [1.0]:
        return grown(w, xs[0], out)
    if all(shape == out for shape in shapes):
        return w.eltwise(operation, xs, coeff if operation == "SUM" else ())
    if len(xs) == 2 and operation != "MAX" and out in shapes:
        large = shapes.index(out)
        top = _two_bottoms(w, xs[large], xs[1 - large], coeff[large], coeff[1 - large], operation)
        if top is not None:
            return top
    xs = [grown(w, x, out) for x in xs]
    return w.eltwise(operation, xs, coeff if operation == "SUM" else ())


def _two_bottoms(w: Writer, x: str, small: str, cx: float, cs: float, operation: str) -> str | None:
    """A Scale or Bias whose second bottom covers some axes of the first; None if it cannot."""
    if operation == "SUM" and not w.target.has("Bias"):
        return None
    shape = w.shape(x)
    cover = min(_covers(w, x, small), key=lambda one: one.rank, default=None)
    if cover is None:
        return None
    if not cover.any_batch:
        w.fix_batch()
    x, small = w.power(x, scale=cx, hint="sign"), w.power(small, scale=cs, hint="minus")
    small = w.reshape(small, cover.shape, hint="factor", batch=cover.batch)
    kind, param = ("Scale", "scale_param") if operation == "PROD" else ("Bias", "bias_param")
    fields: Any = {} if cover.begin == 1 else {"axis": cover.begin}
    top: str = w.layer(kind, [x, small], shape, **{param: fields})
    return top


@dataclass
class _Cover:
    """A shape in which the second bottom stands for axes of the first, from `begin` on.

    `batch` is the axis of the shape that grows with the batch; the lowest `rank` is the best.
    """

    begin: int
    shape: Dims
    batch: int | None
    any_batch: bool
    rank: tuple[bool, bool, bool, int, int]


def _covers(w: Writer, x: str, small: str) -> Iterator[_Cover]:
    """All shapes that a blob may have as the second bottom of a Scale or Bias of `x`.

    Best are those that hold for every batch, then those that need no Reshape, then those that keep
    the axis that grows with it, then those that begin at the first axis.
    """
    shape, have = w.shape(x), w.shape(small)
    more = len(shape) - len(have)
    full = (1,) * more + have
    wide = [axis for axis, n in enumerate(full) if n != 1]
    ready, grows = {have, _source_shape(w, small)}, w.batch.get(small)
    at = None if grows is None else grows + more
    for begin in range(wide[0] + 1 if wide else len(shape)):
        for end in range(wide[-1] + 1 if wide else begin + 1, len(shape) + 1):
            if full[begin:end] != shape[begin:end]:
                continue
            if not takes_operand(w.target, begin, end - begin):
                continue
            inside = at is not None and begin <= at < end
            mine = w.batch.get(x)
            fits = at == mine if mine is not None and begin <= mine < end else at is None
            lost = at is not None and not inside
            rank = (not fits, full[begin:end] not in ready, lost, begin, end)
            batch = at - begin if at is not None and inside else None
            yield _Cover(begin, full[begin:end], batch, fits, rank)
    if not wide and takes_operand(w.target, 0, 0):
        rank = (at is not None, () not in ready, at is not None, len(shape), 0)
        yield _Cover(1, (), None, at is None, rank)


def _source_shape(w: Writer, blob: str) -> Dims:
    """The shape of what a Reshape made a blob of, else the blob's own."""
    maker = next((layer for layer in reversed(w.layers) if blob in layer.tops), None)
    if maker is None or maker.type_name not in SHAPES:
        return w.shape(blob)
    return w.shape(maker.bottoms[0])
