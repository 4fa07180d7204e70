"""ContinuationIndicator: where the sequences of a recurrent layer begin.

Source: src/caffe/layers/continuation_indicator_layer.cpp (jolibrain/caffe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


@layer("ContinuationIndicator")
class ContinuationIndicator(LayerType):
    """(time_step, N): 0 in the first step, 1 in the others; N is the bottom's size along axis."""

    differentiable = False
    in_place = False
    fields = owns(continuation_indicator_param=("time_step", "axis"))
    compute = "caffeio.ops.indicator:continuation_indicator"

    def setup(self, *shapes: Shape) -> None:
        """Check time_step and the axis."""
        p, field = self.param.continuation_indicator_param, "continuation_indicator_param"
        self.steps: int = p.time_step
        self.check(self.steps > 0, "must be positive", field=f"{field}.time_step")
        self.along = self.axis(p.axis, len(shapes[0]), f"{field}.axis")

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Give (time_step, N)."""
        return ((self.steps, shape[self.along]),)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write a constant: nothing of it depends on the data."""
        if g.dynamic_batch:
            raise g.unsupported("it makes a blob for a batch whose size is not fixed")
        import numpy as np

        rows = np.ones(self.top_shapes[0], np.float32)
        rows[0] = 0
        return g.const(rows, "indicator")
