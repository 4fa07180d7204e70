"""DetectionOutput: the boxes that an SSD net finds.

Source: src/caffe/layers/detection_output_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caffeio.layers.base import LayerType, Shape, between, owns
from caffeio.layers.registry import layer
from caffeio.layers.ssd.boxes import check_predictions, code_type

if TYPE_CHECKING:
    from caffeio.layers.onnx.graph import OnnxGraph

KNOWN = (
    "num_classes", "share_location", "background_label_id", "nms_param", "save_output_param",
    "code_type", "keep_top_k", "variance_encoded_in_target", "confidence_threshold", "visualize",
    "visualize_threshold", "save_file",
)  # fmt: skip


@layer("DetectionOutput")
class DetectionOutput(LayerType):
    """Decodes SSD's predictions and suppresses boxes that overlap better ones of their class.

    Bottoms: locations (N, P x 4 x location classes), scores after softmax (N, P x num_classes),
    priors (1, 2, P x 4). Top: (1, 1, boxes, 7), rows of image, label, score, xmin, ymin, xmax,
    ymax by image, label, falling score; without any box one row of -1 for each image, which only
    has the image's number. How many rows there are depends on the data (the host waits for a CUDA
    device). Equal scores keep the priors' order. What is written to files or drawn
    (save_output_param, visualize) is left to the caller.
    """

    short_type = "Detections"
    may_end = True
    family = "loss"
    bottoms = between(3, 4)
    differentiable = False
    in_place = False
    dynamic = True
    fields = owns(detection_output_param=KNOWN)
    compute = "caffeio.ops.ssd.detection_output:detection_output"
    pure = True

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters and that the three bottoms have equally many priors."""
        param = self.param.detection_output_param
        field = "detection_output_param"
        self.classes: int = param.num_classes
        self.check(self.classes > 0, "must be set", field=f"{field}.num_classes")
        self.location_classes = 1 if param.share_location else self.classes
        self.background: int = param.background_label_id
        self.code = code_type(param.code_type)
        self.in_target: bool = param.variance_encoded_in_target
        self.keep_top_k: int = param.keep_top_k
        self.least: float | None = None
        if param.HasField("confidence_threshold"):
            self.least = param.confidence_threshold
        suppress = param.nms_param
        self.threshold: float = suppress.nms_threshold
        self.eta: float = suppress.eta
        self.top_k: int = suppress.top_k if suppress.HasField("top_k") else -1
        self.check(not suppress.soft_nms, "is not supported", field=f"{field}.nms_param.soft_nms")
        self.check(
            self.threshold >= 0, "must not be negative", field=f"{field}.nms_param.nms_threshold"
        )
        self.check(0 < self.eta <= 1, "must be in (0, 1]", field=f"{field}.nms_param.eta")
        check_predictions(self, shapes, self.location_classes, self.classes)

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give one row, as long as it is not known how many are found."""
        return ((1, 1, 1, 7),)

    def arguments(self) -> dict[str, Any]:
        """What `caffeio.ops.ssd.detection_output.detections` is told."""
        return {
            "classes": self.classes, "background": self.background,
            "location_classes": self.location_classes, "code": self.code,
            "in_target": self.in_target, "least": self.least, "threshold": self.threshold,
            "eta": self.eta, "top_k": self.top_k, "keep_top_k": self.keep_top_k,
        }  # fmt: skip

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """Write NonMaxSuppression between TopK and what puts the rows in Caffe's order."""
        from caffeio.layers.onnx.detection import onnx_detections, onnx_opencv

        if g.client == "opencv":
            return onnx_opencv(self, g, *bottoms[:3])
        return onnx_detections(self, g, *bottoms[:3])
