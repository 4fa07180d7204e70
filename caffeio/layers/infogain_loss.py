"""InfogainLoss: cross entropy with a matrix that weighs confusions of classes.

Source: src/caffe/layers/infogain_loss_layer.cpp (BVLC and, with probabilities as input, Intel
2018).
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from caffeio.layers.base import LayerType, Shape, between, owns
from caffeio.layers.labels import (
    check_label_count,
    check_same_num,
    ignore_label,
    normalization,
)
from caffeio.layers.registry import layer
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.regular import read_regular


def read_matrix(layer: LayerType, source: str, field: str) -> Any:
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
    import numpy as np

    blob = pb.BlobProto()
    try:
        blob.ParseFromString(read_regular(path))
    except DecodeError:
        raise layer.error(f"{path} is not a BlobProto file", field=field) from None
    values = blob.double_data or blob.data
    return np.array(values, np.float32)


@layer("InfogainLoss")
class InfogainLoss(LayerType):
    """Mean of -sum_l H[label, l] log(max(p_l, 1e-20)), p = softmax of the scores.

    H (K x K) comes from infogain_loss_param.source (a BlobProto file) or the third bottom. A second
    top holds p. In Intel's profile (2018) the bottom already holds probabilities, the sum is
    divided by N and there is no second top.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    is_loss = True
    reads_loss_param = True
    in_place = False
    label_bottoms = frozenset({1, 2})
    fields = owns(infogain_loss_param=("source", "axis"))
    compute = "caffeio.ops.infogain_loss:infogain_loss"

    def setup(self, *shapes: Shape) -> None:
        """Check axis, labels and the matrix, which is read here when it is a file."""
        scores, labels = shapes[:2]
        self.check(
            len(self.context.top_names) < 2 or len(self.param.loss_weight) > 0,
            "two tops need two values",
            field="loss_weight",
        )
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
        self.matrix: Any
        self.add_buffer("matrix", self._read(shapes))

    def _read(self, shapes: tuple[Shape, ...]) -> Any:
        wanted = self.classes * self.classes
        matrix = None
        if len(shapes) == 2:
            source = self.param.infogain_loss_param.source
            matrix = read_matrix(self, source, "infogain_loss_param.source")
        count = prod(shapes[2]) if matrix is None else matrix.size
        self.check(
            count == wanted,
            f"the matrix must be {self.classes} x {self.classes} ({wanted} numbers), "
            f"not {count} numbers",
            field="infogain_loss_param.source" if matrix is not None else None,
        )
        return matrix

    def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Give a scalar, and the probabilities when there is a second top."""
        return ((), bottoms[0])[: self.n_tops]
