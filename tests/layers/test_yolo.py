"""YOLO's layers against loops over cells and boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close
from tests.layers.build import build, meta_shapes

ANCHORS = [(1.0, 1.5), (3.0, 2.0)]


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def iou(a, b):
    w = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    both = w * h if w >= 0 and h >= 0 else 0.0
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def box_of(v, i, j, anchor, grid, scale):
    return (
        (i + sigmoid(v[0])) / grid[0], (j + sigmoid(v[1])) / grid[1],
        math.exp(v[2]) * anchor[0] / scale[0], math.exp(v[3]) * anchor[1] / scale[1],
    )  # fmt: skip


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def greedy(found, threshold):
    """Of (score, box, label) those that no better one overlaps by the threshold."""
    kept = []
    for item in sorted(found, key=lambda item: -item[0]):
        if all(iou(item[1], other[1]) < threshold for other in kept):
            kept.append(item)
    return kept


def rows_of(kept):
    return np.array([
        [0, label + 1, score, x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        for score, (x, y, w, h), label in kept
    ])  # fmt: skip


def biases(anchors):
    return " ".join(f"biases: {a} biases: {b}" for a, b in anchors)


# -- detection


def test_yolo_detection_output():
    torch.manual_seed(0)
    classes, side = 3, 4
    x = torch.randn(1, 2 * (5 + classes), side, side)
    text = (
        f"num_classes: 3 num_box: 2 confidence_threshold: 0.2 nms_threshold: 0.3 {biases(ANCHORS)}"
    )
    layer = build(f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {text} }}', x.shape)
    found = candidates(x.double().numpy(), side)
    expected = rows_of(greedy(found, 0.3))
    assert 3 < len(expected) < len(found)
    assert_close(layer(x)[0, 0], expected, "rows", 1e-6)
    assert meta_shapes(layer, tuple(x.shape)) == [(1, 1, 1, 7)]


def candidates(x, side):
    """Boxes of version 2 with a score of 0.2 and more: (score, box, label), in float64."""
    found = []
    for j in range(side):
        for i in range(side):
            for n, anchor in enumerate(ANCHORS):
                v = x[0, n * 8 : n * 8 + 8, j, i]
                p = softmax(v[5:])
                score = sigmoid(v[4]) * p.max()
                if score >= 0.2:
                    box = box_of(v, i, j, anchor, (side, side), (side, side))
                    found.append((score, box, int(p.argmax())))
    return found


def test_yolov3_detection_output():
    torch.manual_seed(1)
    classes, anchors = 2, [(10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0)]
    maps = [torch.randn(1, 2 * (5 + classes), *s) for s in ((2, 3), (4, 6))]
    text = (
        "num_classes: 2 num_box: 2 confidence_threshold: 0.3 nms_threshold: 0.4 mask_group_num: 2 "
        f"mask: 2 mask: 3 mask: 0 mask: 1 anchors_scale: 32 anchors_scale: 16 {biases(anchors)}"
    )
    shapes = [tuple(m.shape) for m in maps]
    layer = build(
        f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {text} }}', *shapes
    )
    found = []
    for x, mask, scale in zip(maps, ((2, 3), (0, 1)), (32, 16), strict=True):
        height, width = x.shape[2:]
        for j in range(height):
            for i in range(width):
                for n, m in enumerate(mask):
                    v = x[0, n * 7 : n * 7 + 7, j, i].double().numpy()
                    size = (width * scale, height * scale)
                    box = box_of(v, i, j, anchors[m], (width, height), size)
                    for c in range(classes):
                        score = sigmoid(v[4]) * sigmoid(v[5 + c])
                        if score > 0.3:
                            found.append((score, box, c))
    expected = rows_of(greedy(found, 0.4))
    assert 3 < len(expected) < len(found)
    assert_close(layer(*maps)[0, 0], expected, "rows", 1e-6)


def test_nothing_found():
    text = f"num_classes: 3 num_box: 2 confidence_threshold: 2 {biases(ANCHORS)}"
    layer = build(
        f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {text} }}', (2, 16, 2, 2)
    )
    assert layer(torch.zeros(2, 16, 2, 2)).tolist() == [[[[0.0] + [-1.0] * 6, [1.0] + [-1.0] * 6]]]


@pytest.mark.parametrize(
    ("kind", "param", "message"),
    [
        (
            "Yolov3",
            "num_classes: 2 num_box: 2 mask_group_num: 2",
            "must be 1, the number of bottoms",
        ),
        ("Yolov3", "num_classes: 2 num_box: 2 mask_group_num: 1 mask: 0", "2 boxes need as many"),
        ("Yolov3", "num_classes: 2 gaussian_box: true", "not supported"),
        ("Yolo", "num_box: 2", "num_classes: must be set"),
        ("Yolo", "num_classes: 2 num_box: 2", "2 boxes need 4 numbers"),
        ("Yolo", f"num_classes: 9 num_box: 2 {biases(ANCHORS)}", "must have 28 channels"),
    ],
)
def test_errors(kind, param, message):
    field = f"{kind.lower()}_detection_output_param"
    with pytest.raises(LayerError, match=message):
        build(f'type: "{kind}DetectionOutput" {field} {{ {param} }}', (1, 14, 2, 2))


# -- losses


def ground_truth(rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


ROWS = [
    [0, 2, 0, 0.10, 0.20, 0.55, 0.50, 0],
    [0, 1, 0, 0.12, 0.18, 0.56, 0.52, 0],  # the same cell and anchor: the last one counts
    [1, 3, 0, 0.60, 0.10, 0.75, 0.45, 0],
    [-1] * 8,
]


def region_gradient(x, rows, side, classes, scales, thresh):
    """Intel's loops; the gradient has the bottom's shape."""
    obj, cls, noobj, coord = scales
    size = 5 + classes
    out = np.zeros(x.shape)
    for b in range(len(x)):
        mine = [
            ((r[3] + r[5]) / 2, (r[4] + r[6]) / 2, r[5] - r[3], r[6] - r[4], int(r[1]) - 1)
            for r in rows
            if r[0] == b
        ]
        for j in range(side):
            for i in range(side):
                for n, anchor in enumerate(ANCHORS):
                    v = x[b, n * size : (n + 1) * size, j, i]
                    box = box_of(v, i, j, anchor, (side, side), (side, side))
                    p = sigmoid(v[4])
                    best = max((iou(box, t[:4]) for t in mine), default=0)
                    out[b, n * size + 4, j, i] = 0 if best > thresh else noobj * p * p * (1 - p)
        for tx, ty, tw, th, label in mine:
            i, j = int(tx * side), int(ty * side)
            shapes = [iou((0, 0, a / side, c / side), (0, 0, tw, th)) for a, c in ANCHORS]
            n = int(np.argmax(shapes))
            v = x[b, n * size : (n + 1) * size, j, i]
            g = np.zeros(size)
            for k, (t, c) in enumerate(((tx, i), (ty, j))):
                s = sigmoid(v[k])
                g[k] = -coord * np.clip(t * side - c - s, -1, 1) * s * (1 - s)
            for k, t in enumerate((tw, th)):
                g[2 + k] = -coord * np.clip(math.log(t * side / ANCHORS[n][k]) - v[2 + k], -1, 1)
            p = sigmoid(v[4])
            g[4] = -obj * 2 * (1 - p) ** 3 * p * (1 - p)
            g[5:] = -cls * (np.eye(classes)[label] - softmax(v[5:]))
            out[b, n * size : (n + 1) * size, j, i] = g
    return out


def test_region_loss():
    torch.manual_seed(2)
    side, classes = 4, 3
    x = torch.randn(2, 16, side, side)
    text = (
        f"side: 4 num_class: 3 num: 2 object_scale: 5 class_scale: 2 noobject_scale: 0.7 "
        f"coord_scale: 1.5 thresh: 0.3 {biases(ANCHORS)}"
    )
    label = ground_truth(ROWS)
    layer = build(f'type: "RegionLoss" region_loss_param {{ {text} }}', x.shape, label.shape)
    expected = region_gradient(x.double().numpy(), ROWS, side, classes, (5, 2, 0.7, 1.5), 0.3)
    leaf = x.clone().requires_grad_()
    loss = layer(leaf, label)
    (3 * loss).backward()
    assert loss.item() == pytest.approx((expected**2).sum(), rel=1e-5)
    assert_close(leaf.grad, 3 * expected / 2, "gradient", 1e-5)
    assert meta_shapes(layer, tuple(x.shape), tuple(label.shape)) == [()]


def test_eval_detection():
    torch.manual_seed(3)
    side, classes = 2, 2
    anchors = [(1.0, 1.0), (1.2, 0.8), (0.5, 0.6), (1.5, 1.6), (0.7, 0.3)]
    x = torch.randn(1, 5 * (5 + classes), side, side)
    rows = [[0, 1, 0, 0.2, 0.2, 0.8, 0.7, 0], [0, 1, 0, 0.0, 0.0, 0.3, 0.3, 0]]
    label = ground_truth(rows)
    text = f"side: 2 num_class: 2 num_object: 5 threshold: 0.1 nms: 0.5 {biases(anchors)}"
    layer = build(
        f'type: "EvalDetection" eval_detection_param {{ {text} }}', x.shape, label.shape, (1, 3)
    )
    top = layer(x, label, torch.zeros(1, 3))
    found = []
    for j in range(side):
        for i in range(side):
            for n, anchor in enumerate(anchors):
                v = x[0, n * 7 : n * 7 + 7, j, i].double().numpy()
                p = softmax(v[5:])
                box = box_of(v, i, j, anchor, (side, side), (side, side))
                found.append((sigmoid(v[4]) * p.max(), box, int(p.argmax())))
    kept = sorted(greedy(found, 0.5), key=lambda item: item[2])
    truths = [((r[3] + r[5]) / 2, (r[4] + r[6]) / 2, r[5] - r[3], r[6] - r[4]) for r in rows]
    expected, used = [], set()
    for score, box, c in kept:
        right = wrong = 0
        if c == 1:
            wrong = 1  # no truth of this label
        else:
            overlaps = [iou(box, t) for t in truths]
            best = int(np.argmax(overlaps))
            if overlaps[best] >= 0.1:
                right, wrong = (0, 1) if best in used else (1, 0)
                used.add(best)
        expected.append([c, score, right, wrong])
    assert {0, 1} <= {row[0] for row in expected} and used
    assert top.shape == (1, 2 + 4 * 5 * 4) and top[0, :2].tolist() == [2, 0]
    mine = top[0, 2:].view(-1, 4)
    assert_close(mine[: len(expected)], np.array(expected), "rows", 1e-6)
    assert not mine[len(expected) :].any()


def yolov3_gradient(x, rows, anchors, mask, scale, classes, p):
    """The fork's loops, on truths (class, x, y, w, h) of each image."""
    size = 5 + classes
    height, width = x.shape[2:]
    pixels = (width * scale, height * scale)
    out = np.zeros(x.shape)
    for b in range(len(x)):
        truths = [t for t in rows[b] if t[3]]
        for j in range(height):
            for i in range(width):
                for n, m in enumerate(mask):
                    v = x[b, n * size : (n + 1) * size, j, i]
                    box = box_of(v, i, j, anchors[m], (width, height), pixels)
                    best = max((iou(box, t[1:]) for t in truths), default=0)
                    out[b, n * size + 4, j, i] = 0 if best > p["thresh"] else sigmoid(v[4])
        for label, tx, ty, tw, th in truths:
            i, j = int(tx * width), int(ty * height)
            shapes = [iou((0, 0, a / pixels[0], c / pixels[1]), (0, 0, tw, th)) for a, c in anchors]
            best = int(np.argmax(shapes))
            places = [mask.index(best)] if best in mask else []
            compare = places[0] if places else best
            places += [mask.index(m) for m in range(len(anchors))
                       if m in mask and m != compare and shapes[m] > p["iou_thresh"]]  # fmt: skip
            for n in places:
                v = x[b, n * size : (n + 1) * size, j, i]
                g = out[b, n * size : (n + 1) * size, j, i]
                weight = p["coord"] * (2 - tw * th)
                g[0] = -weight * (tx * width - i - sigmoid(v[0]))
                g[1] = -weight * (ty * height - j - sigmoid(v[1]))
                g[2] = -weight * (math.log(tw * pixels[0] / anchors[mask[n]][0]) - v[2])
                g[3] = -weight * (math.log(th * pixels[1] / anchors[mask[n]][1]) - v[3])
                g[4] = -(1 - sigmoid(v[4])) * (p["object"] if p["logic"] else 1)
                soft = lambda y: y * (1 - p["smooth"]) + 0.5 * p["smooth"]  # noqa: E731
                if g[5 + int(label)]:
                    g[5 + int(label)] = -p["class"] * (soft(1) - sigmoid(v[5 + int(label)]))
                else:
                    for c in range(classes):
                        g[5 + c] = -p["class"] * (soft(float(c == label)) - sigmoid(v[5 + c]))
    return out


@pytest.mark.parametrize("logic", [False, True])
@pytest.mark.parametrize("mask", [[0, 1], [1, 2], [2, 3]])
def test_yolov3(mask, logic):
    torch.manual_seed(4)
    anchors, classes, scale = [(10.0, 13.0), (30.0, 20.0), (40.0, 45.0), (90.0, 80.0)], 3, 32
    x = torch.randn(2, 2 * (5 + classes), 3, 4)
    rows = np.zeros((2, 6, 5))
    rows[0, :4] = [
        [0, 0.30, 0.40, 0.30, 0.40], [2, 0.31, 0.41, 0.32, 0.38],  # two in one cell
        [1, 0.80, 0.20, 0.08, 0.13], [1, 0.55, 0.90, 0.70, 0.80],
    ]  # fmt: skip
    rows[1, :1] = [[0, 0.10, 0.70, 0.24, 0.21]]
    text = (
        f"num_class: 3 num: 2 object_scale: 5 class_scale: 1.5 coord_scale: 2 thresh: 0.4 "
        f"anchors_scale: {scale} iou_thresh: 0.3 use_logic_gradient: {str(logic).lower()} "
        f"mask: {mask[0]} mask: {mask[1]} {biases(anchors)}"
    )
    label = torch.tensor(rows, dtype=torch.float32).view(2, 1, 6, 5)
    layer = build(f'type: "Yolov3" yolov3_param {{ {text} }}', x.shape, label.shape)
    settings = {"thresh": 0.4, "iou_thresh": 0.3, "coord": 2, "object": 5, "class": 1.5,
                "logic": logic, "smooth": 0.1}  # fmt: skip
    wide = x.double().numpy()
    expected = yolov3_gradient(wide, rows, anchors, mask, scale, classes, settings)
    leaf = x.clone().requires_grad_()
    loss = layer(leaf, label)
    loss.backward()
    assert loss.item() == pytest.approx((expected**2).sum() / 2, rel=1e-5)
    if logic:
        s = 1 / (1 + np.exp(-wide))
        slope = (s * (1 - s)).reshape(2, 2, 8, 3, 4)
        slope[:, :, 2:4] = 1
        expected = expected * slope.reshape(x.shape)
    assert_close(leaf.grad, expected / 2, "gradient", 1e-5)


def test_yolov3_of_another_loss_is_refused():
    for param in ("iou_loss: GIOU", "use_focal_loss: true"):
        with pytest.raises(LayerError, match="not supported"):
            build(f'type: "Yolov3" yolov3_param {{ {param} }}', (1, 25, 2, 2), (1, 1, 300, 5))


# -- segmentation


@pytest.mark.parametrize("weighted", [False, True])
def test_yolo_seg(weighted):
    torch.manual_seed(5)
    x, label = torch.randn(2, 3, 4, 5), (torch.rand(2, 3, 4, 5) > 0.6).float()
    bottoms = [x.requires_grad_(), label]
    expected = 0.5 * (x.detach().sigmoid() - label)
    if weighted:
        pixels = label.sum((2, 3))
        bottoms.append(pixels)
        ratio = pixels.sum(0) / (20 - pixels).sum(0)
        for n, c in np.ndindex(2, 3):
            part = expected[n, c]
            part[label[n, c] > 0.5] *= 2 - ratio[c]
    layer = build(
        'type: "YoloSeg" yolo_seg_param { object_scale: 0.5 }', *(b.shape for b in bottoms)
    )
    loss = layer(*bottoms)
    loss.backward()
    assert loss.item() == pytest.approx((expected**2).sum().item() / 2, rel=1e-6)
    assert_close(x.grad, expected.numpy() / 2, "gradient", 1e-6)


def test_segmentation_evaluate():
    scores = torch.tensor([[[[0.9, 0.9, 0.1, 0.1]], [[0.1, 0.1, 0.1, 0.1]]]])
    truth = torch.tensor([[[[1.0, 0, 0, 1]], [[0.0, 0, 1, 0]]]])
    text = 'type: "SegmentationEvaluate" segmentation_evaluate_param { num_classes: 2 }'
    layer = build(text, scores.shape, truth.shape)
    assert layer(scores, truth).flatten().tolist() == pytest.approx([1 / 3, 0])
    with pytest.raises(LayerError, match="must be of one size"):
        build(text, (1, 2, 4, 4), (1, 2, 8, 8))
