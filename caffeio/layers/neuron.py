"""Neuron layers: one value in, one value out.

Sources: src/caffe/layers/{absval,bnll,clip,elu,prelu,relu,relu6,sigmoid,swish,tanh,threshold}_
layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("ReLU")
class ReLU(LayerType):
    """max(x, 0) + negative_slope * min(x, 0); the slope counts as the gradient at 0."""

    fields = owns(relu_param=("negative_slope",))
    compute = "caffeio.ops.neuron:relu"
    pure = True
    by_image = True
    fresh = True
    backward = "caffeio.ops.backward:ReLU"
    reads_bottoms = frozenset({0})
    reads_signs = True

    def setup(self, shape: Shape) -> None:
        """Read the slope."""
        self.slope = self.param.relu_param.negative_slope
        self.keeps_signs = self.slope >= 0

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Relu or LeakyRelu."""
        return g.relu(bottoms[0], self.slope)


@layer("ReLU6")
class ReLU6(LayerType):
    """min(max(x, 0) + negative_slope * min(x, 0), 6); gradient 0 from 6 on."""

    fields = owns(relu6_param=("negative_slope",))
    compute = "caffeio.ops.neuron:relu6"
    pure = True
    by_image = True
    reads_bottoms = frozenset({0})

    def setup(self, shape: Shape) -> None:
        """Read the slope."""
        self.slope = self.param.relu6_param.negative_slope

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Clip, and LeakyRelu before it where there is a slope."""
        if not self.slope:
            return str(g.op("Clip", [*bottoms, g.const(0.0, "min"), g.const(6.0, "max")]))
        return str(g.op("Min", [g.relu(bottoms[0], self.slope), g.const(6.0, "max")]))


@layer("PReLU")
class PReLU(LayerType):
    """max(x, 0) + a * min(x, 0) with a learned slope a for each channel, or one for all.

    Blob: slope [C], or [] with channel_shared.
    """

    has_blobs = True
    fields = owns(prelu_param=("filler", "channel_shared"))
    blob_names = ("weight",)
    blob_axes = (1,)
    compute = "caffeio.ops.neuron:prelu"
    pure = True
    by_image = True
    fresh = True
    reads_bottoms = frozenset({0})

    def dies_forward(self) -> str:
        """Say that a bottom has too many axes."""
        return self.legacy_axes(0)

    def setup(self, shape: Shape) -> None:
        """Declare the blob; raises LayerError for a bottom without a channel axis."""
        p = self.param.prelu_param
        self.check(len(shape) >= 2, f"needs a bottom of 2 axes or more, not {shape}")
        if self.runs_in_place:  # it keeps a copy
            self.reads_bottoms = frozenset()
        slopes = () if p.channel_shared else shape[1:2]
        self.add_blob("slope", slopes, p.filler if p.HasField("filler") else None, default=0.25)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write PRelu."""
        shape = self.blob_specs[0].shape or (1,)
        spread = (*shape, *[1] * (len(g.shape(bottoms[0])) - 2))
        return str(g.op("PRelu", [*bottoms, g.param(self, 0, shape=spread)]))


@layer("ELU")
class ELU(LayerType):
    """x above 0, else alpha * (e^x - 1); NVIDIA's lambda multiplies both."""

    fields = owns(elu_param=("alpha", "lambda"))
    compute = "caffeio.ops.neuron:elu"
    pure = True
    by_image = True
    reads_top = True
    reads_bottoms = frozenset({0})
    reads_signs = True
    backward = "caffeio.ops.backward:ELU"

    def setup(self, shape: Shape) -> None:
        """Read the fields."""
        p = self.param.elu_param
        self.alpha, self.scale = p.alpha, getattr(p, "lambda")
        self.keeps_signs = self.alpha >= 0 and self.scale > 0

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Elu."""
        return g.scaled(g.op("Elu", bottoms, alpha=self.alpha), self.scale)


@layer("AbsVal")
class AbsVal(LayerType):
    """|x|; gradient 0 at 0."""

    compute = "caffeio.ops.neuron:absolute"
    pure = True
    reads_bottoms = frozenset({0})
    in_place = False

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Abs."""
        return str(g.op("Abs", bottoms))


@layer("BNLL")
class BNLL(LayerType):
    """log(1 + e^x)."""

    compute = "caffeio.ops.neuron:bnll"
    pure = True
    reads_bottoms = frozenset({0})

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Softplus."""
        return str(g.op("Softplus", bottoms))


@layer("Clip")
class Clip(LayerType):
    """max(min, min(x, max)); gradient 1 inside, the ends included."""

    fields = owns(clip_param=("min", "max"))
    compute = "caffeio.ops.neuron:clip"
    pure = True
    backward = "caffeio.ops.backward:Clip"
    reads_bottoms = frozenset({0})

    def setup(self, shape: Shape) -> None:
        """Raises LayerError unless both limits are given."""
        p = self.param.clip_param
        for name in ("min", "max"):
            self.check(p.HasField(name), "must be given", field=f"clip_param.{name}")
        self.limits = (p.min, p.max)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Clip; Min and Max where min is above max."""
        low, high = (g.const(v, "limit") for v in self.limits)
        if self.limits[0] > self.limits[1]:
            return str(g.op("Max", [g.op("Min", [*bottoms, high]), low]))
        return str(g.op("Clip", [*bottoms, low, high]))


@layer("Sigmoid")
class Sigmoid(LayerType):
    """1 / (1 + e^-x)."""

    fields = owns(sigmoid_param=())
    compute = "caffeio.ops.neuron:sigmoid"
    pure = True
    by_image = True
    fresh = True
    reads_top = True
    backward = "caffeio.ops.backward:Sigmoid"

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Sigmoid."""
        return str(g.op("Sigmoid", bottoms))


@layer("TanH")
class TanH(LayerType):
    """tanh(x)."""

    fields = owns(tanh_param=())
    compute = "caffeio.ops.neuron:tanh"
    pure = True
    by_image = True
    fresh = True
    reads_top = True
    backward = "caffeio.ops.backward:TanH"

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Tanh."""
        return str(g.op("Tanh", bottoms))


@layer("Swish")
class Swish(LayerType):
    """x / (1 + e^(-beta x))."""

    fields = owns(swish_param=("beta",))
    compute = "caffeio.ops.neuron:swish"
    pure = True
    by_image = True
    reads_top = True
    backward = "caffeio.ops.backward:Swish"

    def setup(self, shape: Shape) -> None:
        """Read beta."""
        self.beta = self.param.swish_param.beta

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write x times Sigmoid."""
        return str(g.op("Mul", [*bottoms, g.op("Sigmoid", [g.scaled(bottoms[0], self.beta)])]))


@layer("Threshold")
class Threshold(LayerType):
    """1 where x > threshold, else 0."""

    fields = owns(threshold_param=("threshold",))
    compute = "caffeio.ops.neuron:threshold"
    pure = True
    differentiable = False

    def setup(self, shape: Shape) -> None:
        """Read the threshold."""
        self.threshold = self.param.threshold_param.threshold

    def dies_backward(self, needs: Sequence[bool]) -> str:
        """Say that there is no backward pass."""
        return f"{self.type_name} has no backward pass, and a gradient would go through it"

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write Greater."""
        return g.to_float(g.op("Greater", [*bottoms, g.const(self.threshold, "threshold")]))
