"""Losses between two blobs: Euclidean, L1, SmoothL1 (Fast R-CNN, SSD, R-FCN), Contrastive.

Sources: src/caffe/layers/euclidean_loss_layer.cpp, contrastive_loss_layer.cpp (BVLC),
l1_loss_layer.cpp, smooth_L1_loss_layer.cpp (NVIDIA, SSD: 2..3 bottoms; Intel, py-faster-rcnn: 2 or
4), smooth_L1_loss_ohem_layer.cpp (Intel, R-FCN).
"""

from __future__ import annotations

from math import prod

from caffeio.layers.base import LayerType, Shape, between, exactly, owns
from caffeio.layers.labels import check_same_count, check_same_num, normalization
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape


class PairLoss(LayerType):
    """A loss of two blobs with equally many numbers for each item; both may get gradients."""

    bottoms = exactly(2)
    is_loss = True
    in_place = False
    unforced_bottoms = frozenset()

    def setup(self, *shapes: Shape) -> None:
        """Compare the bottoms' shapes."""
        check_same_num(self, shapes[0], shapes[1])
        check_same_count(self, shapes[0], shapes[1], "bottom 1")


@layer("EuclideanLoss")
class EuclideanLoss(PairLoss):
    """sum((a - b)^2) / (2 N), N = a.shape[0]."""

    short_type = "L2Loss"
    compute = "caffeio.ops.loss:euclidean_loss"
    pure = True

    def dies_forward(self) -> str:
        """Say that a bottom has too many axes."""
        return self.legacy_axes(0)


@layer("L1Loss")
class L1Loss(PairLoss):
    """sum(|a - b|) / N (NVIDIA); the gradient where a equals b is 0."""

    compute = "caffeio.ops.loss:l1_loss"


def check_weights(layer: LayerType, shapes: tuple[Shape, ...]) -> None:
    """Raise unless every bottom from the third on holds as many numbers as the first."""
    for i, shape in enumerate(shapes[2:], 2):
        layer.check(
            prod(shape) == prod(shapes[0]),
            f"bottom {i} ({caffe_shape(shape)}) must hold a weight for each number of bottom 0 "
            f"({caffe_shape(shapes[0])})",
        )


@layer("SmoothL1Loss")
class SmoothL1Loss(PairLoss):
    """sum(w_out * smooth_l1(w_in * (a - b))) / N with smooth_l1_loss_param.sigma.

    Four bottoms: prediction, target, inside and outside weights. Three (SSD, NVIDIA): prediction,
    target, weights; their gradient is not multiplied by the weights again, as in those Caffes.
    Weights get no gradient. With `normalization: NONE` the sum is not divided (Intel).
    """

    bottoms = between(2, 4)
    reads_loss_param = True
    fields = owns(smooth_l1_loss_param=("sigma",))
    compute = "caffeio.ops.loss:smooth_l1_loss"

    def setup(self, *shapes: Shape) -> None:
        """Compare the shapes of all bottoms."""
        super().setup(*shapes)
        self.sigma: float = self.param.smooth_l1_loss_param.sigma
        self.check(self.sigma > 0, "sigma must be positive", field="smooth_l1_loss_param.sigma")
        check_weights(self, shapes)
        none = normalization(self, "BATCH_SIZE") == "NONE"
        self.divide = not (none and self.profile.smooth_l1_normalization)


@layer("SmoothL1LossOHEM")
class SmoothL1LossOHEM(PairLoss):
    """SmoothL1 of R-FCN with sigma 1: loss and, as second top, the loss of each item (N,1,H,W).

    Bottoms: prediction (N,C,H,W), target, optional weights, which the gradient leaves out. VALID
    divides by N * H * W, as FULL does.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    reads_loss_param = True
    compute = "caffeio.ops.loss:smooth_l1_loss_ohem"

    def setup(self, *shapes: Shape) -> None:
        """Compare the shapes of all bottoms."""
        super().setup(*shapes)
        check_weights(self, shapes)
        self.check(len(shapes[0]) <= 4, f"bottom 0 ({caffe_shape(shapes[0])}) has more than 4 axes")
        self.mode = normalization(self, "VALID")

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give a scalar, and the loss of each item (N, 1, H, W) when there is a second top."""
        n, _, h, w = (*bottoms[0], 1, 1, 1)[:4]
        return ((), (n, 1, h, w))[: self.n_tops]


@layer("ContrastiveLoss")
class ContrastiveLoss(LayerType):
    """1/(2N) sum[y d^2 + (1 - y) max(margin - d, 0)^2], d = |a - b|; legacy: max(margin - d^2, 0).

    Bottoms: a, b (N,C[,1,1]) and y (N), which is not 0 for similar pairs. Source of the loss:
    Hadsell, Chopra, LeCun 2006.
    """

    bottoms = exactly(3)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({2})
    unforced_bottoms = frozenset({2})
    fields = owns(contrastive_loss_param=("margin", "legacy_version"))
    compute = "caffeio.ops.loss:contrastive_loss"

    def setup(self, *shapes: Shape) -> None:
        """Check that the bottoms are pairs of vectors and one flag for each pair."""
        a, b, y = shapes
        check_same_num(self, a, b)
        flat = all(n == 1 for shape in (a, b) for n in shape[2:])
        same = len(a) >= 2 and len(b) >= 2 and a[1] == b[1]
        self.check(
            flat and same and len(a) <= 4 and len(b) <= 4,
            f"bottoms 0 and 1 must be vectors (N, C) or (N, C, 1, 1) of the same size, not "
            f"{caffe_shape(a)} and {caffe_shape(b)}",
        )
        self.check(
            y[:1] == a[:1] and all(n == 1 for n in y[1:]),
            f"bottom 2 must hold one number for each of {a[0]} pairs, not {caffe_shape(y)}",
        )
        self.margin: float = self.param.contrastive_loss_param.margin
        self.legacy: bool = self.param.contrastive_loss_param.legacy_version
