"""Gradients that are Caffe's, not the function's: see `caffeio.ops.gradients`."""

from __future__ import annotations

from caffeio.layers.base import LayerType
from caffeio.ops.gradients import with_gradient

__all__ = ["is_in_place", "with_gradient"]


def is_in_place(layer: LayerType) -> bool:
    """Whether the layer's first top is its first bottom."""
    return layer.runs_in_place
