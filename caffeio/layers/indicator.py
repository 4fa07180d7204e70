"""ContinuationIndicator: where the sequences of a recurrent layer begin.

Source: src/caffe/layers/continuation_indicator_layer.cpp (jolibrain/caffe).
"""

from __future__ import annotations

from caffeio.layers.base import LayerType, Shape, layer, owns


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
