"""A layer type for caffeio, and a Python layer of some project: importing registers both."""

from __future__ import annotations

from torch import Tensor

from caffeio.layers import Layer, layer
from caffeio.layers.python.layer import python_layer


@python_layer("project.layers", "SoftsignLayer")
@layer("Softsign")
class Softsign(Layer):
    """x / (1 + |x|) * scale; the scale is a learnable number that starts at 1."""

    def setup(self, *shapes: tuple[int, ...]) -> None:
        """Declare the scale."""
        self.add_blob("scale", (), default=1.0)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return a blob of the bottom's shape."""
        x = bottoms[0]
        return x / (1 + x.abs()) * self.blobs[0]
