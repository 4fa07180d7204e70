"""Convolution, Deconvolution and the forks' depthwise convolutions.

Sources: src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp;
depthwise_conv_layer.cpp (yonghenglh6), conv_dw_layer.cpp (farmingyard).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from caffeio.layers.base import LayerType, Shape, at_least, owns
from caffeio.layers.registry import layer
from caffeio.layers.window import (
    Ints,
    check_positive,
    least_sizes,
    per_axis,
    positions,
    window_words,
)
from caffeio.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

FIELD = "convolution_param"
FIELDS = (
    "num_output", "bias_term", "group", "axis", "weight_filler", "bias_filler", "relu",
    "negative_slope",
    *(n + s for n in ("pad", "stride", "dilation", "filter_stride") for s in ("", "_h", "_w")),
    "kernel_size", "kernel_h", "kernel_w",
)  # fmt: skip


class BaseConvolution(LayerType):
    """Parameters, checks and blobs of all convolutions.

    `kernel`, `stride`, `pad` and `dilation` have one value for each spatial axis (0 to 3 axes).
    Blobs: weight, bias [num_output] (with bias_term).
    """

    has_blobs = True
    insists_on_shape = True
    bottoms = at_least(1)
    tops = at_least(1)
    equal_bottoms_tops = True
    in_place = False
    fields = owns(convolution_param=FIELDS)
    blob_names = ("weight", "bias")
    blob_axes = (4, 1)
    compute = "caffeio.ops.conv:convolution"
    pure = True
    fresh = True
    leaves_top = True
    reads_bottoms = None
    transposed: ClassVar[bool] = False
    short_type = "Conv"

    @classmethod
    def summary(cls, param: pb.LayerParameter) -> str:
        """Say `3x3 /2 pad 1 -> 64`."""
        p = param.convolution_param
        bias = [] if p.bias_term else ["no bias"]
        return " ".join([*window_words(p), *cls._channel_words(p), *bias])

    @classmethod
    def _channel_words(cls, p: pb.ConvolutionParameter) -> list[str]:
        return [*([f"{p.group} groups"] if p.group > 1 else []), f"-> {p.num_output}"]

    def setup(self, *shapes: Shape) -> None:
        """Declare the blobs; raises LayerError for fields that contradict the bottoms."""
        p = self.param.convolution_param
        shape = shapes[0]
        self.start = self.axis(p.axis, len(shape), f"{FIELD}.axis")
        self.spatial = len(shape) - self.start - 1
        self.check(
            self.spatial <= 3, f"{self.spatial} spatial axes; 0 to 3 are supported", field=FIELD
        )
        self.check(
            all(other == shape for other in shapes),
            f"all bottoms must have the same shape: {', '.join(map(str, shapes))}",
        )
        self._read_window(p)
        self._read_channels(p, shape[self.start])
        self.relu, self.negative_slope = p.relu, p.negative_slope
        self._declare(p)
        self.check_positions(self.positions(shape[self.start + 1 :]), shape)

    def _read_window(self, p: pb.ConvolutionParameter) -> None:
        self.kernel = per_axis(self, p, "kernel_size", FIELD, self.spatial, None)
        self.stride = per_axis(self, p, "stride", FIELD, self.spatial, 1, both=True)
        self.pad = per_axis(self, p, "pad", FIELD, self.spatial, 0)
        old = any(p.HasField("filter_stride" + s) for s in ("", "_h", "_w"))
        name = "filter_stride" if old else "dilation"
        self.dilation = per_axis(self, p, name, FIELD, self.spatial, 1)
        for name in ("kernel", "stride", "dilation"):
            check_positive(self, getattr(self, name), f"{FIELD}.{name}")
        self.least = least_sizes(self.kernel, self.pad, self.dilation)

    def _read_channels(self, p: pb.ConvolutionParameter, channels: int) -> None:
        self.channels, self.num_output = channels, p.num_output
        self.group = self._groups(p, channels)
        self.check(p.num_output > 0, "must be above 0", field=f"{FIELD}.num_output")
        self.check(self.group > 0, "must be above 0", field=f"{FIELD}.group")
        self.check(
            channels % self.group == 0,
            f"{self.group} groups do not divide the bottom's {channels} channels",
            field=f"{FIELD}.group",
        )
        self.check(
            p.num_output % self.group == 0,
            f"{p.num_output} is not a multiple of group {self.group}",
            field=f"{FIELD}.num_output",
        )

    def _groups(self, p: pb.ConvolutionParameter, channels: int) -> int:
        return p.group

    def positions(self, sizes: Shape) -> Ints:
        """Count the positions of the kernel along each spatial axis."""
        return positions(sizes, self.kernel, self.stride, self.pad, self.dilation)

    def check_positions(self, found: Ints, shape: Shape) -> None:
        """Raise LayerError unless the kernel fits into a bottom of `shape`."""
        for size, top in zip(shape[self.start + 1 :], found, strict=True):
            self.check(
                top > 0,
                f"the kernel {self.kernel} (dilation {self.dilation}) does not fit into the bottom "
                f"{shape} with pad {self.pad}, it is larger than the bottom: an axis of {size} "
                f"gives {top} positions",
                field=f"{FIELD}.kernel_size",
            )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """(..., C, spatial) -> (..., num_output, spatial), for every bottom."""
        start = self.start
        return tuple(
            (*shape[:start], self.num_output, *self.positions(shape[start + 1 :]))
            for shape in bottoms
        )

    def _declare(self, p: pb.ConvolutionParameter) -> None:
        first, second = self.num_output, self.channels
        if self.transposed:
            first, second = second, first
        shape = (first, second // self.group, *self.kernel)
        self.add_blob("weight", shape, p.weight_filler if p.HasField("weight_filler") else None)
        self.has_bias = p.bias_term
        if self.has_bias:
            filler = p.bias_filler if p.HasField("bias_filler") else None
            self.add_blob("bias", (self.num_output,), filler)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """Write Conv or ConvTranspose of every bottom."""
        tops = tuple(self._onnx_one(g, x) for x in bottoms)
        return tops[0] if len(tops) == 1 else tops

    def _onnx_one(self, g: OnnxGraph, x: str) -> str:
        shape = g.shape(x)
        spatial = shape[self.start + 1 :]
        if self.start != 1:
            if g.dynamic_batch:
                raise g.unsupported("axes before the channels are one with a fixed batch only")
            x = g.reshape(x, math.prod(shape[: self.start]), self.channels, *(spatial or (1,)))
        elif not spatial:
            x = g.reshape(x, 0, self.channels, 1)
        y = self._onnx_convolve(g, x, spatial)
        y = g.relu(y, self.negative_slope) if self.relu else y
        if self.start == 1:
            return y if spatial else g.reshape(y, 0, self.num_output)
        return g.reshape(y, *self.top_shapes[0])

    def _onnx_convolve(self, g: OnnxGraph, x: str, spatial: Shape) -> str:
        weight = g.param(self, 0, shape=(*self.blob_specs[0].shape[:2], *(self.kernel or (1,))))
        blobs = [weight, g.param(self, 1)] if self.has_bias else [weight]
        behind = self.pad
        if not self.transposed:  # room for a kernel that sticks out
            missing = (max(0, n - size) for n, size in zip(self.least, spatial, strict=True))
            behind = tuple(p + m for p, m in zip(self.pad, missing, strict=True))
        given: dict[str, Any] = {
            "kernel_shape": self.kernel, "strides": self.stride, "dilations": self.dilation,
            "pads": (*self.pad, *behind),
        }  # fmt: skip
        name = "ConvTranspose" if self.transposed else "Conv"
        y: str = g.op(name, [x, *blobs], group=self.group, **(given if spatial else {}))
        return y

    def macs(self) -> int:
        """Products of one forward over all bottoms."""
        per_position = math.prod(self.blob_specs[0].shape) if self.blob_specs else 0
        shapes = self.bottom_shapes if self.transposed else self.top_shapes
        return sum(
            per_position * math.prod(s[: self.start]) * math.prod(s[self.start + 1 :])
            for s in shapes
        )


@layer("Convolution")
class Convolution(BaseConvolution):
    """Cross-correlation with zero padding; weight [num_output, C / group, kernel].

    Along each axis there are (size + 2 pad - dilation (kernel - 1) - 1) / stride + 1 positions. A
    kernel that sticks out by less than a stride still gives one, as C++ rounds toward 0.
    """

    family = "conv"


@layer("DepthwiseConvolution")
class DepthwiseConvolution(Convolution):
    """Convolution on another engine, by default with as many groups as channels."""

    short_type = "DWConv"

    @classmethod
    def _channel_words(cls, p: pb.ConvolutionParameter) -> list[str]:
        if p.HasField("group"):
            return super()._channel_words(p)
        return ["depthwise", f"-> {p.num_output}"]

    def _groups(self, p: pb.ConvolutionParameter, channels: int) -> int:
        return p.group if p.HasField("group") else channels


@layer("ConvolutionDepthwise")
class ConvolutionDepthwise(Convolution):
    """One filter for each channel, weight [C, 1, kernel]; num_output and group do not count."""

    short_type = "DWConv"
    insists_on_shape = False

    @classmethod
    def _channel_words(cls, p: pb.ConvolutionParameter) -> list[str]:
        return ["depthwise"]

    def _read_channels(self, p: pb.ConvolutionParameter, channels: int) -> None:
        self.channels = self.num_output = self.group = channels


@layer("Deconvolution")
class Deconvolution(BaseConvolution):
    """Transposed convolution; weight [C, num_output / group, kernel].

    Along each axis the top has stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad values.
    """

    short_type = "Deconv"
    family = "conv"
    transposed = True

    def positions(self, sizes: Shape) -> Ints:
        """Count the values of the top along each spatial axis."""
        rows = zip(sizes, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        return tuple(s * (n - 1) + d * (k - 1) + 1 - 2 * p for n, k, s, p, d in rows)

    def check_positions(self, found: Ints, shape: Shape) -> None:
        """Raise LayerError if the padding leaves nothing of the top."""
        self.check(
            all(n > 0 for n in found),
            f"pad {self.pad} leaves nothing of the top: {list(found)}",
            field=FIELD,
        )
