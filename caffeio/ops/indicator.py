"""ContinuationIndicator: where the sequences of a recurrent layer begin.

Source: src/caffe/layers/continuation_indicator_layer.cpp (jolibrain/caffe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from caffeio.layers.indicator import ContinuationIndicator


def continuation_indicator(layer: ContinuationIndicator, *bottoms: Tensor) -> Tensor:
    """Return the indicators."""
    top = bottoms[0].new_ones(layer.steps, bottoms[0].shape[layer.along])
    top[0] = 0
    return top
