"""Accuracy: how often the label is among the best classes.

Source: src/caffe/layers/accuracy_layer.cpp (BVLC; with sorting: Intel and BVLC before 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from caffeio.layers.base import LayerType, Shape, between, exactly, owns
from caffeio.layers.labels import check_label_count
from caffeio.layers.registry import layer


@layer("Accuracy")
class Accuracy(LayerType):
    """Share of items whose label is one of the top_k classes along accuracy_param.axis.

    Bottoms: scores, labels (as many as scores without the axis). Tops: the share (a scalar) and,
    optionally, the share for each class (0 for classes that no item has). Items with the
    ignore_label do not count. Ties, by profile: every class that ties with the label is better
    ("against_label"), or only those with a higher index ("higher_class"). Without items the share
    is 0 (BVLC) or nan (Intel).

    A label that is no class is a DataError on the CPU; elsewhere, and in compiled code, its item
    counts as wrong.
    """

    is_metric = True
    bottoms = exactly(2)
    tops = between(1, 2)
    differentiable = False
    in_place = False
    label_bottoms = frozenset({1})
    fields = owns(accuracy_param=("top_k", "axis", "ignore_label", "denominator", "min_is_better"))
    compute = "caffeio.ops.accuracy:accuracy"
    pure = True

    def dies_backward(self, needs: Sequence[bool]) -> str:
        """Say that there is no backward pass, if one is asked for."""
        return "Accuracy has no backward pass, and a gradient is asked for" if any(needs) else ""

    def setup(self, *shapes: Shape) -> None:
        """Check axis, label count and top_k."""
        param = self.param.accuracy_param
        scores, labels = shapes
        self.class_axis = self.axis(param.axis, len(scores), "accuracy_param.axis")
        check_label_count(self, scores, labels, self.class_axis, "axis")
        self.top_k: int = param.top_k
        classes = scores[self.class_axis]
        self.check(
            self.top_k <= classes or not prod(labels),
            f"top_k {self.top_k} is more than there are classes ({classes})",
            field="accuracy_param.top_k",
        )
        self.ignore = param.ignore_label if param.HasField("ignore_label") else None
        self.denominator: float = param.denominator  # lisa-caffe: instead of the number of items
        self.check(
            self.denominator >= 0, "must not be negative", field="accuracy_param.denominator"
        )
        self.check(
            not param.min_is_better, "is not supported", field="accuracy_param.min_is_better"
        )

        ties = self.profile.accuracy_ties == "against_label"
        whole = self.ignore is None and self.n_tops == 1
        self.plain = ties and whole and self.class_axis == 1  # BVLC's, of all items

    def shapes(self, scores: Shape, labels: Shape) -> tuple[Shape, ...]:
        """Give a scalar, and one number a class when there is a second top."""
        return ((), (scores[self.class_axis],))[: self.n_tops]
