"""Dropout and SpatialDropout.

Sources: src/caffe/layers/dropout_layer.cpp, spatial_dropout_layer.cpp of Intel Caffe,
dropout_layer.cpp of the forks for Fast R-CNN (scale_train), SegNet (sample_weights_test) and
happynear's (sqrt_scale); Srivastava et al. 2014.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffeio.layers.base import LayerType, Shape, owns
from caffeio.layers.registry import layer

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


class RandomMask(LayerType):
    """What both have: the ratio."""

    ratio: float

    keeps_signs = True  # what is dropped gets no gradient, whatever its sign was

    def read_ratio(self, ratio: float, field: str) -> None:
        """Set `ratio`; raises LayerError unless it is in [0, 1)."""
        self.ratio = ratio
        self.check(0 <= ratio < 1, f"must be in [0, 1), not {ratio:g}", field=field)


@layer("Dropout")
class Dropout(RandomMask):
    """In TRAIN each value is 0 with probability r, else divided by 1 - r; in TEST the identity.

    The mask is new in every forward. Forks: `scale_train: false` keeps the values in TRAIN and
    multiplies by 1 - r in TEST, `sqrt_scale` divides by the root of 1 - r, `sample_weights_test`
    drops in TEST too.
    """

    fields = owns(
        dropout_param=("dropout_ratio", "scale_train", "sqrt_scale", "sample_weights_test")
    )
    compute = "caffeio.ops.dropout:dropout"

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for a ratio outside of [0, 1)."""
        p = self.param.dropout_param
        self.read_ratio(p.dropout_ratio, "dropout_param.dropout_ratio")
        self.drops = self.train_phase or p.sample_weights_test
        self.pure = not self.drops
        self.factor = 1.0  # on top of 1 / (1 - r) or the identity
        if not p.scale_train:
            self.factor = 1 - self.ratio
        elif p.sqrt_scale and self.drops:
            self.factor = math.sqrt(1 - self.ratio)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write nothing, or a constant factor, where nothing is dropped."""
        if self.drops and self.ratio:
            raise g.unsupported("it drops at random")
        return g.scaled(bottoms[0], self.factor)


@layer("SpatialDropout")
class SpatialDropout(RandomMask):
    """Dropout of whole planes: one draw for each item and channel."""

    fields = owns(spatial_dropout_param=None, dropout_param=None)  # the profile's one counts
    compute = "caffeio.ops.dropout:spatial_dropout"

    def setup(self, shape: Shape) -> None:
        """Raises LayerError for a ratio outside of [0, 1) or a bottom without channels."""
        self.check(len(shape) >= 2, f"needs a bottom of 2 axes or more, not {shape}")
        field = self.profile.spatial_dropout_field
        self.read_ratio(getattr(self.param, field).dropout_ratio, f"{field}.dropout_ratio")

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write nothing: in TEST the bottom is the top."""
        if self.train_phase and self.ratio:
            raise g.unsupported("it drops at random")
        return bottoms[0]
