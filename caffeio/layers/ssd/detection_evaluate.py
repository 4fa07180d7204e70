"""DetectionEvaluate: which of the boxes that an SSD net finds are right.

Source: src/caffe/layers/detection_evaluate_layer.cpp of weiliu89/caffe, branch ssd; the solver
makes the mean average precision of the rows (caffeio.training.mean_average_precision).
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from caffeio.layers.base import LayerType, Shape, exactly, owns
from caffeio.layers.registry import layer
from caffeio.proto.io.regular import read_text_file
from caffeio.shape_text import caffe_shape

KNOWN = (
    "num_classes", "background_label_id", "overlap_threshold", "evaluate_difficult_gt",
    "name_size_file", "resize_param",
)  # fmt: skip


@layer("DetectionEvaluate")
class DetectionEvaluate(LayerType):
    """Compares detections with the ground truth of the same image and label.

    Bottoms: rows (1, 1, D, 7) of DetectionOutput, rows (1, 1, G, 8) of AnnotatedData. Top:
    (1, 1, classes + D, 5): for each class but the background (-1, label, how many truths, -1, -1),
    then for each detection, by image, label and falling score, (image, label, score, true, false).
    The best detection of a truth is true, others are false; one of a difficult truth that is not
    evaluated is neither. With name_size_file (lines `name height width`, in the order in which the
    images come) boxes are compared in pixels.
    """

    is_metric = True
    bottoms = exactly(2)
    differentiable = False
    in_place = False
    dynamic = True
    fields = owns(detection_evaluate_param=KNOWN)
    compute = "caffeio.ops.ssd.detection_evaluate:detection_evaluate"

    def setup(self, *shapes: Shape) -> None:
        """Check the bottoms."""
        p, field = self.param.detection_evaluate_param, "detection_evaluate_param"
        self.check(p.num_classes > 0, "must be set", field=f"{field}.num_classes")
        self.check(p.overlap_threshold > 0, "must be positive", field=f"{field}.overlap_threshold")
        for i, (shape, width) in enumerate(zip(shapes, (7, 8), strict=True)):
            self.check(
                len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == width,
                f"bottom {i} must be (1, 1, rows, {width}), not {caffe_shape(shape)}",
            )
        background = p.background_label_id
        self.labels = [c for c in range(p.num_classes) if c != background]
        self.in_pixels = bool(p.name_size_file)
        self.images = 0  # seen so far, modulo the number of sizes

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give (1, 1, classes + D, 5)."""
        return ((1, 1, len(self.labels) + bottoms[0][2], 5),)

    @cached_property
    def sizes(self) -> Any:
        """Height and width of the images, (images, 2); read when the first batch comes."""
        import numpy as np

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
            content = read_text_file(path)
            rows = [line.split()[-2:] for line in content.splitlines() if line.strip()]
            return np.array(rows, np.float32).reshape(-1, 2)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "a line does not end in two numbers"
            raise self.error(
                f"{path!r}: {reason}", field="detection_evaluate_param.name_size_file"
            ) from None
