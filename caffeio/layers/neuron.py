"""Neuron layers: one value in, one value out.

Sources: src/caffe/layers/{absval,bnll,clip,elu,prelu,relu,relu6,sigmoid,swish,tanh,threshold}_
layer.cpp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.layers.base import Layer, Shape, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.gradients import is_in_place
from caffeio.layers.onnx.graph import OnnxGraph


@layer("ReLU")
class ReLU(Layer):
    """max(x, 0) + negative_slope * min(x, 0); the slope counts as the gradient at 0."""

    reads_bottoms = frozenset({0})

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Read the slope."""
        check_fields(self, "relu_param", ("negative_slope",))
        self.slope = self.param.relu_param.negative_slope
        self.reads_signs = True
        self.keeps_signs = self.slope >= 0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Relu or LeakyRelu."""
        return g.relu(bottoms[0], self.slope)


@layer("ReLU6")
class ReLU6(Layer):
    """min(max(x, 0) + negative_slope * min(x, 0), 6); gradient 0 from 6 on."""

    reads_bottoms = frozenset({0})

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Read the slope."""
        self.slope = self.param.relu6_param.negative_slope

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        if not self.slope:
            return F.relu6(x)
        return torch.where(x < 6, F.leaky_relu(x, self.slope), 6.0)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Clip, and LeakyRelu before it where there is a slope."""
        if not self.slope:
            return str(g.op("Clip", [*bottoms, g.const(0.0, "min"), g.const(6.0, "max")]))
        return str(g.op("Min", [g.relu(bottoms[0], self.slope), g.const(6.0, "max")]))


@layer("PReLU")
class PReLU(Layer):
    """max(x, 0) + a * min(x, 0) with a learned slope a for each channel, or one for all.

    Blob: slope [C], or [] with channel_shared.
    """

    reads_bottoms = frozenset({0})

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Declare the blob; raises LayerError for a bottom without a channel axis."""
        p = self.param.prelu_param
        check_fields(self, "prelu_param", ("filler", "channel_shared"))
        self.check(len(shape) >= 2, f"needs a bottom of 2 axes or more, not {shape}")
        if is_in_place(self):  # it keeps a copy
            self.reads_bottoms = frozenset()
        slopes = () if p.channel_shared else shape[1:2]
        self.add_blob("slope", slopes, p.filler if p.HasField("filler") else None, default=0.25)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, ...) -> the same shape."""
        return F.prelu(x, self.blobs[0].reshape(-1))

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """PRelu."""
        shape = self.blob_specs[0].shape or (1,)
        spread = (*shape, *[1] * (len(g.shape(bottoms[0])) - 2))
        return str(g.op("PRelu", [*bottoms, g.param(self, 0, shape=spread)]))


@layer("ELU")
class ELU(Layer):
    """x above 0, else alpha * (e^x - 1); NVIDIA's lambda multiplies both."""

    reads_top = True
    reads_bottoms = frozenset({0})
    reads_signs = True
    backward = "caffeio.layers.backward:ELU"

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Read the fields."""
        p = self.param.elu_param
        check_fields(self, "elu_param", ("alpha", "lambda"))
        self.alpha, self.scale = p.alpha, getattr(p, "lambda")
        self.keeps_signs = self.alpha >= 0 and self.scale > 0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        y = F.elu(x, self.alpha)
        return y if self.scale == 1 else y * self.scale

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Elu."""
        return g.scaled(g.op("Elu", bottoms, alpha=self.alpha), self.scale)


@layer("AbsVal")
class AbsVal(Layer):
    """|x|; gradient 0 at 0."""

    in_place = False
    reads_bottoms = frozenset({0})

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return x.abs()

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Abs."""
        return str(g.op("Abs", bottoms))


@layer("BNLL")
class BNLL(Layer):
    """log(1 + e^x)."""

    reads_bottoms = frozenset({0})

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return F.softplus(x)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Softplus."""
        return str(g.op("Softplus", bottoms))


@layer("Clip")
class Clip(Layer):
    """max(min, min(x, max)); gradient 1 inside, the ends included."""

    reads_bottoms = frozenset({0})

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError unless both limits are given."""
        p = self.param.clip_param
        for name in ("min", "max"):
            self.check(p.HasField(name), "must be given", field=f"clip_param.{name}")
        self.limits = (p.min, p.max)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        low, high = self.limits
        if low > high:  # where torch's clamp gives max, Caffe gives min
            return x.clamp(max=high).clamp(min=low)
        return x.clamp(low, high)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Clip; Min and Max where min is above max."""
        low, high = (g.const(v, "limit") for v in self.limits)
        if self.limits[0] > self.limits[1]:
            return str(g.op("Max", [g.op("Min", [*bottoms, high]), low]))
        return str(g.op("Clip", [*bottoms, low, high]))


@layer("Sigmoid")
class Sigmoid(Layer):
    """1 / (1 + e^-x)."""

    reads_top = True
    backward = "caffeio.layers.backward:Sigmoid"

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return torch.sigmoid(x)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Sigmoid."""
        return str(g.op("Sigmoid", bottoms))


@layer("TanH")
class TanH(Layer):
    """tanh(x)."""

    reads_top = True
    backward = "caffeio.layers.backward:TanH"

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return torch.tanh(x)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Tanh."""
        return str(g.op("Tanh", bottoms))


@layer("Swish")
class Swish(Layer):
    """x / (1 + e^(-beta x))."""

    reads_top = True
    backward = "caffeio.layers.backward:Swish"

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Read beta."""
        self.beta = self.param.swish_param.beta

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return F.silu(x) if self.beta == 1 else x * torch.sigmoid(self.beta * x)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """x times Sigmoid."""
        return str(g.op("Mul", [*bottoms, g.op("Sigmoid", [g.scaled(bottoms[0], self.beta)])]))


@layer("Threshold")
class Threshold(Layer):
    """1 where x > threshold, else 0."""

    differentiable = False

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Read the threshold."""
        self.threshold = self.param.threshold_param.threshold

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        return (x.detach() > self.threshold).to(x.dtype)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Greater."""
        return g.to_float(g.op("Greater", [*bottoms, g.const(self.threshold, "threshold")]))
