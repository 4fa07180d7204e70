"""YOLO version 2 in Intel's Caffe: RegionLoss and EvalDetection.

Sources: src/caffe/layers/region_loss_layer.cpp, eval_detection_layer.cpp (intel/caffe).
"""

from __future__ import annotations

from typing import Any

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape

LEAST_SCORE = 0.005  # of the detections that EvalDetection counts


class Region(LayerType):
    """Bottoms (N, boxes x (5 + classes), side, side) and ground truth (1, 1, boxes, 8)."""

    bottoms = exactly(2)
    in_place = False
    anchors: Any  # (boxes, 2)

    def read(self, p: Any, boxes: int, shapes: tuple[Shape, ...], field: str) -> None:
        """Check the map and the anchors of `p`, a parameter message."""
        import numpy as np

        self.side, self.classes, self.boxes = p.side, p.num_class, boxes
        wanted = (boxes * (5 + p.num_class), p.side, p.side)
        self.check(
            shapes[0][1:] == wanted, f"bottom 0 must be {caffe_shape((shapes[0][0], *wanted))}, "
            f"not {caffe_shape(shapes[0])}",
        )  # fmt: skip
        self.check(
            shapes[1][-1:] == (8,), f"ground truth has rows of 8, not {caffe_shape(shapes[1])}"
        )
        self.check(
            len(p.biases) >= 2 * boxes, f"{boxes} boxes need {2 * boxes} numbers",
            field=f"{field}.biases",
        )  # fmt: skip
        anchors = np.array(p.biases[: 2 * boxes], np.float32).reshape(-1, 2)
        self.add_buffer("anchors", anchors)


@layer("RegionLoss")
class RegionLoss(Region):
    """The sum of squares of YOLO's gradient, which is what goes back (divided by N).

    Each truth's cell and best anchor learn its place (errors cut to 1), its class (softmax) and
    that something is there (focal, cubed); other boxes that overlap no truth by thresh learn that
    nothing is. Of several truths of one cell and anchor the last one counts.
    """

    is_loss = True
    fields = owns(region_loss_param=None)
    label_bottoms = frozenset({1})
    compute = "caffeio.ops.yolo.region:region_loss"

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters."""
        p, field = self.param.region_loss_param, "region_loss_param"
        for name in ("softmax_tree", "class_map"):
            self.check(not getattr(p, name), "is not supported", field=f"{field}.{name}")
        self.check(p.coords == 4, "must be 4", field=f"{field}.coords")
        self.read(p, p.num, shapes, field)


@layer("EvalDetection")
class EvalDetection(Region):
    """Counts of truths, and rows (label, score, true, false), for each image.

    Top (N, num_class + 4 x boxes): how many truths each class has, then the boxes that are left
    after suppression by label and falling score, then zeros. A box that overlaps no truth of its
    label by the threshold is neither true nor false, unless there is no such truth at all.
    Without nms there are no boxes, as in the source. Of the third bottom, the images, nothing is
    used.
    """

    is_metric = True
    bottoms = exactly(3)
    differentiable = False
    fields = owns(eval_detection_param=None)
    compute = "caffeio.ops.yolo.region:eval_detection"

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters."""
        p, field = self.param.eval_detection_param, "eval_detection_param"
        self.check(p.num_object == 5, "must be 5", field=f"{field}.num_object")
        self.read(p, p.num_object, shapes, field)
        self.score = pb.EvalDetectionParameter.ScoreType.Name(p.score_type)

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give (N, num_class + 4 x boxes)."""
        return ((bottoms[0][0], self.classes + self.side**2 * self.boxes * 4),)
