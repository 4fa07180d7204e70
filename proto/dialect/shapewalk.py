"""Which of two readings of a net fits its weights: spatial shapes from the input to the weights.

Only what decides is followed: convolutions, poolings and what keeps or joins shapes, up to an
InnerProduct, whose number of inputs is written in its weights, or an Eltwise or Concat, whose
bottoms must agree. Where the input's size is not in the file, every square up to 1024 is tried.
Formulas: conv_layer.cpp, deconv_layer.cpp and pooling_layer.cpp of BVLC Caffe.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from caffeio.errors import CaffeIOError
from caffeio.proto.upgrade.upgrade import upgrade_net

Extent = tuple[int | None, ...]  # channels, height, width, or one length; None is unknown
_LARGEST = 1024
_SOURCES = frozenset(
    ("Data", "ImageData", "AnnotatedData", "WindowData", "MemoryData", "VideoData")
    + ("DummyData", "Input", "DenseImageData")
)
_KEEP = frozenset(
    ("ReLU", "PReLU", "ReLU6", "ELU", "Sigmoid", "TanH", "AbsVal", "BNLL", "Power", "Exp", "Log")
    + ("Swish", "Clip", "Threshold", "Dropout", "LRN", "MVN", "BatchNorm", "BN", "Scale", "Bias")
    + ("Softmax", "Split", "Normalize", "SpatialDropout")
)


class Walk(NamedTuple):
    """What shapes say of a reading; `possible` is whether some input fits all weights."""

    possible: bool
    confirmed: list[str]
    refuted: list[str]


class _MisfitError(Exception):
    """The shapes of this reading do not fit together."""


def walk_shapes(net: Any) -> Walk:
    """Follow the shapes through a canonical net whose blobs have shapes (no numbers needed)."""
    try:
        layers = list(upgrade_net(net).message.layer)
    except CaffeIOError as error:
        return Walk(False, [], [error.message])
    known = all(None not in tops for layer in layers for tops in _sources(layer, None))
    refuted = ""
    for size in (0,) if known else range(1, _LARGEST + 1):
        walk = _Net(size)
        try:
            for layer in layers:
                walk.step(layer)
        except _MisfitError as problem:
            refuted = refuted or str(problem)
            continue
        given = "" if known else f" (for an input of {size} x {size})"
        return Walk(True, [text + given for text in walk.confirmed], [])
    if not known:
        refuted = f"no square input of up to {_LARGEST} pixels fits the weights"
    return Walk(False, [], [refuted])


def _sources(layer: Any, size: int | None) -> list[Extent]:
    """The extents of a data layer's tops; `size` is used where the file gives none."""
    if layer.type == "Input":
        return [tuple(shape.dim[1:]) for shape in layer.input_param.shape]
    if layer.type == "DummyData":
        p = layer.dummy_data_param
        old = zip(p.channels, p.height, p.width, strict=False)
        return [tuple(shape.dim[1:]) for shape in p.shape] or list(old)
    if layer.type == "MemoryData":
        p = layer.memory_data_param
        return [(p.channels, p.height, p.width), (1,)]
    if layer.type not in _SOURCES:
        return []
    t = layer.transform_param
    side = t.crop_size or layer.data_param.crop_size or None
    high, wide = (t.crop_h or side, t.crop_w or side)
    if not high and layer.type == "ImageData":
        high, wide = layer.image_data_param.new_height, layer.image_data_param.new_width
    image = (0, high or size, wide or size)  # 0 channels: they do not matter here
    return [image, (1,)]


class _Net:
    """The extents of all blobs, for one size of an input that the file does not give."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.blobs: dict[str, Extent] = {}
        self.confirmed: list[str] = []

    def step(self, layer: Any) -> None:
        """Find the tops of one layer; what cannot be followed is left out."""
        if layer.type in _SOURCES:
            for top, extent in zip(layer.top, _sources(layer, self.size), strict=False):
                self.blobs[top] = extent
            return
        bottoms = [self.blobs.get(name) for name in layer.bottom]
        extents = [extent for extent in bottoms if extent is not None]
        out: Extent | None = None
        if extents and len(extents) == len(bottoms):
            out = self._extent(layer, extents)
        for top in layer.top:
            self.blobs.pop(top, None)
            if out is not None:
                self.blobs[top] = out

    def _extent(self, layer: Any, bottoms: list[Extent]) -> Extent | None:
        first = bottoms[0]
        if layer.type in _KEEP:
            return first
        if layer.type in ("Eltwise", "Concat"):
            return self._join(layer, bottoms)
        if layer.type == "InnerProduct":
            return self._inner(layer, first)
        if layer.type == "Flatten" and len(first) == 3:
            return (_product(first),)
        if len(first) != 3 or layer.type not in ("Convolution", "Deconvolution", "Pooling"):
            return None
        channels, *plane = first
        sides = [n for n in plane if n is not None]
        if layer.type == "Pooling":
            return (channels, *_pooled(layer, sides))
        p = layer.convolution_param
        return (p.num_output, *_convolved(layer, p, sides))

    def _join(self, layer: Any, bottoms: list[Extent]) -> Extent | None:
        if layer.type == "Concat" and layer.concat_param.axis != 1:
            return None
        start = layer.type == "Concat"
        if len({extent[start:] for extent in bottoms}) > 1:
            shapes = " and ".join(" x ".join(map(str, extent)) for extent in bottoms)
            raise _MisfitError(f"layer {layer.name!r} ({layer.type}) would join {shapes}")
        if len(bottoms) > 1 and len(bottoms[0]) == 3:
            self.confirmed.append(f"the bottoms of layer {layer.name!r} agree")
        if not start:
            return bottoms[0]
        return (sum(extent[0] or 0 for extent in bottoms), *bottoms[0][1:])

    def _inner(self, layer: Any, bottom: Extent) -> Extent:
        p = layer.inner_product_param
        if layer.blobs and p.axis == 1:
            shape = layer.blobs[0].shape.dim or (layer.blobs[0].height, layer.blobs[0].width)
            wanted, given = shape[0] if p.transpose else shape[-1], _product(bottom)
            if wanted != given and 0 not in bottom:
                raise _MisfitError(
                    f"layer {layer.name!r} has {wanted} inputs and would get {given}"
                )
            self.confirmed.append(f"layer {layer.name!r} has {wanted} inputs and gets as many")
        return (p.num_output,)


def _product(extent: Extent) -> int:
    return math.prod(n or 0 for n in extent)


def _pair(p: Any, both: str, axis: int, default: int) -> int:
    """A vertical (axis 0) or horizontal (1) value of a parameter that may be given twice."""
    own = getattr(p, f"{both.removesuffix('_size')}_{'hw'[axis]}", 0)
    values = getattr(p, both)
    if own or not values:
        return int(own or default)
    return int(values[min(axis, len(values) - 1)])


def _convolved(layer: Any, p: Any, sides: list[int]) -> list[int]:
    out = []
    for axis, side in enumerate(sides):
        kernel, stride = _pair(p, "kernel_size", axis, 0), _pair(p, "stride", axis, 1)
        pad = _pair(p, "pad", axis, 0)
        dilation = int(p.dilation[min(axis, len(p.dilation) - 1)]) if p.dilation else 1
        kernel = dilation * (kernel - 1) + 1
        if layer.type == "Deconvolution":
            out.append(stride * (side - 1) + kernel - 2 * pad)
        elif kernel > side + 2 * pad or not stride:
            raise _MisfitError(f"layer {layer.name!r} has a kernel of {kernel} over {side}")
        else:
            out.append((side + 2 * pad - kernel) // stride + 1)
    return out


def _pooled(layer: Any, sides: list[int]) -> list[int]:
    p = layer.pooling_param
    if p.global_pooling:
        return [1] * len(sides)
    out = []
    for axis, side in enumerate(sides):
        kernel, stride = _pair(p, "kernel_size", axis, 0), _pair(p, "stride", axis, 1)
        pad = _pair(p, "pad", axis, 0)
        span = side + 2 * pad - kernel
        if not stride or not kernel or (span < 0 and pad == 0):
            raise _MisfitError(f"layer {layer.name!r} pools {kernel} over {side}, stride {stride}")
        floor = p.round_mode == p.FLOOR
        pooled = span // stride + 1 if floor else -(-span // stride) + 1
        if pad and (pooled - 1) * stride >= side + pad:
            pooled -= 1
        if pooled < 1:
            raise _MisfitError(f"layer {layer.name!r} would have no output")
        out.append(pooled)
    return out
