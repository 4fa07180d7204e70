"""DetectionOutput in ONNX: decoding, NonMaxSuppression, and rows in Caffe's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.layers.onnx.regions import nothing

_LOWEST = float(np.finfo(np.float32).min)


class Detections(Protocol):
    """What DetectionOutput has read of its parameters."""

    classes: int
    location_classes: int
    background: int
    code: str
    in_target: bool
    keep_top_k: int
    least: float | None
    threshold: float
    eta: float
    top_k: int


def onnx_detections(layer: Detections, g: OnnxGraph, loc: str, conf: str, prior: str) -> str:
    """The rows (1, 1, boxes, 7) that `DetectionOutput.forward` returns.

    Candidates are sorted by score first, so that NonMaxSuppression sees each class of each image as
    a problem of its own with the top_k best boxes.
    """
    if layer.eta < 1:
        raise g.unsupported("nms_param.eta below 1: NonMaxSuppression has one threshold")
    labels = [c for c in range(layer.classes) if c != layer.background]
    count = g.shape(conf)[1] // layer.classes
    boxes = _decoded(layer, g, loc, prior, count)
    scores = g.op("Transpose", [g.reshape(conf, 0, count, layer.classes)], perm=(0, 2, 1))
    scores = g.op("Gather", [scores, g.ints(labels, "labels")], axis=1)
    if layer.location_classes > 1:
        boxes = g.op("Gather", [boxes, g.ints(labels, "labels")], axis=1)
    else:
        shape = g.ints((1, len(labels), 1, 1))
        boxes = g.op("Expand", [boxes, shape])
    best = count if layer.top_k < 0 else min(count, layer.top_k)
    scores, order = g.op("TopK", [scores, g.ints((best,), "top_k")], outputs=2, axis=2)
    index = g.op("Expand", [g.reshape(order, 0, 0, best, 1), g.ints((1, 1, 1, 4))])
    boxes = g.op("GatherElements", [boxes, index], axis=2)
    keep = _kept(layer, g, scores, boxes, (len(labels), best))
    return _rows(g, keep, scores, boxes, labels, best)


def onnx_opencv(layer: Detections, g: OnnxGraph, loc: str, conf: str, prior: str) -> str:
    """OpenCV 4's own operator, which its reader takes in place of NonMaxSuppression.

    Source: parseDetectionOutput of modules/dnn/src/onnx/onnx_importer.cpp and
    layers/detection_output_layer.cpp (OpenCV 4).
    """
    if layer.eta < 1:
        raise g.unsupported("nms_param.eta below 1 is not compared with OpenCV")
    top: str = g.op(
        "DetectionOutput", [loc, conf, prior],
        num_classes=layer.classes,
        share_location=int(layer.location_classes == 1),
        background_label_id=layer.background,
        nms_threshold=float(layer.threshold),
        top_k=layer.top_k,
        keep_top_k=layer.keep_top_k,
        code_type=layer.code,
        confidence_threshold=_LOWEST if layer.least is None else float(layer.least),
        variance_encoded_in_target=int(layer.in_target),
    )  # fmt: skip
    g.varies(top, 2)
    return top


def _decoded(layer: Detections, g: OnnxGraph, loc: str, prior: str, count: int) -> str:
    """Boxes (N, location classes, priors, 4) as corners."""
    loc = g.reshape(loc, 0, count, layer.location_classes, 4)
    loc = g.op("Transpose", [loc], perm=(0, 2, 1, 3))
    halves = g.ints((1, 1), "halves")
    corners, variance = g.op("Split", [g.reshape(prior, 2, count, 4), halves], outputs=2, axis=0)
    offset = loc if layer.in_target else g.op("Mul", [loc, variance])
    if layer.code == "CORNER":
        return str(g.op("Add", [corners, offset]))
    pair = g.ints((2, 2), "pair")
    low, high = g.op("Split", [corners, pair], outputs=2, axis=-1)
    extent = g.op("Sub", [high, low])
    if layer.code == "CORNER_SIZE":
        both = g.op("Concat", [extent, extent], axis=-1)
        return str(g.op("Add", [corners, g.op("Mul", [offset, both])]))
    shift, growth = g.op("Split", [offset, pair], outputs=2, axis=-1)
    middle = g.scaled(g.op("Add", [low, high]), 0.5)
    center = g.op("Add", [middle, g.op("Mul", [shift, extent])])
    half = g.scaled(g.op("Mul", [g.op("Exp", [growth]), extent]), 0.5)
    ends = [g.op("Sub", [center, half]), g.op("Add", [center, half])]
    return str(g.op("Concat", ends, axis=-1))


def _kept(layer: Detections, g: OnnxGraph, scores: str, boxes: str, size: tuple[int, int]) -> str:
    """1.0 for the candidates (N, classes * best) that stay, else 0."""
    classes, best = size
    if layer.code != "CENTER_SIZE":  # boxes that are inside out overlap nothing in Caffe
        low, high = g.op("Split", [boxes, g.ints((2, 2), "pair")], outputs=2, axis=-1)
        boxes = g.op("Concat", [low, g.op("Max", [low, high])], axis=-1)
    found = g.op(
        "NonMaxSuppression",
        [
            g.reshape(boxes, -1, best, 4),
            g.reshape(scores, -1, 1, best),
            g.const(best, "most"),
            g.const(layer.threshold, "overlap"),
            g.const(_LOWEST if layer.least is None else layer.least, "least"),
        ],
    )
    places = g.op("Gather", [found, g.ints((0, 2), "columns")], axis=1)
    zeros = g.zeros(g.op("Shape", [g.reshape(scores, -1, best)]))
    ones = g.op("Expand", [g.const(1.0, "one"), g.op("Shape", [places], start=0, end=1)])
    keep = g.reshape(g.op("ScatterND", [zeros, places, ones]), -1, classes * best)
    if layer.keep_top_k < 0 or layer.keep_top_k >= classes * best:
        return keep
    stays = g.op("Greater", [keep, g.const(0.0, "zero")])
    ranked = g.op("Where", [stays, g.reshape(scores, 0, classes * best), g.const(_LOWEST, "out")])
    most = g.ints((layer.keep_top_k,), "keep_top_k")
    _, chosen = g.op("TopK", [ranked, most], outputs=2, axis=1)
    ones = g.op("Expand", [g.const(1.0, "one"), g.op("Shape", [chosen])])
    zeros = g.zeros(g.op("Shape", [keep]))
    return str(g.op("Mul", [keep, g.op("ScatterElements", [zeros, chosen, ones], axis=1)]))


def _rows(
    g: OnnxGraph, keep: str, scores: str, boxes: str, labels: Sequence[int], best: int
) -> str:
    """Image, label, score and corners of what is kept, or what Caffe returns for nothing."""
    flat = len(labels) * best
    places = g.op("NonZero", [keep])
    image, place = g.op("Split", [places, g.ints((1, 1), "rows")], outputs=2, axis=0)
    label = g.op("Div", [g.reshape(place, -1, 1), g.const(best, "best")])
    label = g.op("Gather", [g.const([float(c) for c in labels], "labels"), label], axis=0)
    index = g.op("Transpose", [places], perm=(1, 0))
    score = g.reshape(g.op("GatherND", [g.reshape(scores, 0, flat), index]), -1, 1)
    corners = g.op("GatherND", [g.reshape(boxes, 0, flat, 4), index])
    rows = [g.to_float(g.reshape(image, -1, 1)), label, score, corners]
    found = g.op("Concat", rows, axis=1)
    images = g.op("Shape", [scores], start=0, end=1)
    none = nothing(g, images, g.op("Shape", [places], start=1, end=2))
    top = g.op("Concat", [found, none], axis=0)
    top = g.reshape(top, 1, 1, -1, 7)
    g.varies(top, 2)
    return top
