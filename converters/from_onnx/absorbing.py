"""Reshapes around a layer that can say by an `axis` of its own what they say.

Steps as those of `merging.py`, which calls them last: what is left of Reshapes then is between
layers that want other shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from caffeio.converters.from_onnx.caffe_net import CaffeLayer, Writer
from caffeio.converters.from_onnx.graph import Dims
from caffeio.converters.from_onnx.rules import complaints
from caffeio.converters.from_onnx.wiring import SHAPES, makers, only_maker, readers
from caffeio.layers.window import axis_values
from caffeio.proto import caffe_pb2 as pb

_WINDOWS = ("Convolution", "Deconvolution")
_OPERATORS = ("Conv", "ConvTranspose")


def flat_products(w: Writer, keep: set[str]) -> bool:
    """An InnerProduct flattens by itself."""
    for layer in w.layers:
        if layer.type_name != "InnerProduct":
            continue
        before = only_maker(w, layer, keep, SHAPES)
        if before is None:
            continue
        source, flat = before.bottoms[0], before.tops[0]
        axis = layer.param.inner_product_param.axis
        same_rows = w.shape(source)[:axis] == w.shape(flat)[:axis] and len(w.shape(source)) > axis
        batch = w.batch.get(source)
        if same_rows and len(w.shape(flat)) == axis + 1 and (batch is None or batch < axis):
            layer.param.bottom[0] = source
            w.layers.remove(before)
            return True
    return False


def products_of_rows(w: Writer, keep: set[str]) -> bool:
    """An InnerProduct of rows that were one axis, and are several again, has a later axis."""
    for layer in w.layers:
        if layer.type_name != "InnerProduct" or layer.param.inner_product_param.axis != 1:
            continue
        around = _around(w, layer, keep)
        if around is None:
            continue
        source, behind = around
        shape, end = w.shape(source), w.shape(behind.tops[0])
        axis = len(end) - 1
        outputs = layer.param.inner_product_param.num_output
        rows = w.shape(layer.bottoms[0])[0]
        if axis < 1 or end != (*shape[:axis], outputs) or math.prod(shape[:axis]) != rows:
            continue
        batch = w.batch.get(source)
        if batch is not None and batch >= axis:
            continue
        param = _changed(layer, source, behind)
        param.inner_product_param.axis = axis
        if _put(w, layer, behind, param):
            return True
    return False


def windows_with_axis(w: Writer, keep: set[str]) -> bool:
    """A convolution between two Reshapes is one over other axes: fewer, or behind another one.

    Where nothing is left to slide over, one group is an InnerProduct. Convolutions that stand for
    other operators stay over maps, which every reader knows.
    """
    for layer in w.layers:
        own = layer.type_name in _WINDOWS and layer.operator in _OPERATORS
        around = _around(w, layer, keep) if own else None
        if around is None:
            continue
        source, behind = around
        for left in _axes_left(w, layer):
            begin = _begins(w, layer, source, behind, left)
            if begin is None:
                continue
            param = _changed(layer, source, behind)
            if not left and begin == 1 and _is_product(layer):
                _as_product(param, layer)
            else:
                _with_axes(param, layer, left, begin)
            if _put(w, layer, behind, param):
                _squeeze(layer, left)
                return True
    return False


def _around(w: Writer, layer: CaffeLayer, keep: set[str]) -> tuple[str, CaffeLayer] | None:
    """What the Reshape in front of a layer reads, and the Reshape behind it, the only reader."""
    bottom, top = layer.bottoms[0], layer.tops[0]
    before, after = makers(w).get(bottom), readers(w).get(top, [])
    if before is None or before.type_name not in SHAPES or bottom in keep:
        return None
    if top in keep or len(after) != 1 or after[0].type_name not in SHAPES:
        return None
    return before.bottoms[0], after[0]


def _axes_left(w: Writer, layer: CaffeLayer) -> Iterator[list[int]]:
    """Spatial axes of a convolution: all of them, then without those that do nothing."""
    sizes, windows = w.shape(layer.bottoms[0])[2:], _windows(layer)
    spatial = range(len(sizes))
    idle = [i for i in spatial if sizes[i] == 1 and windows[i] == (1, 0)]
    yield list(spatial)
    for count in range(1, len(idle) + 1):
        yield [i for i in spatial if i not in idle[-count:]]


def _windows(layer: CaffeLayer) -> list[tuple[int, int]]:
    """Kernel and pad of each spatial axis."""
    kernel = layer.blobs[0].shape[2:]
    pads = axis_values(layer.param.convolution_param, "pad", len(kernel), 0)
    return list(zip(kernel, pads, strict=True))


def _begins(
    w: Writer, layer: CaffeLayer, source: str, behind: CaffeLayer, left: list[int]
) -> int | None:
    """The axis of the source that holds the channels, if the rest fits."""
    bottom, top = w.shape(layer.bottoms[0]), w.shape(layer.tops[0])
    shape, end = w.shape(source), w.shape(behind.tops[0])
    axis = len(shape) - 1 - len(left)
    batch = w.batch.get(source)
    fits = (
        axis >= 0
        and math.prod(shape[:axis]) == bottom[0]
        and shape[axis:] == (bottom[1], *(bottom[2 + i] for i in left))
        and end == (*shape[:axis], top[1], *(top[2 + i] for i in left))
        and (batch is None or batch < axis)
        and w.batch.get(behind.tops[0]) == batch
    )
    return axis if fits else None


def _is_product(layer: CaffeLayer) -> bool:
    return layer.type_name == "Convolution" and layer.param.convolution_param.group == 1


def _changed(layer: CaffeLayer, source: str, behind: CaffeLayer) -> pb.LayerParameter:
    """A layer's message from `source` to where the Reshape behind it ends."""
    param = pb.LayerParameter()
    param.CopyFrom(layer.param)
    param.bottom[0], param.top[0] = source, behind.tops[0]
    return param


def _as_product(param: pb.LayerParameter, layer: CaffeLayer) -> None:
    p = layer.param.convolution_param
    param.ClearField("convolution_param")
    param.type = "InnerProduct"
    param.inner_product_param.num_output = p.num_output
    if not p.bias_term:
        param.inner_product_param.bias_term = False


def _with_axes(param: pb.LayerParameter, layer: CaffeLayer, left: list[int], begin: int) -> None:
    """Fields for the axes that are left; cuDNN takes two only."""
    p, old = param.convolution_param, layer.param.convolution_param
    if begin != 1:
        p.axis = begin
    kernel = layer.blobs[0].shape[2:]
    if len(left) == len(kernel):
        return
    p.engine = p.CAFFE
    for name, default in (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1)):
        values = axis_values(old, name, len(kernel), default)
        stem = name.removesuffix("_size")
        for field in (name, f"{stem}_h", f"{stem}_w"):
            p.ClearField(field)
        chosen = [values[i] for i in left] or ([1] if name == "kernel_size" else [])
        if name == "kernel_size" or any(n != default for n in chosen):
            getattr(p, name).extend(chosen[:1] if len(set(chosen)) == 1 else chosen)


def _squeeze(layer: CaffeLayer, left: list[int]) -> None:
    """Take the axes that went out of the weights."""
    weight = layer.blobs[0]
    kernel: Dims = tuple(weight.shape[2 + i] for i in left)
    layer.blobs[0] = np.ascontiguousarray(weight.reshape(*weight.shape[:2], *kernel))


def _put(w: Writer, layer: CaffeLayer, behind: CaffeLayer, param: pb.LayerParameter) -> bool:
    """Let a layer be as `param` says, without the Reshape behind it, if the target takes that."""
    shapes = [[w.shape(name) for name in names] for names in (param.bottom, param.top)]
    if any(complaints(w.target, param, *shapes)):
        return False
    layer.param.CopyFrom(param)
    w.layers.remove(behind)
    return True
