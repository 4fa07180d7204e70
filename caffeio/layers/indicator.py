"""ContinuationIndicator: where the sequences of a recurrent layer begin.

Source: src/caffe/layers/continuation_indicator_layer.cpp (jolibrain/caffe).
"""

from __future__ import annotations

from torch import Tensor

from caffeio.layers.base import Layer, Shape, layer


@layer("ContinuationIndicator")
class ContinuationIndicator(Layer):
    """(time_step, N): 0 in the first step, 1 in the others; N is the bottom's size along axis."""

    differentiable = False
    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check time_step and the axis."""
        p, field = self.param.continuation_indicator_param, "continuation_indicator_param"
        self.steps: int = p.time_step
        self.check(self.steps > 0, "must be positive", field=f"{field}.time_step")
        self.along = self.axis(p.axis, len(shapes[0]), f"{field}.axis")

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the indicators."""
        top = bottoms[0].new_ones(self.steps, bottoms[0].shape[self.along])
        top[0] = 0
        return top
