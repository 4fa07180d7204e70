"""Dropout and SpatialDropout.

Sources: src/caffe/layers/dropout_layer.cpp, spatial_dropout_layer.cpp of Intel Caffe,
dropout_layer.cpp of the forks for Fast R-CNN (scale_train), SegNet (sample_weights_test) and
happynear's (sqrt_scale); Srivastava et al. 2014.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.layers.base import Layer, Shape, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.onnx.graph import OnnxGraph

if TYPE_CHECKING:
    from caffeio.boost_random import CaffeRng


class RandomMask(Layer):
    """What both have: the ratio, and, where the net has a seed, the masks of real Caffe."""

    keeps_signs = True  # what is dropped gets no gradient, whatever its sign was

    def read_ratio(self, ratio: float, field: str) -> None:
        """Set `ratio`; raises LayerError unless it is in [0, 1)."""
        self.ratio = ratio
        self.check(0 <= ratio < 1, f"must be in [0, 1), not {ratio:g}", field=field)

    def caffe_mask(self, rng: CaffeRng, like: Tensor, shape: Shape) -> Tensor:
        """0 with probability `ratio`, else 1 / (1 - ratio): a tensor of `shape`, drawn by `rng`."""
        keep = torch.from_numpy(rng.bernoulli(1.0 - self.ratio, math.prod(shape)))
        return keep.view(shape).to(like) * (1 / (1 - self.ratio))


@layer("Dropout")
class Dropout(RandomMask):
    """In TRAIN each value is 0 with probability r, else divided by 1 - r; in TEST the identity.

    The mask is new in every forward. Forks: `scale_train: false` keeps the values in TRAIN and
    multiplies by 1 - r in TEST, `sqrt_scale` divides by the root of 1 - r, `sample_weights_test`
    drops in TEST too.
    """

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for a ratio outside of [0, 1)."""
        p = self.param.dropout_param
        known = ("dropout_ratio", "scale_train", "sqrt_scale", "sample_weights_test")
        check_fields(self, "dropout_param", known)
        self.read_ratio(p.dropout_ratio, "dropout_param.dropout_ratio")
        self.drops = self.train_phase or p.sample_weights_test
        self.factor = 1.0  # on top of 1 / (1 - r) or the identity
        if not p.scale_train:
            self.factor = 1 - self.ratio
        elif p.sqrt_scale and self.drops:
            self.factor = math.sqrt(1 - self.ratio)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(any shape) -> the same shape."""
        if self.rng is not None and self.drops and not x.is_meta:
            y = x * self.caffe_mask(self.rng, x, tuple(x.shape))
        else:
            y = F.dropout(x, self.ratio, self.drops)
        return y if self.factor == 1 else y * self.factor

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Nothing, or a constant factor, where nothing is dropped."""
        if self.drops and self.ratio:
            raise g.unsupported("it drops at random")
        return g.scaled(bottoms[0], self.factor)


@layer("SpatialDropout")
class SpatialDropout(RandomMask):
    """Dropout of whole planes: one draw for each item and channel."""

    def setup(self, shape: Shape) -> None:  # type: ignore[override]
        """Raises LayerError for a ratio outside of [0, 1) or a bottom without channels."""
        self.check(len(shape) >= 2, f"needs a bottom of 2 axes or more, not {shape}")
        field = self.profile.spatial_dropout_field
        self.read_ratio(getattr(self.param, field).dropout_ratio, f"{field}.dropout_ratio")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, ...) -> the same shape."""
        if self.rng is not None and self.train_phase and not x.is_meta:
            planes = (*x.shape[:2], *[1] * (x.dim() - 2))
            return x * self.caffe_mask(self.rng, x, planes)
        return torch.feature_dropout(x, self.ratio, self.train_phase)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Nothing: in TEST the bottom is the top."""
        if self.train_phase and self.ratio:
            raise g.unsupported("it drops at random")
        return bottoms[0]
