"""Layers that undo each other go, neighbours that are one layer become one, ReLU goes in place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.caffe_net import CaffeLayer, Writer
from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.from_onnx.names import plain

_SHAPES = ("Reshape", "Flatten")
# Layers whose top has memory of its own (that of a Reshape or a Slice is its bottom's) and whose
# backward pass does not read it.
_OWN_MEMORY = ("Convolution", "Deconvolution", "InnerProduct", "Eltwise", "BatchNorm", "Scale",
               "Bias", "Pooling", "LRN", "Concat")  # fmt: skip
_IN_PLACE = ("ReLU", "BatchNorm", "Scale")


def finish(w: Writer, outputs: Iterable[str]) -> None:
    """Tidy the net up; blobs in `outputs` keep their values and names."""
    keep = set(outputs)
    while any(step(w, keep) for step in STEPS):
        pass
    _drop_unread(w, keep)
    _in_place(w, keep)


def readers(w: Writer) -> dict[str, list[CaffeLayer]]:
    """Blob -> the layers that read it."""
    out: dict[str, list[CaffeLayer]] = {}
    for layer in w.layers:
        for name in layer.bottoms:
            out.setdefault(name, []).append(layer)
    return out


def _makers(w: Writer) -> dict[str, CaffeLayer]:
    return {top: layer for layer in w.layers for top in layer.tops}


def _may_go(w: Writer, source: str, keep: set[str]) -> bool:
    """Whether a blob may take the name of an output that equals it."""
    maker = _makers(w).get(source)
    alone = len(readers(w).get(source, [])) == 1 and source not in keep
    return maker is not None and maker.type_name != "Input" and alone


def _remove(w: Writer, layer: CaffeLayer, keep: set[str]) -> bool:
    """Take out a layer whose top equals its bottom, if the output's name can stay."""
    source, top = layer.bottoms[0], layer.tops[0]
    if top not in keep:
        w.layers.remove(layer)
        _bypass(w, top, source)
        return True
    if not _may_go(w, source, keep):
        return False
    w.layers.remove(layer)
    _rename(w, source, top)
    return True


def _bypass(w: Writer, old: str, new: str) -> None:
    for layer in w.layers:
        for i, name in enumerate(layer.param.bottom):
            if name == old:
                layer.param.bottom[i] = new


def _before(
    w: Writer, layer: CaffeLayer, keep: set[str], kinds: tuple[str, ...]
) -> CaffeLayer | None:
    """The layer that makes the only bottom, if nothing else reads it and it is of those kinds."""
    name = layer.bottoms[0]
    maker = _makers(w).get(name)
    if maker is None or maker.type_name not in kinds or name in keep:
        return None
    return maker if len(readers(w).get(name, [])) == 1 and len(maker.tops) == 1 else None


def _reshapes(w: Writer, keep: set[str]) -> bool:
    """A Reshape of a Reshape is one, or none."""
    for index, layer in enumerate(w.layers):
        if layer.type_name not in _SHAPES:
            continue
        before = _before(w, layer, keep, _SHAPES)
        if before is None:
            continue
        source, top = before.bottoms[0], layer.tops[0]
        same = w.shape(source) == w.shape(top) and w.batch.get(source) == w.batch.get(top)
        if same and top not in keep:
            w.layers.remove(before)
            w.layers.remove(layer)
            _bypass(w, top, source)
            return True
        if same:
            if not _may_go(w, source, keep):
                continue
            w.layers.remove(before)
            w.layers.remove(layer)
            _rename(w, source, top)
            return True
        w.layers.remove(before)
        _rewrite(w, index - 1, layer, source)
        return True
    return False


def _rewrite(w: Writer, index: int, layer: CaffeLayer, source: str) -> None:
    """Let a Reshape begin at `source`."""
    top = layer.tops[0]
    w.stem = layer.param.name
    w.reshape(source, w.shape(top), batch=w.batch.get(top))
    made = w.layers.pop()
    made.param.name = layer.param.name
    del made.param.top[:]
    made.param.top.append(top)
    w.layers[index] = made


def _flat_products(w: Writer, keep: set[str]) -> bool:
    """An InnerProduct flattens by itself."""
    for layer in w.layers:
        if layer.type_name != "InnerProduct" or layer.param.inner_product_param.axis != 1:
            continue
        before = _before(w, layer, keep, _SHAPES)
        if before is None:
            continue
        source, flat = before.bottoms[0], before.tops[0]
        same_rows = w.shape(source)[:1] == w.shape(flat)[:1] and len(w.shape(flat)) == 2
        if same_rows and w.batch.get(source) in (0, None) and len(w.shape(source)) > 1:
            layer.param.bottom[0] = source
            w.layers.remove(before)
            return True
    return False


def _powers(w: Writer, keep: set[str]) -> bool:
    """Lines of lines are lines; what changes nothing goes."""
    for layer in w.layers:
        if layer.type_name != "Power":
            continue
        p = layer.param.power_param
        if (p.power, p.scale, p.shift) == (1, 1, 0) and _remove(w, layer, keep):
            return True
        before = _before(w, layer, keep, ("Power",))
        if before is None or before.param.power_param.power != 1 or p.scale == 0:
            continue
        q = before.param.power_param
        scale, shift = p.scale * q.scale, p.scale * q.shift + p.shift
        fields = {"power": p.power, "scale": scale, "shift": shift}
        p.Clear()
        for name, value in fields.items():
            if value != (0.0 if name == "shift" else 1.0):
                setattr(p, name, value)
        layer.param.bottom[0] = before.bottoms[0]
        w.layers.remove(before)
        return True
    return False


def _scale_bias(w: Writer, keep: set[str]) -> bool:
    """A Bias behind a Scale over the same axes is the Scale's own."""
    for layer in w.layers:
        if layer.type_name != "Bias" or len(layer.bottoms) != 1:
            continue
        before = _before(w, layer, keep, ("Scale",))
        if before is None or len(before.bottoms) != 1 or len(before.blobs) != 1:
            continue
        s, b = before.param.scale_param, layer.param.bias_param
        if (s.axis, s.num_axes) != (b.axis, b.num_axes):
            continue
        before.blobs.append(layer.blobs[0])
        s.bias_term = True
        del before.param.top[:]
        before.param.top.append(layer.tops[0])
        w.layers.remove(layer)
        return True
    return False


def _scales(w: Writer, keep: set[str]) -> bool:
    """Factors one behind the other are one; factors of 1 go."""
    for layer in w.layers:
        if layer.type_name not in ("Scale", "Power") or not _only_factor(layer):
            continue
        ones = layer.type_name == "Scale" and np.allclose(layer.blobs[0], 1, rtol=2e-7, atol=0)
        if ones and _remove(w, layer, keep):
            return True
        before = _before(w, layer, keep, ("Scale", "Power"))
        if (
            before is None
            or not _only_factor(before)
            or (before.type_name, layer.type_name) == ("Power",) * 2
        ):
            continue
        a, b = layer.param.scale_param, before.param.scale_param
        if before.type_name == layer.type_name and (a.axis, a.num_axes) != (b.axis, b.num_axes):
            continue
        kept, gone = (before, layer) if layer.type_name == "Power" else (layer, before)
        other: Array | float = (
            gone.blobs[0] if gone.type_name == "Scale" else gone.param.power_param.scale
        )
        product = np.asarray(kept.blobs[0], np.float64) * other
        kept.blobs[0] = product.astype(np.float32)
        if kept is before:
            kept.param.top[0] = layer.tops[0]
        else:
            kept.param.bottom[0] = before.bottoms[0]
        w.layers.remove(gone)
        return True
    return False


def _only_factor(layer: CaffeLayer) -> bool:
    if layer.type_name == "Power":
        p = layer.param.power_param
        return bool(p.power == 1 and p.shift == 0 and p.scale != 0)
    return len(layer.bottoms) == 1 and len(layer.blobs) == 1


def _logarithms(w: Writer, keep: set[str]) -> bool:
    """A line in front of an Exp or Log, and a factor behind, are fields of it."""
    for layer in w.layers:
        if layer.type_name in ("Exp", "Log"):
            p = layer.param.exp_param if layer.type_name == "Exp" else layer.param.log_param
            before = _before(w, layer, keep, ("Power",))
            if before is not None and before.param.power_param.power == 1 and not p.ListFields():
                q = before.param.power_param
                p.scale, p.shift = q.scale, q.shift
                layer.param.bottom[0] = before.bottoms[0]
                w.layers.remove(before)
                return True
        elif (
            layer.type_name == "Power" and layer.param.power_param.scale > 0 and _only_factor(layer)
        ):
            inner = _before(w, layer, keep, ("Exp", "Log"))
            factor = layer.param.power_param.scale
            if inner is None:
                continue
            if inner.type_name == "Exp" and inner.param.exp_param.base == -1:
                inner.param.exp_param.shift += math.log(factor)
            elif inner.type_name == "Log" and inner.param.log_param.base == -1 and factor != 1:
                inner.param.log_param.base = math.exp(1 / factor)
            else:
                continue
            inner.param.top[0] = layer.tops[0]
            w.layers.remove(layer)
            return True
    return False


def _reductions(w: Writer, keep: set[str]) -> bool:
    """A factor behind a Reduction is its coefficient."""
    for layer in w.layers:
        if layer.type_name != "Power" or not _only_factor(layer):
            continue
        before = _before(w, layer, keep, ("Reduction",))
        if before is not None:
            before.param.reduction_param.coeff *= layer.param.power_param.scale
            before.param.top[0] = layer.tops[0]
            w.layers.remove(layer)
            return True
    return False


def _sums(w: Writer, keep: set[str]) -> bool:
    """Eltwise of Eltwise is one with more bottoms, in the same order of adding."""
    for layer in w.layers:
        if layer.type_name != "Eltwise":
            continue
        p = layer.param.eltwise_param
        before = _before(w, layer, keep, ("Eltwise",))
        if before is None or layer.bottoms.count(layer.bottoms[0]) > 1:
            continue
        q = before.param.eltwise_param
        mine = list(p.coeff) or [1.0] * len(layer.bottoms)
        theirs = list(q.coeff) or [1.0] * len(before.bottoms)
        if p.operation != q.operation or mine[0] != 1:
            continue
        bottoms = [*before.bottoms, *layer.bottoms[1:]]
        del layer.param.bottom[:], p.coeff[:]
        layer.param.bottom.extend(bottoms)
        coeff = [*theirs, *mine[1:]]
        if any(c != 1 for c in coeff):
            p.coeff.extend(coeff)
        w.layers.remove(before)
        return True
    return _coefficients(w, keep)


def _coefficients(w: Writer, keep: set[str]) -> bool:
    """A Power that only multiplies is a coefficient of the sum behind it."""
    makers, reads = _makers(w), readers(w)
    for layer in w.layers:
        p = layer.param.eltwise_param
        if layer.type_name != "Eltwise" or p.operation != p.SUM:
            continue
        for i, name in enumerate(layer.bottoms):
            maker = makers.get(name)
            if maker is None or maker.type_name != "Power" or name in keep or len(reads[name]) != 1:
                continue
            q = maker.param.power_param
            if q.power != 1 or q.shift != 0:
                continue
            coeff = list(p.coeff) or [1.0] * len(layer.bottoms)
            coeff[i] *= q.scale
            del p.coeff[:]
            p.coeff.extend(coeff)
            layer.param.bottom[i] = maker.bottoms[0]
            w.layers.remove(maker)
            return True
    return False


STEPS = (
    _reshapes, _flat_products, _powers, _scales, _scale_bias, _sums, _logarithms, _reductions,
)  # fmt: skip


def _drop_unread(w: Writer, keep: set[str]) -> None:
    """Layers whose tops nobody reads go; a Silence reads what is left of others."""
    while True:
        reads = readers(w)
        quiet = {n for layer in w.layers if layer.type_name == "Silence" for n in layer.bottoms}

        def used(name: str, reads: dict[str, Any] = reads, quiet: set[str] = quiet) -> bool:
            return name in keep or any(r.type_name != "Silence" for r in reads.get(name, []))

        gone = [
            layer
            for layer in w.layers
            if layer.type_name != "Input" and layer.tops and not any(map(used, layer.tops))
        ]
        if not gone:
            break
        tops = {top for layer in gone for top in layer.tops}
        w.layers = [layer for layer in w.layers if layer not in gone]
        for layer in list(w.layers):
            if layer.type_name == "Silence":
                rest = [name for name in layer.bottoms if name not in tops]
                del layer.param.bottom[:]
                layer.param.bottom.extend(rest)
                if not rest:
                    w.layers.remove(layer)


def _in_place(w: Writer, keep: set[str]) -> None:
    """ReLU, BatchNorm and Scale write over their bottom where nobody else reads it."""
    reads, makers = readers(w), _makers(w)
    for layer in w.layers:
        if layer.type_name not in _IN_PLACE or len(layer.bottoms) != 1:
            continue
        name, top = layer.bottoms[0], layer.tops[0]
        maker = makers.get(name)
        fits = maker is not None and maker.type_name in _OWN_MEMORY + _IN_PLACE
        if not fits or name in keep or len(reads[name]) != 1:
            continue
        if maker is not None and maker.type_name == "Concat" and len(maker.bottoms) == 1:
            continue
        layer.param.top[0] = name
        makers[name] = layer
        reads[name] = reads.get(top, [])
        for other in reads[name]:
            for i, bottom in enumerate(other.param.bottom):
                if bottom == top:
                    other.param.bottom[i] = name
        if top in keep:  # the chain has the output's name from its beginning
            _rename(w, name, top)
            makers[top], reads[top] = layer, []


def _rename(w: Writer, old: str, new: str) -> None:
    for layer in w.layers:
        for names in (layer.param.bottom, layer.param.top):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    w.shapes[new] = w.shapes[old]


def name_blob(w: Writer, blob: str, wanted: str) -> str:
    """Call an output's blob, and the layer that makes it, as the model does; returns the name.

    A name that is taken leaves the blob's as it is.
    """
    name = plain(wanted)
    taken = {n for layer in w.layers for n in (*layer.bottoms, *layer.tops)}
    if name != blob and name not in taken:
        _rename(w, blob, name)
        blob = name
    last = [layer for layer in w.layers if blob in layer.tops][-1]
    names = {layer.param.name for layer in w.layers}
    if len(last.tops) == 1 and last.type_name != "Input" and blob not in names:
        last.param.name = blob
    return blob
