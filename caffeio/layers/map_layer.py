"""The base of layers on feature maps."""

from __future__ import annotations

from caffeio.layers.base import LayerType, Shape
from caffeio.shape_text import caffe_shape


class MapLayer(LayerType):
    """A layer on feature maps (N,C,H,W)."""

    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check the number of axes."""
        self.check(
            len(shapes[0]) == 4, f"needs a bottom (N, C, H, W), not one of {caffe_shape(shapes[0])}"
        )
