"""Yolov3: the loss of YOLO version 3; YoloSeg and SegmentationEvaluate of the same fork.

Sources: src/caffe/layers/yolov3_layer.cpp, yolo_seg.cpp, segmentation_evaluate_layer.cpp
(eric612/MobileNet-YOLO, the CPU forms).
"""

from __future__ import annotations

from math import prod
from typing import Any

from caffeio.layers.base import LayerType, Shape, between, exactly, owns
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

KNOWN = (
    "side", "num_class", "num", "object_scale", "class_scale", "noobject_scale", "coord_scale",
    "thresh", "anchors_scale", "biases", "mask", "use_logic_gradient", "iou_normalizer",
    "iou_thresh", "max_delta", "accumulate", "label_smooth_eps",
)  # fmt: skip
KNOWN_SEG = ("num_class", "object_scale", "class_scale", "use_logic_gradient")


@layer("Yolov3")
class Yolov3(LayerType):
    """The sum of squares of YOLO's gradient over N; that gradient over N goes back.

    Bottoms: maps (N, boxes x (5 + classes), H, W), truths (N, rows of class, x, y, width, height;
    the first row of x or width 0 ends them). A truth belongs to the anchor whose shape fits best,
    if that is one of mask, and to all of mask that overlap it by iou_thresh; there it gives its
    place, object 1 and its class, softened by label_smooth_eps. Other boxes that overlap no truth
    by thresh learn that nothing is there. Only the squared error of boxes (MSE) is supported.
    """

    bottoms = exactly(2)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1})
    anchors: Any  # all of them, (anchors, 2)
    fields = owns(yolov3_param=KNOWN)
    compute = "caffeio.ops.yolo.yolov3:yolov3"

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters and read the anchors."""
        import numpy as np

        p, field = self.param.yolov3_param, "yolov3_param"
        self.classes, self.boxes = p.num_class, p.num
        wanted = self.boxes * (5 + self.classes)
        self.check(
            len(shapes[0]) == 4 and shapes[0][1] == wanted,
            f"bottom 0 must have {wanted} channels, not {caffe_shape(shapes[0])}",
        )
        self.check(
            len(p.mask) >= self.boxes, f"must name the anchors of {self.boxes} boxes",
            field=f"{field}.mask",
        )  # fmt: skip
        self.check(
            all(m < len(p.biases) // 2 for m in p.mask),
            "names an anchor that biases does not have",
            field=f"{field}.mask",
        )  # fmt: skip
        self.mask = list(p.mask[: self.boxes])
        self.check(len(p.biases) % 2 == 0, "must be pairs", field=f"{field}.biases")
        self.add_buffer("anchors", np.array(p.biases, np.float32).reshape(-1, 2))


@layer("YoloSeg")
class YoloSeg(LayerType):
    """Sum of d^2 over N, d = object_scale (sigmoid(x) - label); what goes back is d over N.

    With a third bottom (N, C), the pixels of each class, what is labelled counts 2 - r times as
    much, r the ratio of the class's pixels to the others in the batch.
    """

    bottoms = between(2, 3)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})
    fields = owns(yolo_seg_param=KNOWN_SEG)
    compute = "caffeio.ops.yolo.yolov3:yolo_seg"

    def setup(self, *shapes: Shape) -> None:
        """Check that there is one label for each number."""
        scores, labels = shapes[:2]
        self.check(
            prod(scores) == prod(labels),
            f"bottoms must have the same count: {caffe_shape(scores)} and {caffe_shape(labels)}",
        )
        self.check(
            len(shapes) < 3 or prod(shapes[2]) % scores[1] == 0,
            f"bottom 2 must hold one number for each channel of {caffe_shape(scores)}, not "
            f"{caffe_shape(shapes[-1])}",
        )


@layer("SegmentationEvaluate")
class SegmentationEvaluate(LayerType):
    """Intersection over union of each channel of the first item, (1, 1, 1, C).

    What is greater than the threshold counts, in scores and in labels, which must be of the same
    size (the source shrinks or enlarges other scores as 8-bit images).
    """

    is_metric = True
    bottoms = exactly(2)
    differentiable = False
    in_place = False
    fields = owns(segmentation_evaluate_param=None)
    compute = "caffeio.ops.yolo.yolov3:segmentation_evaluate"

    def setup(self, *shapes: Shape) -> None:
        """Check the sizes."""
        field = "segmentation_evaluate_param.num_classes"
        p = self.param.segmentation_evaluate_param
        self.check(p.HasField("num_classes"), "must be set", field=field)
        self.check(
            len(shapes[0]) == 4 and shapes[0][1:] == shapes[1][1:],
            f"scores and labels must be of one size: {caffe_shape(shapes[0])} and "
            f"{caffe_shape(shapes[1])}",
        )

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give (1, 1, 1, C)."""
        return ((1, 1, 1, bottoms[0][1]),)
