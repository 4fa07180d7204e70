"""SoftmaxWithLoss and its OHEM variant: cross entropy of a softmax, with Caffe's gradients.

Sources: src/caffe/layers/softmax_loss_layer.cpp (BVLC; Intel: third bottom, label smoothing),
softmax_loss_layer.cu (NVIDIA: label smoothing), softmax_loss_ohem_layer.cu (R-FCN), the
class_weighting of caffe-segnet's softmax_loss_layer.cpp.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from caffeio.layers.base import LayerType, Shape, between, owns
from caffeio.layers.labels import check_label_count, check_same_num, ignore_label, normalization
from caffeio.layers.registry import layer


class Smoothing(NamedTuple):
    """Label smoothing, which Caffes apply to the gradient only: scale * p - others, - true."""

    scale: float  # factor of the probabilities
    others: float  # subtracted from every class
    true: float  # further subtracted from the true class


def smoothing_of(kind: str | None, epsilon: float, dim: int) -> Smoothing | None:
    """The gradient's constants; `dim` is classes times positions, as both forks have it."""
    if not epsilon:
        return None
    if kind == "nvidia":
        return Smoothing(1.0, epsilon / (dim - 1), 1.0 - epsilon) if epsilon > 0 else None
    others = epsilon / dim
    true = 1.0 - epsilon
    return Smoothing(true + (dim - 1) * others, others, true - others)


class SoftmaxLossBase(LayerType):
    """Set-up and arithmetic of the two losses."""

    is_loss = True
    reads_loss_param = True
    in_place = False
    fields = owns(softmax_param=("axis",))
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check axis, label count and the forks' fields."""
        scores, labels = shapes[0], shapes[1]
        self.softmax_axis = self.axis(
            self.param.softmax_param.axis, len(scores), "softmax_param.axis"
        )
        self.ignore = ignore_label(self)
        self.mode = normalization(self, "VALID")
        check_same_num(self, scores, labels)
        check_label_count(self, scores, labels, self.softmax_axis, "softmax axis")
        self.smoothing = self._label_smoothing(scores)
        loss = self.param.loss_param
        for field in ("adaptive_weighting", "max_entropy_weight"):
            self.check(
                not loss.HasField(field) or getattr(loss, field) <= 0,
                "this weighting of the loss is not supported",
                field=f"loss_param.{field}",
            )
        self.class_weights: Any
        self.add_buffer("class_weights", self._class_weights(scores))

    def _class_weights(self, scores: Shape) -> Any:
        """caffe-segnet: the loss of an item is multiplied by the weight of its class."""
        param = self.param.loss_param
        if not param.weight_by_label_freqs:
            return None
        import numpy as np

        classes = scores[self.softmax_axis]
        self.check(
            len(param.class_weighting) == classes,
            f"one weight for each of {classes} classes is wanted, not {len(param.class_weighting)}",
            field="loss_param.class_weighting",
        )
        return np.array(param.class_weighting, np.float32)

    def _label_smoothing(self, scores: Shape) -> Smoothing | None:
        epsilon = self.param.loss_param.label_smoothing
        kind = self.profile.label_smoothing
        self.check(
            not epsilon or kind is not None,
            "only Intel's and NVIDIA's Caffe smooth labels: choose one of these profiles",
            field="loss_param.label_smoothing",
        )
        return smoothing_of(kind, epsilon, prod(scores[self.softmax_axis :]))


@layer("SoftmaxWithLoss")
class SoftmaxWithLoss(SoftmaxLossBase):
    """Mean of -log(max(softmax(x)[label], FLT_MIN)) along softmax_param.axis.

    Bottoms: scores, labels (as many as scores without the axis), optional weights of the items
    (Intel: the mean becomes a weighted one and `normalization` is not used). Tops: the loss (a
    scalar), optional probabilities. Label smoothing changes the gradient only.

    A label that is no class is a DataError on the CPU; on other devices, and in compiled code, it
    makes the loss and that item's gradient nan.
    """

    short_type = "SoftmaxLoss"
    predicts = "Softmax"
    bottoms = between(2, 3)
    tops = between(1, 2)
    compute = "caffeio.ops.softmax_loss:softmax_with_loss"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check the bottoms; a third one needs a weight for each label."""
        super().setup(*shapes)
        if len(shapes) == 3:
            self.check(
                self.profile.softmax_loss_weights,
                "takes 2 bottoms in this Caffe; a third one, with weights, is Intel's",
            )
            self.check(
                prod(shapes[2]) == prod(shapes[1]),
                f"bottom 2 must hold one weight for each label: {prod(shapes[2])} weights, "
                f"{prod(shapes[1])} labels",
            )
        whole = len(shapes) == 2 and self.ignore is None and self.n_tops == 1
        weighted = self.smoothing is not None or self.param.loss_param.weight_by_label_freqs
        tiny = self.profile.softmax_loss_nan_is_tiny
        self.plain = whole and not weighted and not tiny and self.softmax_axis == 1

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give a scalar, and the probabilities when there is a second top."""
        return ((), bottoms[0])[: self.n_tops]


@layer("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(SoftmaxLossBase):
    """SoftmaxWithLoss of R-FCN with a third top: the loss of each item, in the labels' shape.

    Follows the GPU code: ignored items count 0. (Intel's CPU code sums the wrong entries of a
    scratch buffer when labels are ignored.)
    """

    predicts = "Softmax"
    tops = between(1, 3)
    bottoms = between(2, 2)
    compute = "caffeio.ops.softmax_loss:softmax_with_loss_ohem"

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give a scalar, the probabilities and the losses of the items, as many as wanted."""
        return ((), *bottoms[:2])[: self.n_tops]
