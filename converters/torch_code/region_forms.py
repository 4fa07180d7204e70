"""PyTorch forms of layers that find regions, and of those that read them: Faster R-CNN, YOLO."""

from __future__ import annotations

from caffeio.converters.torch_code.text import Expressions, TorchText, form, literal
from caffeio.converters.torch_code.weight_forms import HELPERS, Names
from caffeio.layers.rcnn.proposal import ProposalBase, ProposalLayer
from caffeio.layers.rcnn.roi_pooling import PSROIPooling, ROIPooling
from caffeio.layers.yolo.detection_output import YoloDetectionOutput, Yolov3DetectionOutput

YOLO = "caffeio.ops.yolo.detection_output"


@form(ROIPooling)
def roi_pooling(t: TorchText, layer: ROIPooling, x: Names) -> Expressions:
    """Write a call of a helper."""
    if len(layer.pooled) != 2:
        raise t.unsupported("only regions of two axes")
    size = literal(tuple(layer.pooled))
    return t.call(f"{HELPERS}:roi_pool", *x, size, scale=layer.scale)


@form(PSROIPooling)
def psroi_pooling(t: TorchText, layer: PSROIPooling, x: Names) -> Expressions:
    """Write a call of a helper."""
    more = {"dim": layer.dim, "group": layer.group, "scale": layer.scale}
    return t.call(f"{HELPERS}:psroi_pool", *x, **more)


@form(ProposalBase)
def proposal(t: TorchText, layer: ProposalBase, x: Names) -> Expressions:
    """Write the arithmetic of the layer itself."""
    anchors = t.buffer(layer, "anchors", layer.anchors)
    call = t.call("caffeio.ops.rcnn.proposal:propose", *x, anchors, **layer.arguments())
    if layer.n_tops == 1:
        return f"{call}[0]"
    if isinstance(layer, ProposalLayer):
        return f"{call}[0]", f"{call}[1].unsqueeze(1)"
    return [call]


@form(YoloDetectionOutput)
def yolo(t: TorchText, layer: YoloDetectionOutput, x: Names) -> Expressions:
    """Write the arithmetic of the layer itself."""
    return t.call(f"{YOLO}:yolo_detections", f"[{', '.join(x)}]", **layer.arguments())


@form(Yolov3DetectionOutput)
def yolov3(t: TorchText, layer: Yolov3DetectionOutput, x: Names) -> Expressions:
    """Write the arithmetic of the layer itself."""
    return t.call(f"{YOLO}:yolov3_detections", f"[{', '.join(x)}]", **layer.arguments())
