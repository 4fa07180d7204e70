"""DetectionOutput: the boxes that an SSD net finds.

Source: src/caffe/layers/detection_output_layer.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, between, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.onnx.detection import onnx_detections
from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.layers.ssd.boxes import check_predictions, code_type, decode, nms

KNOWN = (
    "num_classes", "share_location", "background_label_id", "nms_param", "save_output_param",
    "code_type", "keep_top_k", "variance_encoded_in_target", "confidence_threshold", "visualize",
    "visualize_threshold", "save_file",
)  # fmt: skip


@layer("DetectionOutput")
class DetectionOutput(Layer):
    """Decodes SSD's predictions and suppresses boxes that overlap better ones of their class.

    Bottoms: locations (N, P x 4 x location classes), scores after softmax (N, P x num_classes),
    priors (1, 2, P x 4). Top: (1, 1, boxes, 7), rows of image, label, score, xmin, ymin, xmax,
    ymax by image, label, falling score; without any box one row of -1 for each image, which only
    has the image's number. How many rows there are depends on the data (the host waits for a CUDA
    device). Equal scores keep the priors' order. What is written to files or drawn
    (save_output_param, visualize) is left to the caller.
    """

    bottoms = between(3, 4)
    differentiable = False
    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters and that the three bottoms have equally many priors."""
        check_fields(self, "detection_output_param", KNOWN)
        param = self.param.detection_output_param
        field = "detection_output_param"
        self.classes: int = param.num_classes
        self.check(self.classes > 0, "must be set", field=f"{field}.num_classes")
        self.location_classes = 1 if param.share_location else self.classes
        self.background: int = param.background_label_id
        self.code = code_type(param.code_type)
        self.in_target: bool = param.variance_encoded_in_target
        self.keep_top_k: int = param.keep_top_k
        self.least = param.confidence_threshold if param.HasField("confidence_threshold") else None
        suppress = param.nms_param
        self.threshold: float = suppress.nms_threshold
        self.eta: float = suppress.eta
        self.top_k = suppress.top_k if suppress.HasField("top_k") else -1
        self.check(not suppress.soft_nms, "is not supported", field=f"{field}.nms_param.soft_nms")
        self.check(
            self.threshold >= 0, "must not be negative", field=f"{field}.nms_param.nms_threshold"
        )
        self.check(0 < self.eta <= 1, "must be in (0, 1]", field=f"{field}.nms_param.eta")
        check_predictions(self, shapes, self.location_classes, self.classes)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the rows of detections."""
        loc, conf, prior = (x.detach() for x in bottoms[:3])
        if loc.is_meta:
            return loc.new_empty(1, 1, 1, 7)
        num = len(loc)
        corners, variance = prior.reshape(2, -1, 4)
        loc = loc.reshape(num, -1, self.location_classes, 4).transpose(1, 2)
        boxes = decode(corners, variance, loc, self.code, self.in_target)
        labels = [c for c in range(self.classes) if c != self.background]
        index = torch.tensor(labels, device=conf.device)
        scores = conf.reshape(num, -1, self.classes).transpose(1, 2)[:, index]
        boxes = boxes.expand(-1, len(labels), -1, -1) if len(boxes[0]) == 1 else boxes[:, index]
        scores, boxes, keep = self._suppress(scores, boxes)
        return self._rows(scores, boxes, keep, index)

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str:
        """NonMaxSuppression between TopK and what puts the rows in Caffe's order."""
        return onnx_detections(self, g, *bottoms[:3])

    def _suppress(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Best first: scores (N, C, n), boxes (N, C, n, 4), and which are kept (N, C, n)."""
        if self.least is not None:
            valid = scores > self.least
        else:
            valid = scores > torch.finfo(scores.dtype).min
        order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        most = int(valid.sum(-1).max()) if valid.numel() else 0
        most = min(most, self.top_k) if self.top_k > -1 else most
        order = order[..., :most]
        scores, valid = scores.gather(2, order), valid.gather(2, order)
        boxes = boxes.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, 4))
        flat = boxes.flatten(0, 1), valid.flatten(0, 1)
        keep = nms(*flat, self.threshold, self.eta).view_as(valid)
        return scores, boxes, self._best(scores, keep)

    def _best(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Of the kept boxes of each image only the keep_top_k best."""
        if self.keep_top_k < 0:
            return keep
        flat = scores.masked_fill(~keep, -torch.inf).flatten(1)
        best = flat.argsort(dim=1, descending=True, stable=True)[:, : self.keep_top_k]
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, True)
        return keep & chosen.view_as(keep)

    def _rows(self, scores: Tensor, boxes: Tensor, keep: Tensor, labels: Tensor) -> Tensor:
        """The top."""
        image, label, place = keep.nonzero(as_tuple=True)
        if not len(image):
            rows = scores.new_full((len(scores), 7), -1)
            rows[:, 0] = torch.arange(len(scores), device=rows.device)
            return rows.view(1, 1, -1, 7)
        head = torch.stack((image, labels[label])).to(scores.dtype)
        found = scores[image, label, place].unsqueeze(0)
        rows = torch.cat((head, found, boxes[image, label, place].T)).T
        return rows.reshape(1, 1, -1, 7)
