"""What YOLO nets find: YoloDetectionOutput (version 2) and Yolov3DetectionOutput.

Sources: src/caffe/layers/yolo_detection_output_layer.cpp, yolov3_detection_output_layer.cpp of
eric612/MobileNet-YOLO (the CPU forms).
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, at_least, between, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.labels import text
from caffeio.layers.rcnn.proposal import suppress


def cells(x: Tensor, boxes: int) -> Tensor:
    """(N, boxes x k, H, W) -> (N, H, W, boxes, k)."""
    n, channels, height, width = x.shape
    return x.view(n, boxes, channels // boxes, height, width).permute(0, 3, 4, 1, 2)


def region_boxes(x: Tensor, anchors: Tensor, scale: tuple[int, int]) -> Tensor:
    """Boxes (..., 4: middle x and y, width, height) of predictions (N, H, W, boxes, 4 or more).

    The first two go through a sigmoid and are relative to the cell; width and height are
    exponents of the anchors (boxes, 2), in units of 1 / scale of the image.
    """
    height, width = x.shape[1:3]
    corner = torch.stack(
        torch.meshgrid(
            torch.arange(height, device=x.device), torch.arange(width, device=x.device),
            indexing="ij",
        )[::-1], -1,
    ).unsqueeze(2)  # fmt: skip
    middle = (corner + x[..., :2].sigmoid()) / x.new_tensor([width, height])
    size = x[..., 2:4].exp() * anchors / x.new_tensor(scale)
    return torch.cat((middle, size), -1)


class YoloOutput(Layer):
    """Bottoms (N, boxes x (5 + classes), H, W); top (1, 1, found, 7) as DetectionOutput's.

    All boxes of all images, of all classes, are suppressed together and called image 0, as in the
    source: use one image at a time. Without any box each image gets a row of -1.
    """

    differentiable = False
    in_place = False
    classes: int
    boxes: int
    least: float
    threshold: float

    def check_maps(self, shapes: tuple[Shape, ...]) -> None:
        """Check the channels of every bottom."""
        wanted = self.boxes * (5 + self.classes)
        for i, shape in enumerate(shapes):
            self.check(
                len(shape) == 4 and shape[1] == wanted,
                f"bottom {i} must have {wanted} channels, not {text(shape)}",
            )

    def rows(self, num: int, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """The top, of boxes (n, 4: middle and size), scores (n) and labels (n) from 0."""
        order = scores.argsort(descending=True, stable=True)
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        half = boxes[:, 2:] / 2
        corners = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), 1)
        kept = suppress(corners, self.threshold, len(corners), pixel=0, strict=False)
        if not len(kept):
            rows = scores.new_full((num, 7), -1)
            rows[:, 0] = torch.arange(num, device=rows.device)
            return rows.view(1, 1, -1, 7)
        head = torch.stack((torch.zeros_like(scores), labels + 1, scores), 1)
        return torch.cat((head, corners), 1)[kept].view(1, 1, -1, 7)


@layer("YoloDetectionOutput")
class YoloDetectionOutput(YoloOutput):
    """The boxes of YOLO version 2: the likeliest class of each, softmax times objectness.

    Anchors (biases) are in cells. A second bottom of another size is read in the same way.
    """

    bottoms = between(1, 2)

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

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the rows."""
        if bottoms[0].is_meta:
            return bottoms[0].new_empty(1, 1, 1, 7)
        biases = list(self.param.yolo_detection_output_param.biases[: 2 * self.boxes])
        parts = []
        for bottom in bottoms:
            x = cells(bottom.detach(), self.boxes)
            side = x.shape[2]  # the source's grid is as high as it is wide
            score, label = x[..., 5:].softmax(-1).max(-1)
            score = score * x[..., 4].sigmoid()
            found = score >= self.least
            boxes = region_boxes(x, x.new_tensor(biases).view(-1, 2), (side, side))
            parts.append((boxes[found], score[found], label[found]))
        boxes, scores, labels = (torch.cat(items) for items in zip(*parts, strict=True))
        return self.rows(len(bottoms[0]), boxes, scores, labels)


@layer("Yolov3DetectionOutput")
class Yolov3DetectionOutput(YoloOutput):
    """The boxes of YOLO version 3: every class whose sigmoid times objectness is great enough.

    Bottom t has its own anchors, those of the t-th part of mask, in pixels of an image
    anchors_scale[t] times as large as the map.
    """

    bottoms = at_least(1)

    def setup(self, *shapes: Shape) -> None:
        """Read the parameters."""
        known = ("num_classes", "num_box", "confidence_threshold", "nms_threshold", "biases",
                 "anchors_scale", "mask_group_num", "mask")  # fmt: skip
        field = "yolov3_detection_output_param"
        check_fields(self, field, known)
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
            max(p.mask) < len(p.biases) // 2, "names an anchor that biases does not have",
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

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the rows."""
        if bottoms[0].is_meta:
            return bottoms[0].new_empty(1, 1, 1, 7)
        scales = self.param.yolov3_detection_output_param.anchors_scale
        parts = []
        for bottom, anchors, scale in zip(bottoms, self.groups, scales, strict=False):
            x = cells(bottom.detach(), self.boxes)
            height, width = x.shape[1:3]
            boxes = region_boxes(x, x.new_tensor(anchors), (width * scale, height * scale))
            scores = x[..., 5:].sigmoid() * x[..., 4:5].sigmoid()
            *place, label = (scores > self.least).nonzero(as_tuple=True)
            parts.append((boxes[tuple(place)], scores[(*place, label)], label))
        boxes, found, labels = (torch.cat(items) for items in zip(*parts, strict=True))
        return self.rows(len(bottoms[-1]), boxes, found, labels)
