"""Proposal, PSROIPooling and YOLO's detections in ONNX.

ONNX's NonMaxSuppression keeps boxes that overlap as much as the threshold; where Caffe does not,
the next smaller float32 stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from caffeio.layers.onnx.graph import OnnxGraph

LOWEST = float(np.finfo(np.float32).min)
_DOUBLE = 11  # onnx.TensorProto.DOUBLE


class ProposalFacts(Protocol):
    """What a layer tells that proposes regions."""

    anchors: Any  # (A, 4)
    stride: int
    before: int
    after: int
    threshold: float


class PSROIPoolingFacts(Protocol):
    """What position-sensitive pooling tells."""

    dim: int
    group: int
    scale: float


class YoloOutputFacts(Protocol):
    """What the detections of YOLO tell."""

    classes: int
    boxes: int
    least: float
    threshold: float


def below(value: float) -> float:
    """The next smaller float32."""
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def nothing(g: OnnxGraph, images: str, found: str) -> str:
    """Rows (n, 7) of Caffe's detections without any box: for each image its number, six times -1.

    `images` and `found` are numbers, int64 (1,); with boxes found there is no row.
    """
    zero = g.const(0, "zero")
    numbers = g.op("Range", [zero, g.op("Squeeze", [images]), g.const(1, "one")])
    padding = [g.ints((0, 0, 0, 6), "pads"), g.const(-1.0, "minus_one")]
    rows = g.op("Pad", [g.to_float(g.reshape(numbers, -1, 1)), *padding])
    none = g.to_int(g.op("Equal", [found, zero]))
    end = g.op("Mul", [images, none])
    return str(g.op("Slice", [rows, g.ints((0,), "start"), end, g.ints((0,), "axis")]))


def onnx_proposals(
    layer: ProposalFacts, g: OnnxGraph, bottoms: Sequence[str], least: float, *, drops: bool
) -> tuple[str, str]:
    """Regions (R, 5) and their scores (R) of the best boxes of each image.

    Boxes smaller than `least` (times the image's scales) are left out if `drops`, else they count
    as of score 0.
    """
    scores, deltas, info = bottoms
    count, (height, width) = len(layer.anchors), g.shape(scores)[2:]
    total = count * height * width
    info = g.reshape(info, -1)
    boxes = _image_boxes(layer, g, deltas, info, (height, width))
    score = g.op("Slice", [scores, *(g.ints((n,), "part") for n in (count, 2 * count, 1))])
    score = g.reshape(g.op("Transpose", [score], perm=(0, 2, 3, 1)), -1, total)
    sizes = g.shape(bottoms[2])
    places = (min(3, int(np.prod(sizes)) - 1) if not drops else 2, 2)  # of width and height
    small = _too_small(g, boxes, info, places, least)
    if drops:
        score = g.op("Where", [small, g.const(LOWEST, "out"), score])
    else:
        score = g.op("Where", [small, g.scaled(score, 0.0), score])
    most = min(total, layer.before) if layer.before > 0 else total
    score, order = g.op("TopK", [score, g.ints((most,), "most")], outputs=2, axis=1)
    index = g.op("Expand", [g.reshape(order, 0, 0, 1), g.ints((1, 1, 4))])
    boxes = g.op("GatherElements", [boxes, index], axis=1)
    whole = g.op("Add", [boxes, g.const((0.0, 0.0, 1.0, 1.0), "pixel")])
    kept = g.op(
        "NonMaxSuppression",
        [
            whole, g.reshape(score, 0, 1, most), g.const(layer.after or most, "after"),
            g.const(layer.threshold, "overlap"), g.const(LOWEST, "least"),
        ],
    )  # fmt: skip
    at = g.op("Gather", [kept, g.ints((0, 2), "columns")], axis=1)
    image = g.op("Gather", [kept, g.ints((0,), "columns")], axis=1)
    rows = g.op("Concat", [g.to_float(image), g.op("GatherND", [boxes, at])], axis=1)
    values = g.op("GatherND", [score, at])
    for top in (rows, values):
        g.varies(top, 0)
    return rows, values


def _image_boxes(
    layer: ProposalFacts, g: OnnxGraph, deltas: str, info: str, size: tuple[int, int]
) -> str:
    """The boxes (N, H x W x A, 4) in pixels, cut to the image."""
    anchors = np.array(layer.anchors.tolist(), np.float32)
    y, x = (np.arange(n, dtype=np.float32) * layer.stride for n in size)
    shift = np.stack(np.meshgrid(y, x, indexing="ij")[::-1], -1)
    shift = np.concatenate((shift, shift), -1)
    whole = (shift[:, :, None] + anchors).reshape(1, -1, 4)
    extent = whole[..., 2:] - whole[..., :2] + 1
    middle = whole[..., :2] + np.float32(0.5) * extent
    moved = g.op("Transpose", [deltas], perm=(0, 2, 3, 1))
    moved = g.reshape(moved, -1, whole.shape[1], 4)
    place, growth = g.op("Split", [moved, g.ints((2, 2), "pair")], outputs=2, axis=2)
    sides = g.const(extent, "extent")
    center = g.op("Add", [g.const(middle, "middle"), g.op("Mul", [place, sides])])
    half = g.op("Mul", [g.scaled(g.op("Exp", [growth]), 0.5), sides])
    corners = [g.op("Sub", [center, half]), g.op("Add", [center, half])]
    boxes = g.op("Concat", corners, axis=2)
    edge = g.op("Gather", [info, g.ints((1, 0, 1, 0), "order")], axis=0)
    inside = g.op("Min", [boxes, g.op("Sub", [edge, g.const(1.0, "one")])])
    return str(g.op("Max", [inside, g.const(0.0, "zero")]))


def _too_small(g: OnnxGraph, boxes: str, info: str, places: tuple[int, int], least: float) -> str:
    """Which boxes (N, n) are not as wide and high as wanted."""
    low, high = g.op("Split", [boxes, g.ints((2, 2), "pair")], outputs=2, axis=2)
    extent = g.op("Add", [g.op("Sub", [high, low]), g.const(1.0, "one")])
    wanted = g.scaled(g.op("Gather", [info, g.ints(places, "scales")], axis=0), least)
    short = g.to_float(g.op("Less", [extent, wanted]))
    most = g.op("ReduceMax", [short], axes=(2,), keepdims=0)
    return str(g.op("Greater", [most, g.const(0.0, "zero")]))


def onnx_psroi(layer: PSROIPoolingFacts, g: OnnxGraph, x: str, rois: str) -> str:
    """Means of bins as two products with matrices of 1 / cells.

    onnxruntime's Einsum divides by the number of regions, and the process ends where there is none:
    one more is added behind them, and taken away.
    """
    if g.dynamic_batch:
        raise g.unsupported("regions name images of a batch whose size is not fixed")
    images, _, *sides = g.shape(x)
    rois = g.op("Pad", [g.reshape(rois, -1, 5), g.ints((0, 0, 1, 0), "one_more")])
    weights = [_bins(layer, g, rois, axis, sides[axis]) for axis in (0, 1)]
    maps = g.reshape(x, images, layer.dim, layer.group, layer.group, *sides)
    parts = [maps]
    if images > 1:
        ones = g.ints((1,) * images, "images")
        parts = list(g.op("Split", [maps, ones], outputs=images, axis=0))
    tops = []
    for i, part in enumerate(parts):
        one = g.reshape(part, layer.dim, layer.group, layer.group, *sides)
        across = g.op("Einsum", [one, weights[1]], equation="dijhw,rjw->rdijh")
        top = g.op("Einsum", [across, weights[0]], equation="rdijh,rih->rdij")
        if images > 1:
            number = g.to_int(g.op("Gather", [rois, g.ints((0,), "column")], axis=1))
            mine = g.to_float(g.op("Equal", [number, g.const(i, "image")]))
            top = g.op("Mul", [top, g.reshape(mine, -1, 1, 1, 1)])
        tops.append(top)
    out = tops[0]
    for top in tops[1:]:
        out = g.op("Add", [out, top])
    ends = [g.ints((n,), "without_it") for n in (0, -1, 0)]
    return str(g.op("Slice", [out, *ends]))


def _bins(layer: PSROIPoolingFacts, g: OnnxGraph, rois: str, axis: int, size: int) -> str:
    """What each cell of an axis counts in each bin, (R, G, size): 1 / cells, or 0."""
    low, high = (_rounded(g, rois, column) for column in (2 - axis, 4 - axis))
    low = g.scaled(low, layer.scale)
    high = g.scaled(g.op("Add", [high, g.const(1.0, "one")]), layer.scale)
    width = g.op("Max", [g.op("Sub", [high, low]), g.const(0.1, "narrowest")])
    width = g.op("Div", [width, g.const(float(layer.group), "group")])
    place = np.arange(layer.group, dtype=np.float32)[None]
    first, last = (
        g.op("Add", [g.op("Mul", [g.const(at, "place"), width]), low]) for at in (place, place + 1)
    )
    first, last = g.op("Floor", [first]), g.op("Ceil", [last])
    limits = g.const(0.0, "none"), g.const(float(size), "all")
    first, last = (g.op("Min", [g.op("Max", [v, limits[0]]), limits[1]]) for v in (first, last))
    cell = g.const(np.arange(size, dtype=np.float32), "cells")
    outside = [
        g.op("Less", [cell, g.reshape(first, 0, 0, 1)]),
        g.op("Less", [g.op("Sub", [g.reshape(last, 0, 0, 1), g.const(1.0, "one")]), cell]),
    ]
    cells = g.op("Max", [g.op("Sub", [last, first]), g.const(1.0, "one")])
    share = g.op("Div", [g.const(1.0, "one"), g.reshape(cells, 0, 0, 1)])
    share = g.op("Where", [outside[0], limits[0], share])
    return str(g.op("Where", [outside[1], limits[0], share]))


def _rounded(g: OnnxGraph, rois: str, column: int) -> str:
    """A column of the regions as C rounds it: halves away from zero, by way of double."""
    x = g.op("Gather", [rois, g.ints((column,), "column")], axis=1)
    wide = g.op("Cast", [x], to=_DOUBLE)
    half = g.const(np.float64(0.5), "half", np.float64)
    size = g.op("Floor", [g.op("Add", [g.op("Abs", [wide]), half])])
    return g.to_float(g.op("Mul", [g.op("Sign", [wide]), size]))


def onnx_yolo(
    layer: YoloOutputFacts, g: OnnxGraph, bottoms: Sequence[str], anchors: Sequence[Any],
    scales: Sequence[tuple[int, int]], *, best_class: bool,
) -> str:  # fmt: skip
    """Rows (1, 1, boxes, 7): the boxes of all maps and images, suppressed together, best first.

    With `best_class` each box counts for its likeliest class (softmax), else for every class.
    """
    boxes, scores, labels = [], [], []
    for x, own, scale in zip(bottoms, anchors, scales, strict=True):
        height, width = g.shape(x)[2:]
        x = g.reshape(x, -1, layer.boxes, 5 + layer.classes, height, width)
        x = g.op("Transpose", [x], perm=(0, 3, 4, 1, 2))
        parts = g.op("Split", [x, g.ints((2, 2, 1, layer.classes), "parts")], outputs=4, axis=4)
        there = g.op("Sigmoid", [parts[2]])
        box = _yolo_boxes(g, parts, np.array(own, np.float32), scale, (height, width))
        if best_class:
            chance = g.op("Softmax", [parts[3]], axis=4)
            score = g.op("Mul", [g.op("ReduceMax", [chance], axes=(4,), keepdims=1), there])
            label = g.op("ArgMax", [chance], axis=4, keepdims=1)
        else:
            score = g.op("Mul", [g.op("Sigmoid", [parts[3]]), there])
            numbers = g.ints(range(layer.classes), "labels")
            label = g.op("Expand", [numbers, g.op("Shape", [score])])
            shape = g.op("Concat", [g.op("Shape", [score]), g.ints((4,))], axis=0)
            box = g.op("Expand", [g.op("Unsqueeze", [box, g.ints((4,), "axes")]), shape])
        boxes.append(g.reshape(box, -1, 4))
        scores.append(g.reshape(score, -1))
        labels.append(g.reshape(label, -1))
    return _yolo_rows(layer, g, bottoms, (boxes, scores, labels), strict=not best_class)


def _yolo_boxes(
    g: OnnxGraph, parts: Sequence[str], anchors: Any, scale: tuple[int, int], size: tuple[int, int]
) -> str:
    """Corners (N, H, W, boxes, 4)."""
    height, width = size
    corner = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")[::-1], -1)
    middle = g.op("Add", [g.const(corner[:, :, None].astype(np.float32), "cells"),
                          g.op("Sigmoid", [parts[0]])])  # fmt: skip
    middle = g.op("Div", [middle, g.const((float(width), float(height)), "cells")])
    extent = g.op("Mul", [g.op("Exp", [parts[1]]), g.const(anchors, "anchors")])
    extent = g.op("Div", [extent, g.const([float(n) for n in scale], "scale")])
    half = g.scaled(extent, 0.5)
    ends = [g.op("Sub", [middle, half]), g.op("Add", [middle, half])]
    return str(g.op("Concat", ends, axis=4))


def _yolo_rows(
    layer: YoloOutputFacts, g: OnnxGraph, bottoms: Sequence[str], parts: Sequence[list[str]],
    *, strict: bool,
) -> str:  # fmt: skip
    def joined(values: list[str]) -> str:
        return values[0] if len(values) == 1 else str(g.op("Concat", values, axis=0))

    boxes, scores, labels = (joined(values) for values in parts)
    least = layer.least if strict else below(layer.least)
    kept = g.op(
        "NonMaxSuppression",
        [
            g.reshape(boxes, 1, -1, 4), g.reshape(scores, 1, 1, -1),
            g.const(np.iinfo(np.int32).max, "most"), g.const(below(layer.threshold), "overlap"),
            g.const(least, "least"),
        ],
    )  # fmt: skip
    at = g.reshape(g.op("Gather", [kept, g.ints((2,), "column")], axis=1), -1)
    label = g.to_float(g.op("Gather", [labels, at], axis=0))
    label = g.op("Add", [g.reshape(label, -1, 1), g.const(1.0, "one")])
    score = g.reshape(g.op("Gather", [scores, at], axis=0), -1, 1)
    rows = [g.scaled(score, 0.0), label, score, g.op("Gather", [boxes, at], axis=0)]
    images = g.op("Shape", [bottoms[-1]], start=0, end=1)
    none = nothing(g, images, g.op("Shape", [at], start=0, end=1))
    top = g.op("Concat", [g.op("Concat", rows, axis=1), none], axis=0)
    top = g.reshape(top, 1, 1, -1, 7)
    g.varies(top, 2)
    return str(top)
