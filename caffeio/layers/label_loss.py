"""Losses between scores and labels other than SoftmaxWithLoss.

Sources: src/caffe/layers/hinge_loss_layer.cpp, multinomial_logistic_loss_layer.cpp,
sigmoid_cross_entropy_loss_layer.cpp (BVLC and Intel).
"""

from __future__ import annotations

from math import prod

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.labels import check_same_num, ignore_label, normalization
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape


class LabelLoss(LayerType):
    """A loss of scores (N, ...) and one label for each item."""

    bottoms = exactly(2)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check the first dimension and the number of labels."""
        scores, labels = shapes[:2]
        check_same_num(self, scores, labels)
        self.check(
            prod(labels) == scores[0],
            f"there must be one label for each of {scores[0]} items, not {caffe_shape(labels)}",
        )


@layer("HingeLoss")
class HingeLoss(LabelLoss):
    """sum of max(0, 1 + s x)^p / N, s = -1 at the label, else 1; p = 1 (norm L1) or 2 (L2)."""

    fields = owns(hinge_loss_param=("norm",))
    compute = "caffeio.ops.label_loss:hinge_loss"

    def dies_forward(self) -> str:
        """Say that a bottom has too many axes."""
        return self.legacy_axes(0)

    def setup(self, *shapes: Shape) -> None:
        """Read the norm."""
        super().setup(*shapes)
        self.squared = self.param.hinge_loss_param.norm == pb.HingeLossParameter.L2


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(LabelLoss):
    """sum of -log(max(p[label], 1e-20)) / N; the bottom holds probabilities."""

    compute = "caffeio.ops.label_loss:multinomial_logistic_loss"

    def dies_forward(self) -> str:
        """Say that a bottom has too many axes."""
        return self.legacy_axes(0)


@layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(LayerType):
    """sum of -t log(s(x)) - (1 - t) log(1 - s(x)) over a divisor, s the sigmoid.

    The divisor is BATCH_SIZE unless loss_param says otherwise; targets whose integer part is the
    ignore_label do not count. In Intel's profile it is N (1 with NONE) and nothing is ignored.
    """

    short_type = "SigmoidLoss"
    predicts = "Sigmoid"
    bottoms = exactly(2)
    is_loss = True
    reads_loss_param = True
    in_place = False
    label_bottoms = frozenset({1})
    compute = "caffeio.ops.label_loss:sigmoid_cross_entropy_loss"

    def setup(self, *shapes: Shape) -> None:
        """Check the counts and read loss_param."""
        check_same_num(self, shapes[0], shapes[1])
        self.check(
            prod(shapes[0]) == prod(shapes[1]),
            f"scores and targets must have the same count: {caffe_shape(shapes[0])} and "
            f"{caffe_shape(shapes[1])}",
        )
        self.mode = normalization(self, "BATCH_SIZE")
        self.ignore = ignore_label(self)
        if not self.profile.sigmoid_loss_normalization:
            self.mode = "NONE" if self.mode == "NONE" else "BATCH_SIZE"
            self.ignore = None
