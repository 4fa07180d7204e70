"""Yolov3: the loss of YOLO version 3; YoloSeg and SegmentationEvaluate of the same fork.

Sources: src/caffe/layers/yolov3_layer.cpp, yolo_seg.cpp, segmentation_evaluate_layer.cpp
(eric612/MobileNet-YOLO, the CPU forms).
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, between, exactly, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.labels import text
from caffeio.layers.yolo.detection_output import cells, region_boxes
from caffeio.layers.yolo.region import center_iou, centred, given_gradient, last_of

KNOWN = (
    "side", "num_class", "num", "object_scale", "class_scale", "noobject_scale", "coord_scale",
    "thresh", "anchors_scale", "biases", "mask", "use_logic_gradient", "iou_normalizer",
    "iou_thresh", "max_delta", "accumulate", "label_smooth_eps",
)  # fmt: skip


@layer("Yolov3")
class Yolov3(Layer):
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
    anchors: Tensor  # all of them, (anchors, 2)

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters and read the anchors."""
        check_fields(self, "yolov3_param", KNOWN)
        p, field = self.param.yolov3_param, "yolov3_param"
        self.classes, self.boxes = p.num_class, p.num
        wanted = self.boxes * (5 + self.classes)
        self.check(
            len(shapes[0]) == 4 and shapes[0][1] == wanted,
            f"bottom 0 must have {wanted} channels, not {text(shapes[0])}",
        )
        self.check(
            len(p.mask) >= self.boxes, f"must name the anchors of {self.boxes} boxes",
            field=f"{field}.mask",
        )  # fmt: skip
        self.check(
            max(p.mask) < len(p.biases) // 2, "names an anchor that biases does not have",
            field=f"{field}.mask",
        )  # fmt: skip
        self.mask = list(p.mask[: self.boxes])
        anchors = torch.tensor(list(p.biases)).view(-1, 2)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        x = bottoms[0]
        if x.is_meta:
            return x.new_empty(())
        with torch.no_grad():
            p = self.param.yolov3_param
            maps = cells(x, self.boxes)
            diff = self._gradient(maps, bottoms[1].detach().reshape(len(x), -1, 5))
            loss = (diff * diff).sum() / len(x)
            if p.use_logic_gradient:
                slope = maps.sigmoid() * (1 - maps.sigmoid())
                slope[..., 2:4] = 1
                diff = diff * slope
            grad = diff.permute(0, 3, 4, 1, 2).reshape(x.shape)
        return given_gradient(x, loss, grad / len(x))

    def _gradient(self, x: Tensor, rows: Tensor) -> Tensor:
        """YOLO's gradient of predictions (N, H, W, boxes, 5 + classes); rows (N, T, 5)."""
        p = self.param.yolov3_param
        height, width = x.shape[1:3]
        scale = (width * p.anchors_scale, height * p.anchors_scale)
        boxes = region_boxes(x, self.anchors[self.mask], scale)
        diff = torch.zeros_like(x)
        diff[..., 4] = x[..., 4].sigmoid()
        seen = (rows[..., 1] == 0).cumsum(1) == 0
        for i in range(len(x)):
            mine = rows[i, seen[i], 1:]
            if len(mine):
                best = center_iou(boxes[i].unsqueeze(-2), mine).amax(-1)
                diff[i, ..., 4].masked_fill_(best > p.thresh, 0.0)
        used = (rows[..., 3] == 0).cumsum(1) == 0
        image, number = used.nonzero(as_tuple=True)
        truth = rows[image, number]
        owner, anchor = self._anchors(truth, scale)
        self._write(diff, x, image[owner], truth[owner], anchor, scale)
        return diff

    def _anchors(self, truth: Tensor, scale: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pairs of a truth's index and a box's number (in mask), in the source's order."""
        p = self.param.yolov3_param
        shapes = centred(self.anchors / self.anchors.new_tensor(scale))
        overlap = center_iou(shapes, centred(truth[:, 3:5]).unsqueeze(1))
        best = overlap.argmax(1, keepdim=True)
        mask = torch.tensor(self.mask, device=truth.device)
        first = best == mask  # (T, boxes)
        # the source compares the number of an anchor with the place of the best one in mask
        place = torch.where(first.any(1, keepdim=True), first.int().argmax(1, keepdim=True), best)
        more = (overlap[:, mask] > p.iou_thresh) & (mask != place)
        if p.iou_thresh >= 1:
            more = torch.zeros_like(more)
        owner, anchor = (first | more).nonzero(as_tuple=True)
        return owner, anchor

    def _write(
        self, diff: Tensor, x: Tensor, image: Tensor, truth: Tensor, anchor: Tensor,
        scale: tuple[int, int],
    ) -> None:  # fmt: skip
        """Let the boxes that a truth belongs to learn it."""
        p = self.param.yolov3_param
        count, height, width = x.shape[:3]
        grid = x.new_tensor([width, height])
        column = (truth[:, 1] * width).long().clamp(0, width - 1)
        row = (truth[:, 2] * height).long().clamp(0, height - 1)
        place = ((image * height + row) * width + column) * self.boxes + anchor
        kept = last_of(place, count * height * width * self.boxes)
        label = torch.zeros(count * height * width * self.boxes, self.classes, device=x.device)
        label[place, truth[:, 0].long()] = 1
        target = label[place[kept]]
        target = target * (1 - p.label_smooth_eps) + 0.5 * p.label_smooth_eps
        at = tuple(t[kept] for t in (image, row, column, anchor))
        box, cell, found = truth[kept, 1:], torch.stack((at[2], at[1]), 1), x[at]
        anchors = self.anchors[self.mask][at[3]]
        weight = p.coord_scale * (2 - box[:, 2:3] * box[:, 3:4])
        shift = box[:, :2] * grid - cell - found[:, :2].sigmoid()
        extent = (box[:, 2:] * x.new_tensor(scale) / anchors).log() - found[:, 2:4]
        there = 1 - found[:, 4:5].sigmoid()
        there = there * p.object_scale if p.use_logic_gradient else there
        classes = p.class_scale * (target - found[:, 5:].sigmoid())
        diff[at] = -torch.cat((weight * shift, weight * extent, there, classes), 1)


@layer("YoloSeg")
class YoloSeg(Layer):
    """Sum of d^2 over N, d = object_scale (sigmoid(x) - label); what goes back is d over N.

    With a third bottom (N, C), the pixels of each class, what is labelled counts 2 - r times as
    much, r the ratio of the class's pixels to the others in the batch.
    """

    bottoms = between(2, 3)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check that there is one label for each number."""
        known = ("num_class", "object_scale", "class_scale", "use_logic_gradient")
        check_fields(self, "yolo_seg_param", known)
        scores, labels = shapes[:2]
        self.check(
            torch.Size(scores).numel() == torch.Size(labels).numel(),
            f"bottoms must have the same count: {text(scores)} and {text(labels)}",
        )

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        x = bottoms[0]
        with torch.no_grad():
            label = bottoms[1].reshape(x.shape)
            diff = self.param.yolo_seg_param.object_scale * (x.sigmoid() - label)
            if len(bottoms) == 3:
                pixels = bottoms[2].reshape(-1, x.shape[1])
                ratio = pixels.sum(0) / (x[0, 0].numel() - pixels).sum(0)
                weight = (2 - ratio).view(-1, *[1] * (x.dim() - 2))
                diff = torch.where(label > 0.5, diff * weight, diff)
            loss = (diff * diff).sum() / len(x)
        return given_gradient(x, loss, diff / len(x))


@layer("SegmentationEvaluate")
class SegmentationEvaluate(Layer):
    """Intersection over union of each channel of the first item, (1, 1, 1, C).

    What is greater than the threshold counts, in scores and in labels, which must be of the same
    size (the source shrinks or enlarges other scores as 8-bit images).
    """

    bottoms = exactly(2)
    differentiable = False
    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check the sizes."""
        field = "segmentation_evaluate_param.num_classes"
        p = self.param.segmentation_evaluate_param
        self.check(p.HasField("num_classes"), "must be set", field=field)
        self.check(
            len(shapes[0]) == 4 and shapes[0][1:] == shapes[1][1:],
            f"scores and labels must be of one size: {text(shapes[0])} and {text(shapes[1])}",
        )

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the ratios."""
        least = self.param.segmentation_evaluate_param.threshold
        found, truth = (x[0].flatten(1) > least for x in bottoms)
        both = (found & truth).sum(1)
        union = (found | truth).sum(1).clamp(min=1)
        return (both / union).to(bottoms[0].dtype).view(1, 1, 1, -1)
