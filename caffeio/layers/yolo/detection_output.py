"""What YOLO nets find: YoloDetectionOutput (version 2) and Yolov3DetectionOutput.

Sources: src/caffe/layers/yolo_detection_output_layer.cpp, yolov3_detection_output_layer.cpp of
eric612/MobileNet-YOLO (the CPU forms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caffeio.layers.base import LayerType, Shape, at_least, between, owns
from caffeio.layers.registry import layer
from caffeio.shape_text import caffe_shape

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph


class YoloOutput(LayerType):
    """Bottoms (N, boxes x (5 + classes), H, W); top (1, 1, found, 7) as DetectionOutput's.

    All boxes of all images, of all classes, are suppressed together and called image 0, as in the
    source: use one image at a time. Without any box each image gets a row of -1.
    """

    differentiable = False
    in_place = False
    dynamic = True
    classes: int
    boxes: int
    least: float
    threshold: float

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give one row, as long as it is not known how many are found."""
        return ((1, 1, 1, 7),)

    def check_maps(self, shapes: tuple[Shape, ...]) -> None:
        """Check the channels of every bottom."""
        wanted = self.boxes * (5 + self.classes)
        for i, shape in enumerate(shapes):
            self.check(
                len(shape) == 4 and shape[1] == wanted,
                f"bottom {i} must have {wanted} channels, not {caffe_shape(shape)}",
            )


@layer("YoloDetectionOutput")
class YoloDetectionOutput(YoloOutput):
    """The boxes of YOLO version 2: the likeliest class of each, softmax times objectness.

    Anchors (biases) are in cells. A second bottom of another size is read in the same way.
    """

    may_end = True
    bottoms = between(1, 2)
    fields = owns(yolo_detection_output_param=None)
    compute = "caffeio.ops.yolo.detection_output:yolo_detection_output"

    def setup(self, *shapes: Shape) -> None:
        """Read the parameters."""
        p, field = self.param.yolo_detection_output_param, "yolo_detection_output_param"
        self.classes, self.boxes = p.num_classes, p.num_box
        self.least, self.threshold = p.confidence_threshold, p.nms_threshold
        self.check(p.HasField("num_classes"), "must be set", field=f"{field}.num_classes")
        self.check(p.coords == 4, "must be 4", field=f"{field}.coords")
        self.check(
            len(p.biases) >= 2 * self.boxes, f"{self.boxes} boxes need {2 * self.boxes} numbers",
            field=f"{field}.biases",
        )  # fmt: skip
        self.check_maps(shapes)

    def arguments(self) -> dict[str, Any]:
        """What `caffeio.ops.yolo.detection_output.yolo_detections` is told."""
        biases = list(self.param.yolo_detection_output_param.biases[: 2 * self.boxes])
        anchors = list(zip(biases[::2], biases[1::2], strict=True))
        return {"anchors": anchors, "least": self.least, "threshold": self.threshold}

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write NonMaxSuppression of the boxes of both maps."""
        from caffeio.layers.onnx.regions import onnx_yolo

        biases = list(self.param.yolo_detection_output_param.biases[: 2 * self.boxes])
        anchors = [list(zip(biases[::2], biases[1::2], strict=True))] * len(bottoms)
        sides = [g.shape(x)[3] for x in bottoms]
        return onnx_yolo(self, g, bottoms, anchors, [(n, n) for n in sides], best_class=True)


@layer("Yolov3DetectionOutput")
class Yolov3DetectionOutput(YoloOutput):
    """The boxes of YOLO version 3: every class whose sigmoid times objectness is great enough.

    Bottom t has its own anchors, those of the t-th part of mask, in pixels of an image
    anchors_scale[t] times as large as the map.
    """

    may_end = True
    bottoms = at_least(1)
    fields = owns(
        yolov3_detection_output_param=(
            "num_classes", "num_box", "confidence_threshold", "nms_threshold", "biases",
            "anchors_scale", "mask_group_num", "mask",
        )
    )  # fmt: skip
    compute = "caffeio.ops.yolo.detection_output:yolov3_detection_output"

    def setup(self, *shapes: Shape) -> None:
        """Read the parameters."""
        field = "yolov3_detection_output_param"
        p = self.param.yolov3_detection_output_param
        self.classes, self.boxes = p.num_classes, p.num_box
        self.least, self.threshold = p.confidence_threshold, p.nms_threshold
        self.check(p.HasField("num_classes"), "must be set", field=f"{field}.num_classes")
        count = len(shapes)
        self.check(
            p.mask_group_num == count, f"must be {count}, the number of bottoms",
            field=f"{field}.mask_group_num",
        )  # fmt: skip
        group = len(p.mask) // count
        self.check(
            group >= self.boxes, f"{count} bottoms of {self.boxes} boxes need as many numbers",
            field=f"{field}.mask",
        )  # fmt: skip
        self.check(
            all(m < len(p.biases) // 2 for m in p.mask),
            "names an anchor that biases does not have",
            field=f"{field}.mask",
        )  # fmt: skip
        self.check(
            len(p.anchors_scale) >= count, "must be given for each bottom",
            field=f"{field}.anchors_scale",
        )  # fmt: skip
        self.groups = [
            [(p.biases[2 * m], p.biases[2 * m + 1]) for m in p.mask[i * group :][: self.boxes]]
            for i in range(count)
        ]
        self.check_maps(shapes)

    def arguments(self) -> dict[str, Any]:
        """What `caffeio.ops.yolo.detection_output.yolov3_detections` is told."""
        scales = list(self.param.yolov3_detection_output_param.anchors_scale)
        anchors = [[tuple(pair) for pair in group] for group in self.groups]
        return {
            "anchors": anchors, "scales": scales, "least": self.least, "threshold": self.threshold,
        }  # fmt: skip

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write NonMaxSuppression of the boxes of all maps."""
        from caffeio.layers.onnx.regions import onnx_yolo

        factors = self.param.yolov3_detection_output_param.anchors_scale
        scales = [
            (g.shape(x)[3] * f, g.shape(x)[2] * f) for x, f in zip(bottoms, factors, strict=False)
        ]
        return onnx_yolo(self, g, bottoms, self.groups, scales, best_class=False)
