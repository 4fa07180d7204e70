"""Convolution, Deconvolution and the forks' depthwise convolutions.

Sources: src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp;
depthwise_conv_layer.cpp (yonghenglh6), conv_dw_layer.cpp (farmingyard).
"""

from __future__ import annotations

import math
import operator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.layers.base import Layer, Shape, at_least, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.layers.window import Ints, check_positive, per_axis
from caffeio.proto import caffe_pb2 as pb

FIELD = "convolution_param"
_FIELDS = (
    "num_output", "bias_term", "group", "axis", "weight_filler", "bias_filler", "relu",
    "negative_slope",
    *(n + s for n in ("pad", "stride", "dilation", "filter_stride") for s in ("", "_h", "_w")),
    "kernel_size", "kernel_h", "kernel_w",
)  # fmt: skip


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Positions of the kernel along one axis, with C++'s division that truncates toward 0."""
    room = size + 2 * pad - (dilation * (kernel - 1) + 1)
    return math.trunc(room / stride) + 1


def least_sizes(kernel: Ints, pad: Ints, dilation: Ints) -> Ints:
    """Sizes of the bottom from which on the kernel does not stick out of the padding."""
    return tuple(d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, pad, dilation, strict=True))


def make_room(x: Tensor, least: Ints) -> Tensor:
    """Put zeros behind the axes of `x` (N, C, spatial) that are shorter than `least`."""
    if all(map(operator.ge, x.shape[2:], least)):
        return x
    missing = [max(0, size - n) for n, size in zip(x.shape[2:], least, strict=True)]
    return F.pad(x, [n for m in reversed(missing) for n in (0, m)])


class BaseConvolution(Layer):
    """Parameters, checks and blobs of all convolutions.

    `kernel`, `stride`, `pad` and `dilation` have one value for each spatial axis (0 to 3 axes).
    Blobs: weight, bias [num_output] (with bias_term).
    """

    bottoms = at_least(1)
    tops = at_least(1)
    equal_bottoms_tops = True
    in_place = False
    reads_bottoms = None
    transposed: ClassVar[bool] = False

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
        check_fields(self, FIELD, _FIELDS)
        self._read_window(p)
        self._read_channels(p, shape[self.start])
        self.relu, self.negative_slope = p.relu, p.negative_slope
        if not self.transposed:
            self._check_size(shape)
        self._declare(p)

    def _read_window(self, p: pb.ConvolutionParameter) -> None:
        self.kernel = per_axis(self, p, "kernel_size", FIELD, self.spatial, None)
        self.stride = per_axis(self, p, "stride", FIELD, self.spatial, 1)
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

    def _check_size(self, shape: Shape) -> None:
        for size, top in zip(shape[self.start + 1 :], self._positions(shape), strict=True):
            self.check(
                top > 0,
                f"the kernel {self.kernel} (dilation {self.dilation}) does not fit into the bottom "
                f"{shape} with pad {self.pad}: an axis of {size} gives {top} positions",
                field=f"{FIELD}.kernel_size",
            )

    def _positions(self, shape: Shape) -> Ints:
        rows = zip(
            shape[self.start + 1 :], self.kernel, self.stride, self.pad, self.dilation, strict=True
        )
        return tuple(output_size(*row) for row in rows)

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

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(..., C, spatial) -> (..., num_output, spatial), for every bottom with the same blobs."""
        if len(bottoms) == 1:
            return self._one(bottoms[0])
        return tuple(self._one(x) for x in bottoms)

    def _one(self, x: Tensor) -> Tensor:
        if x.shape[self.start] != self.channels:
            raise self.error(
                f"the bottom's {x.shape[self.start]} channels do not fit a kernel made for "
                f"{self.channels}"
            )
        outer = x.shape[: self.start]
        if self.start != 1:
            x = x.reshape(math.prod(outer), *x.shape[self.start :])
        y = self._convolve(x) if self.spatial else self._convolve(x.unsqueeze(2)).squeeze(2)
        if self.relu:
            y = F.leaky_relu(y, self.negative_slope) if self.negative_slope else F.relu(y)
        return y if self.start == 1 else y.reshape(*outer, *y.shape[1:])

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """Conv or ConvTranspose of every bottom."""
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

    def _convolve(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        weight = self.blobs[0] if self.spatial else self.blobs[0].unsqueeze(2)
        return weight, self.blobs[1] if self.has_bias else None

    def macs(self) -> int:
        """Products of one forward over all bottoms."""
        per_position = math.prod(self.blob_specs[0].shape) if self.blob_specs else 0
        shapes = self.bottom_shapes if self.transposed else self.top_shapes
        return sum(
            per_position * math.prod(s[: self.start]) * math.prod(s[self.start + 1 :])
            for s in shapes
        )


@layer("Convolution", "DepthwiseConvolution")
class Convolution(BaseConvolution):
    """Cross-correlation with zero padding; weight [num_output, C / group, kernel].

    Along each axis there are (size + 2 pad - dilation (kernel - 1) - 1) / stride + 1 positions. A
    kernel that sticks out by less than a stride still gives one, as C++ rounds toward 0.
    DepthwiseConvolution is the same on another engine, by default with as many groups as channels.
    """

    def _groups(self, p: pb.ConvolutionParameter, channels: int) -> int:
        depthwise = self.kind == "DepthwiseConvolution" and not p.HasField("group")
        return channels if depthwise else p.group

    def _convolve(self, x: Tensor) -> Tensor:
        weight, bias = self._weights()
        if not self.spatial:
            return F.conv1d(x, weight, bias, groups=self.group)
        x = make_room(x, self.least)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.spatial - 1]
        return convolve(x, weight, bias, self.stride, self.pad, self.dilation, self.group)


@layer("ConvolutionDepthwise")
class ConvolutionDepthwise(Convolution):
    """One filter for each channel, weight [C, 1, kernel]; num_output and group do not count."""

    def _read_channels(self, p: pb.ConvolutionParameter, channels: int) -> None:
        self.channels = self.num_output = self.group = channels


@layer("Deconvolution")
class Deconvolution(BaseConvolution):
    """Transposed convolution; weight [C, num_output / group, kernel].

    Along each axis the top has stride (size - 1) + dilation (kernel - 1) + 1 - 2 pad values.
    """

    transposed = True

    def _convolve(self, x: Tensor) -> Tensor:
        weight, bias = self._weights()
        if not self.spatial:
            return F.conv_transpose1d(x, weight, bias, groups=self.group)
        rows = zip(x.shape[2:], self.kernel, self.stride, self.pad, self.dilation, strict=True)
        sizes = [s * (n - 1) + d * (k - 1) + 1 - 2 * p for n, k, s, p, d in rows]
        if min(sizes) < 1:
            raise self.error(f"pad {self.pad} leaves nothing of the top: {sizes}", field=FIELD)
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.spatial - 1]
        return transpose(
            x, weight, bias, self.stride, self.pad, groups=self.group, dilation=self.dilation
        )


def im2col(x: Tensor, kernel: Ints, stride: Ints, pad: Ints, dilation: Ints) -> Tensor:
    """(N, C, spatial) -> (N, C * prod(kernel), positions): the values under each kernel offset.

    Channel c * prod(kernel) + offset, offsets in row-major order (src/caffe/util/im2col.cpp).
    """
    n, channels, axes = x.shape[0], x.shape[1], len(kernel)
    x = make_room(x, least_sizes(kernel, pad, dilation))
    x = F.pad(x, [p for p in reversed(pad) for _ in range(2)])
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    order = [0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes)]
    positions = x.shape[2 : 2 + axes]
    return x.permute(order).reshape(n, channels * math.prod(kernel), *positions)


@layer("Im2col")
class Im2col(Layer):
    """The patches that a convolution with these fields multiplies with its weights."""

    in_place = False

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for fields that contradict the bottom."""
        p = self.param.convolution_param
        self.start = self.axis(p.axis, len(shape), f"{FIELD}.axis")
        check_fields(self, FIELD, _FIELDS)
        axes = len(shape) - self.start - 1
        self.check(axes >= 1, f"the bottom {shape} has no spatial axes", field=f"{FIELD}.axis")
        self.kernel = per_axis(self, p, "kernel_size", FIELD, axes, None)
        self.stride = per_axis(self, p, "stride", FIELD, axes, 1)
        self.pad = per_axis(self, p, "pad", FIELD, axes, 0)
        self.dilation = per_axis(self, p, "dilation", FIELD, axes, 1)
        for name in ("kernel", "stride", "dilation"):
            check_positive(self, getattr(self, name), f"{FIELD}.{name}")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(..., C, spatial) -> (..., C * prod(kernel), positions)."""
        outer = x.shape[: self.start]
        flat = x.reshape(math.prod(outer), *x.shape[self.start :])
        y = im2col(flat, self.kernel, self.stride, self.pad, self.dilation)
        return torch.reshape(y, (*outer, *y.shape[1:]))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Conv of each channel with kernels of a single 1."""
        (x,) = bottoms
        outer, (channels, *spatial) = g.shape(x)[: self.start], g.shape(x)[self.start :]
        if self.start != 1:
            if g.dynamic_batch:
                raise g.unsupported("axes before the channels are one with a fixed batch only")
            x = g.reshape(x, math.prod(outer), channels, *spatial)
        offsets = math.prod(self.kernel)
        picks = np.tile(np.eye(offsets), (channels, 1)).reshape(-1, 1, *self.kernel)
        least = least_sizes(self.kernel, self.pad, self.dilation)
        missing = (max(0, n - size) for n, size in zip(least, spatial, strict=True))
        behind = (p + m for p, m in zip(self.pad, missing, strict=True))
        y: str = g.op(
            "Conv", [x, g.const(picks, "picks")], group=channels, kernel_shape=self.kernel,
            strides=self.stride, dilations=self.dilation, pads=(*self.pad, *behind),
        )  # fmt: skip
        return y if self.start == 1 else g.reshape(y, *self.top_shapes[0])
