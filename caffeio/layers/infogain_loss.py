"""InfogainLoss: cross entropy with a matrix that weighs confusions of classes.

Source: src/caffe/layers/infogain_loss_layer.cpp (BVLC and, with probabilities as input, Intel
2018).
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor
from torch.autograd.function import once_differentiable

from caffeio.layers.base import Layer, Shape, between, layer
from caffeio.layers.label_loss import negative_log, spoil
from caffeio.layers.labels import (
    LOG_THRESHOLD,
    check_label_count,
    check_same_num,
    ignore_label,
    normalization,
)
from caffeio.ops.labels import class_labels, normalizer
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.regular import read_regular


class _SoftmaxInfogain(torch.autograd.Function):
    """sum(-H[label] * log(max(softmax(x), 1e-20))) and the softmax, classes along axis 1."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        prob = scores.softmax(1)
        ctx.save_for_backward(prob, rows)
        ctx.mark_non_differentiable(prob)
        # rows of ignored items are 0: their loss must be, even if the scores are nan
        terms = torch.where(rows == 0, 0.0, rows * prob.clamp(min=LOG_THRESHOLD).log())
        return -terms.sum(), prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        prob, rows = ctx.saved_tensors
        return (prob * rows.sum(1, keepdim=True) - rows) * grads[0], None


def read_matrix(layer: Layer, source: str, field: str) -> Tensor:
    """The values of a BlobProto file, flat; relative paths are looked up in the search path."""
    layer.check(
        bool(source), "a matrix is needed: name a file, or give a third bottom", field=field
    )
    folders = [Path(folder) for folder in layer.context.search_path] or [Path()]
    paths = [folder / source for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise layer.error(
            f"file not found: {source} (looked in {', '.join(str(p.parent) for p in paths)})",
            field=field,
        )
    blob = pb.BlobProto()
    try:
        blob.ParseFromString(read_regular(path))
    except DecodeError:
        raise layer.error(f"{path} is not a BlobProto file", field=field) from None
    values = blob.double_data or blob.data
    return torch.from_numpy(np.array(values, np.float32))


@layer("InfogainLoss")
class InfogainLoss(Layer):
    """Mean of -sum_l H[label, l] log(max(p_l, 1e-20)), p = softmax of the scores.

    H (K x K) comes from infogain_loss_param.source (a BlobProto file) or the third bottom. A second
    top holds p. In Intel's profile (2018) the bottom already holds probabilities, the sum is
    divided by N and there is no second top.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    is_loss = True
    in_place = False
    label_bottoms = frozenset({1, 2})

    def setup(self, *shapes: Shape) -> None:
        """Check axis, labels and the matrix, which is read here when it is a file."""
        scores, labels = shapes[:2]
        check_same_num(self, scores, labels)
        self.softmax = self.profile.infogain_softmax
        self.class_axis = 1
        if self.softmax:
            axis = self.param.infogain_loss_param.axis
            self.class_axis = self.axis(axis, len(scores), "infogain_loss_param.axis")
        self.classes = scores[self.class_axis] if self.softmax else prod(scores[1:])
        self.check(
            not self.softmax or not self.param.loss_param.HasField("normalize"),
            "`normalize` is not read by this layer: write `normalization`",
            field="loss_param.normalize",
        )
        self.ignore = ignore_label(self) if self.softmax else None
        self.mode = normalization(self, "VALID") if self.softmax else "BATCH_SIZE"
        flat = scores if self.softmax else (scores[0], self.classes)
        check_label_count(self, flat, labels, self.class_axis, "infogain axis")
        self.matrix: Tensor | None
        self.register_buffer("matrix", self._read(shapes), persistent=False)

    def _read(self, shapes: tuple[Shape, ...]) -> Tensor | None:
        wanted = self.classes * self.classes
        matrix = None
        if len(shapes) == 2:
            source = self.param.infogain_loss_param.source
            matrix = read_matrix(self, source, "infogain_loss_param.source")
        count = prod(shapes[2]) if matrix is None else matrix.numel()
        self.check(
            count == wanted,
            f"the matrix must be {self.classes} x {self.classes} ({wanted} numbers), "
            f"not {count} numbers",
            field="infogain_loss_param.source" if matrix is not None else None,
        )
        return matrix

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the loss, and the probabilities when the layer has a second top."""
        x, axis = bottoms[0], self.class_axis
        outer = prod(x.shape[:axis])
        x = x.reshape(outer, self.classes, -1)  # (outer, classes, inner)
        labels = class_labels(self, bottoms[1], (outer, x.shape[2]), self.classes, self.ignore)
        matrix = bottoms[2].detach() if self.matrix is None else self.matrix.to(x.device)
        rows = matrix.reshape(self.classes, self.classes)[labels.target].transpose(1, 2)
        if labels.ignored is not None:
            rows = rows.masked_fill(labels.ignored.unsqueeze(1), 0)
        if self.softmax:
            total, prob = _SoftmaxInfogain.apply(x, rows)  # type: ignore[no-untyped-call]
        else:
            total, prob = negative_log(x, rows), x.detach()
        divisor = normalizer(self, self.mode, outer, x.shape[2], labels.ignored)
        loss = spoil(total / divisor, labels)
        if len(self.context.top_names) < 2:
            return loss
        return loss, prob.reshape(bottoms[0].shape)
