"""DetectionEvaluate: which of the boxes that an SSD net finds are right.

Source: src/caffe/layers/detection_evaluate_layer.cpp of weiliu89/caffe, branch ssd; the solver
makes the mean average precision of the rows (caffeio.training.mean_average_precision).
"""

from __future__ import annotations

import os
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from caffeio.layers.base import Layer, Shape, exactly, layer
from caffeio.layers.fields import check_fields
from caffeio.layers.labels import text
from caffeio.layers.ssd.boxes import jaccard
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.regular import read_text_file

KNOWN = (
    "num_classes", "background_label_id", "overlap_threshold", "evaluate_difficult_gt",
    "name_size_file", "resize_param",
)  # fmt: skip


@layer("DetectionEvaluate")
class DetectionEvaluate(Layer):
    """Compares detections with the ground truth of the same image and label.

    Bottoms: rows (1, 1, D, 7) of DetectionOutput, rows (1, 1, G, 8) of AnnotatedData. Top:
    (1, 1, classes + D, 5): for each class but the background (-1, label, how many truths, -1, -1),
    then for each detection, by image, label and falling score, (image, label, score, true, false).
    The best detection of a truth is true, others are false; one of a difficult truth that is not
    evaluated is neither. With name_size_file (lines `name height width`, in the order in which the
    images come) boxes are compared in pixels.
    """

    bottoms = exactly(2)
    differentiable = False
    in_place = False

    def setup(self, *shapes: Shape) -> None:
        """Check the bottoms."""
        check_fields(self, "detection_evaluate_param", KNOWN)
        p, field = self.param.detection_evaluate_param, "detection_evaluate_param"
        self.check(p.num_classes > 0, "must be set", field=f"{field}.num_classes")
        self.check(p.overlap_threshold > 0, "must be positive", field=f"{field}.overlap_threshold")
        for i, (shape, width) in enumerate(zip(shapes, (7, 8), strict=True)):
            self.check(
                len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == width,
                f"bottom {i} must be (1, 1, rows, {width}), not {text(shape)}",
            )
        background = p.background_label_id
        self.labels = [c for c in range(p.num_classes) if c != background]
        self.in_pixels = bool(p.name_size_file)
        self.images = 0  # seen so far, modulo the number of sizes

    @cached_property
    def sizes(self) -> Tensor:
        """Height and width of the images, (images, 2); read when the first batch comes."""
        name = self.param.detection_evaluate_param.name_size_file
        for folder in self.context.search_path or ("",):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                break
        else:
            raise self.error(
                f"there is no file {name!r}", field="detection_evaluate_param.name_size_file"
            )
        try:
            text = read_text_file(path)
            rows = [line.split()[-2:] for line in text.splitlines() if line.strip()]
            return torch.from_numpy(np.array(rows, np.float32).reshape(-1, 2))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "a line does not end in two numbers"
            raise self.error(
                f"{path!r}: {reason}", field="detection_evaluate_param.name_size_file"
            ) from None

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the rows."""
        if bottoms[0].is_meta:
            return bottoms[0].new_empty(1, 1, len(self.labels) + bottoms[0].shape[2], 5)
        found, truth = (x.detach().flatten(0, 2) for x in bottoms)
        end = (truth[:, 0] == -1).cumsum(0) == 0  # Caffe stops at the first row of padding
        truth, found = truth[end], found[found[:, 0] != -1]
        heads = self._heads(truth)
        order = self._order(found, truth)
        images, ordinal = torch.unique(found[:, 0], return_inverse=True)
        found, ordinal = found[order], ordinal[order]
        rows = torch.cat((found[:, :3], self._verdicts(found, truth, images, ordinal)), 1)
        return torch.cat((heads, rows)).view(1, 1, -1, 5)

    def _heads(self, truth: Tensor) -> Tensor:
        """The rows that say how many truths each class has."""
        if not self.param.detection_evaluate_param.evaluate_difficult_gt:
            truth = truth[truth[:, 7] == 0]
        labels = torch.tensor(self.labels, device=truth.device, dtype=truth.dtype)
        heads = truth.new_full((len(labels), 5), -1)
        heads[:, 1] = labels
        heads[:, 2] = (truth[:, 1].unsqueeze(1) == labels).sum(0)
        return heads

    @staticmethod
    def _order(found: Tensor, truth: Tensor) -> Tensor:
        """Indices of detections by image, then label, then falling score where there is truth."""
        same = (found[:, None, :2] == truth[None, :, :2]).all(-1).any(1)
        order = torch.where(same, -found[:, 2], -torch.inf).argsort(stable=True)
        for column in (1, 0):
            order = order[found[order, column].argsort(stable=True)]
        return order[found[order, 1] != -1]

    def _verdicts(self, found: Tensor, truth: Tensor, images: Tensor, ordinal: Tensor) -> Tensor:
        """True and false (D, 2) of the ordered detections."""
        p = self.param.detection_evaluate_param
        boxes, targets = found[:, None, 3:7], truth[None, :, 3:7]
        if self.in_pixels:
            place = (self.images + ordinal) % len(self.sizes)
            height, width = self.sizes.to(found.device)[place].view(-1, 1, 2).unbind(-1)
            resize = p.resize_param if p.HasField("resize_param") else None
            boxes, targets = (to_pixels(x, height, width, resize) for x in (boxes, targets))
            self.images = (self.images + len(images)) % len(self.sizes)
        same = (found[:, None, :2] == truth[None, :, :2]).all(-1)
        if not prod(same.shape):
            return found.new_tensor([0.0, 1.0]).expand(len(found), 2)
        overlap = jaccard(boxes, targets, normalized=not self.in_pixels)
        best, index = overlap.masked_fill(~same, -1.0).max(1)
        hit = best >= p.overlap_threshold
        order = torch.arange(len(found), device=found.device)
        first = torch.full((len(truth),), len(found), device=found.device)
        first = first.scatter_reduce(0, index[hit], order[hit], "amin")
        right = hit & (first[index] == order)
        verdict = torch.stack((right, ~right), 1).to(found.dtype)
        if not p.evaluate_difficult_gt:
            skipped = hit & (truth[index, 7] != 0)
            verdict = verdict.masked_fill(skipped.unsqueeze(1), 0.0)
        return verdict


def to_pixels(
    box: Tensor, height: Tensor, width: Tensor, resize: pb.ResizeParameter | None
) -> Tensor:
    """Boxes (..., 4) of the net's input as pixels of images of that size (OutputBBox)."""
    mode = "WARP" if resize is None else pb.ResizeParameter.Resize_mode.Name(resize.resize_mode)
    scale = torch.stack((width, height, width, height), -1)
    if resize is not None and mode == "FIT_LARGE_SIZE_AND_PAD":
        aspect = width / height
        across = aspect > resize.width / resize.height
        zero = torch.zeros_like(aspect)
        y = torch.where(across, (1 - resize.width / aspect / resize.height) / 2, zero)
        x = torch.where(across, zero, (1 - resize.height * aspect / resize.width) / 2)
        low = torch.stack((x, y, x, y), -1)
        box = (box - low) / (1 - 2 * low)
    fixed = resize is not None and resize.height_scale and resize.width_scale
    if resize is not None and fixed and mode == "FIT_SMALL_SIZE":
        wide, high = resize.width_scale, resize.height_scale
        box = box * box.new_tensor([wide, high, wide, high])
        return torch.minimum(box, scale).clamp(min=0)
    return box.clamp(0, 1) * scale
