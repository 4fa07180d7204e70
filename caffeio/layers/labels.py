"""What losses and Accuracy share: labels in float blobs, and the normalisation of losses.

Sources: src/caffe/layers/softmax_loss_layer.cpp, accuracy_layer.cpp, loss_layer.cpp (BVLC, Intel).
"""

from __future__ import annotations

from math import prod

from caffeio.layers.base import LayerType, Shape
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape

LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD of include/caffe/layers/loss_layer.hpp


def check_label_count(layer: LayerType, scores: Shape, labels: Shape, axis: int, what: str) -> None:
    """Raise unless there is one label for each prediction along `axis`."""
    outer, inner = prod(scores[:axis]), prod(scores[axis + 1 :])
    if outer * inner == prod(labels):
        return  # no message is made: torch.compile cannot print sizes that vary
    raise layer.error(
        f"there must be one label for each prediction: {outer * inner} predictions (bottom 0 is "
        f"{caffe_shape(scores)}, {what} {axis}), {prod(labels)} labels (bottom 1 is "
        f"{caffe_shape(labels)})",
    )


def check_same_num(layer: LayerType, first: Shape, second: Shape) -> None:
    """Raise unless two bottoms have the same first dimension (LossLayer::Reshape)."""
    layer.check(
        first[:1] == second[:1] and bool(first),
        f"data and label must have the same first dimension: bottom 0 is {caffe_shape(first)}, "
        f"bottom 1 is {caffe_shape(second)}",
    )


def check_same_count(layer: LayerType, first: Shape, second: Shape, second_name: str) -> None:
    """Raise unless two bottoms hold equally many numbers for each item."""
    layer.check(
        prod(first[1:]) == prod(second[1:]),
        f"bottom 0 ({caffe_shape(first)}) and {second_name} ({caffe_shape(second)}) must have the "
        "same count",
    )


def normalization(layer: LayerType, default: str) -> str:
    """Name of the NormalizationMode: `normalization`, else the old `normalize`, else `default`."""
    param = layer.param.loss_param
    if param.HasField("normalization"):
        return pb.LossParameter.NormalizationMode.Name(param.normalization)
    if param.HasField("normalize"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return default


def ignore_label(layer: LayerType) -> int | None:
    """The label of loss_param whose items do not count, if there is one."""
    param = layer.param.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None
