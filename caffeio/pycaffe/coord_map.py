"""Which pixel of one blob lies on which pixel of another: to crop nets such as FCN to fit.

A map is (axis, scale, shift): the first spatial axis less one, or None if every axis is meant, and
output coordinate = scale * input coordinate + shift, one number for each spatial axis.

Source of the behaviour and the formulas: python/caffe/coord_map.py (BVLC).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.pycaffe.net_spec import Function, Top
from caffeio.pycaffe.net_spec import layers as L

Map = tuple[Any, Any, Any]
IDENTITY: Map = (None, 1, 0)
PASS_THROUGH_LAYERS = [
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN",
    "Power", "ReLU", "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold",
]  # fmt: skip
_LEGACY = frozenset(("pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"))


class UndefinedMapException(Exception):  # noqa: N818 (pycaffe's names)
    """The layer has no map of coordinates."""


class AxisMismatchException(Exception):  # noqa: N818
    """Two maps begin at different axes."""


def conv_params(fn: Function) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Axis, stride, extent of the kernel (dilation counted in) and pad of a layer with windows."""
    params = fn.params.get("convolution_param", fn.params)
    assert not _LEGACY & set(fn.params), "cropping does not support legacy _h/_w params"

    def number(name: str, default: int) -> NDArray[Any]:
        return np.array(params.get(name, default), ndmin=1)

    extent = (np.array(params["kernel_size"], ndmin=1) - 1) * number("dilation", 1) + 1
    return params.get("axis", 1), number("stride", 1), extent, number("pad", 0)


def crop_params(fn: Function) -> tuple[Any, NDArray[Any]]:
    """Axis and offset of a Crop layer."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> Map:
    """The map of one layer. Raises UndefinedMapException for a type that has none."""
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return axis, stride, (extent - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException


def compose(base_map: Map, next_map: Map) -> Map:
    """The map that goes first `next_map`'s way and then `base_map`'s.

    Raises AxisMismatchException if both name an axis and the axes differ.
    """
    base_axis, base_scale, base_shift = base_map
    next_axis, next_scale, next_shift = next_map
    if None not in (base_axis, next_axis) and base_axis != next_axis:
        raise AxisMismatchException
    axis = next_axis if base_axis is None else base_axis
    return axis, base_scale * next_scale, base_scale * next_shift + base_shift


def inverse(coord_map: Map) -> Map:
    """Return the inverse of a map."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def _sources(top: Top) -> tuple[Top, ...]:
    """The bottoms on which coordinates lie; of a Crop only what is cropped."""
    return top.fn.inputs[:1] if top.fn.type_name == "Crop" else top.fn.inputs


def _step_back(top: Top, maps: dict[Top, Map], frontier: set[Top]) -> None:
    try:
        for bottom in _sources(top):
            maps[bottom] = compose(maps[top], coord_map(top.fn))
            frontier.add(bottom)
    except UndefinedMapException:
        pass


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map from one top to another, over a blob that both come from.

    Raises RuntimeError if no layers with maps connect them.
    """
    from_maps: dict[Top, Map] = {top_from: IDENTITY}
    frontier = {top_from}
    while frontier:
        _step_back(frontier.pop(), from_maps, frontier)
    to_maps: dict[Top, Map] = {top_to: IDENTITY}
    frontier = {top_to}
    while frontier:
        top = frontier.pop()
        if top in from_maps:
            return compose(to_maps[top], inverse(from_maps[top]))
        _step_back(top, to_maps, frontier)
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts `top_from` to what lies on `top_to`.

    Raises AssertionError if their scales differ, or if the offset is negative or no whole number.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    assert np.all(np.equal(scale, 1)), f"scale mismatch on crop (a = {scale})"
    assert np.all(np.less_equal(shift, 0)), f"cannot crop negative offset (b = {shift})"
    assert np.all(np.round(shift) == shift), f"cannot crop noninteger offset (b = {shift})"
    offset = [int(n) for n in np.atleast_1d(-np.round(shift))]
    top: Top = L.Crop(top_from, top_to, crop_param={"axis": axis + 1, "offset": offset})
    return top
