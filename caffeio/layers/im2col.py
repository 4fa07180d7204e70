"""Im2col: the patches of a convolution. Source: src/caffe/layers/im2col_layer.cpp."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.conv import FIELD, FIELDS
from caffeio.layers.registry import layer
from caffeio.layers.window import check_positive, least_sizes, per_axis, positions

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("Im2col")
class Im2col(LayerType):
    """The patches that a convolution with these fields multiplies with its weights."""

    family = "conv"
    in_place = False
    fields = owns(convolution_param=FIELDS)
    compute = "caffeio.ops.conv:im2col"
    pure = True

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for fields that contradict the bottom."""
        p = self.param.convolution_param
        self.start = self.axis(p.axis, len(shape), f"{FIELD}.axis")
        axes = len(shape) - self.start - 1
        self.check(axes >= 1, f"the bottom {shape} has no spatial axes", field=f"{FIELD}.axis")
        self.kernel = per_axis(self, p, "kernel_size", FIELD, axes, None)
        self.stride = per_axis(self, p, "stride", FIELD, axes, 1, both=True)
        self.pad = per_axis(self, p, "pad", FIELD, axes, 0)
        self.dilation = per_axis(self, p, "dilation", FIELD, axes, 1)
        for name in ("kernel", "stride", "dilation"):
            check_positive(self, getattr(self, name), f"{FIELD}.{name}")
        self.check(
            all(n > 0 for n in self.shapes(shape)[0][self.start + 1 :]),
            f"the kernel {self.kernel} (dilation {self.dilation}) does not fit into the bottom "
            f"{shape} with pad {self.pad}",
            field=f"{FIELD}.kernel_size",
        )

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """(..., C, spatial) -> (..., C * prod(kernel), positions)."""
        channels, *sizes = shape[self.start :]
        found = positions(tuple(sizes), self.kernel, self.stride, self.pad, self.dilation)
        return ((*shape[: self.start], channels * math.prod(self.kernel), *found),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write a Conv of each channel with kernels of a single 1."""
        import numpy as np

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
