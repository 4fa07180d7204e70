"""Boxes of SSD: decoding, encoding, overlaps and non-maximum suppression, whole tensors at a time.

A box is (xmin, ymin, xmax, ymax) in the last axis, divided by the image's width and height.
Source: src/caffe/util/bbox_util.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from caffeio.layers.base import LayerType, Shape
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape


def code_type(value: int) -> str:
    """Name of a PriorBoxParameter.CodeType: CORNER, CENTER_SIZE or CORNER_SIZE."""
    return pb.PriorBoxParameter.CodeType.Name(value)


def check_predictions(
    layer: LayerType, shapes: tuple[Shape, ...], loc_classes: int, classes: int
) -> int:
    """The number of priors; LayerError unless locations, scores and priors fit each other."""
    loc, conf, prior = shapes[:3]
    layer.check(
        len(prior) >= 3 and prior[1] == 2 and prior[2] % 4 == 0,
        f"bottom 2 must be priors of shape (1, 2, 4 x boxes), not {caffe_shape(prior)}",
    )
    boxes = prior[2] // 4
    layer.check(
        loc[:1] == conf[:1],
        f"bottoms 0 ({caffe_shape(loc)}) and 1 ({caffe_shape(conf)}) differ in num",
    )
    for shape, factor, what in ((loc, 4 * loc_classes, "locations"), (conf, classes, "scores")):
        layer.check(
            len(shape) > 1 and boxes * factor == shape[1],
            f"{boxes} priors need {boxes * factor} {what} for each image, not {caffe_shape(shape)}",
        )
    return boxes
