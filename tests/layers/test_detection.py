"""DetectionOutput, PriorBox, DetectionEvaluate and Normalize against plain readings of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from caffeio.ops.ssd.boxes import nms
from tests.harness import assert_close
from tests.layers.build import build, gradients, meta_shapes
from tests.layers.test_ssd_loss import iou

# -- PriorBox


def prior_by_hand(size, image, least, most, ratios, step, offset=0.5):
    rows = []
    for h in range(size[0]):
        for w in range(size[1]):
            cx, cy = (w + offset) * step[1], (h + offset) * step[0]
            for i, small in enumerate(least):
                boxes = [(small, small)]
                if most:
                    boxes.append((math.sqrt(small * most[i]),) * 2)
                boxes += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ratios]
                for bw, bh in boxes:
                    rows.append([
                        (cx - bw / 2) / image[1], (cy - bh / 2) / image[0],
                        (cx + bw / 2) / image[1], (cy + bh / 2) / image[0],
                    ])  # fmt: skip
    return np.array(rows)


@pytest.mark.parametrize(
    ("param", "least", "most", "ratios", "step"),
    [
        ("min_size: 30", [30], [], [], (100 / 3, 40)),
        ("min_size: 30 max_size: 60 aspect_ratio: 2", [30], [60], [2, 0.5], (100 / 3, 40)),
        ("min_size: 30.9 aspect_ratio: 2 flip: false", [30], [], [2], (100 / 3, 40)),
        ("min_size: 9 min_size: 20 aspect_ratio: 3 aspect_ratio: 3 aspect_ratio: 1 step: 16",
         [9, 20], [], [3, 1 / 3], (16, 16)),
        ("min_size: 9 step_h: 8 step_w: 4", [9], [], [], (8, 4)),
    ],
)  # fmt: skip
def test_prior_box(param, least, most, ratios, step):
    shapes = ((2, 4, 3, 5), (2, 3, 100, 200))
    layer = build(f'type: "PriorBox" prior_box_param {{ {param} variance: 0.2 }}', *shapes)
    top = layer(*(torch.zeros(s) for s in shapes))
    boxes = prior_by_hand((3, 5), (100, 200), least, most, ratios, step)
    assert top.shape == (1, 2, boxes.size)
    assert_close(top[0, 0].view(-1, 4), boxes, "boxes", 1e-6)
    assert torch.equal(top[0, 1], torch.full((boxes.size,), 0.2))
    assert meta_shapes(layer, *shapes) == [(1, 2, boxes.size)]


def test_prior_box_clipped_with_variances_and_an_image_size():
    shapes = ((1, 1, 2, 2), (1, 3, 9, 9))
    text = (
        "min_size: 80 clip: true img_h: 100 img_w: 50 variance: 0.1 variance: 0.2 variance: 0.3 "
        "variance: 0.4"
    )
    top = build(f'type: "PriorBox" prior_box_param {{ {text} }}', *shapes)(
        *(torch.zeros(s) for s in shapes)
    )
    boxes = prior_by_hand((2, 2), (100, 50), [80], [], [], (50, 25)).clip(0, 1)
    assert_close(top[0, 0].view(-1, 4), boxes, "boxes", 1e-6)
    assert top[0, 1, :4].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_prior_box_clustered():
    shapes = ((1, 1, 2, 3), (1, 3, 40, 60))
    text = "width: 10 width: 20.5 height: 8 height: 30.25 step: 20 variance: 0.1"
    layer = build(f'type: "PriorBoxClustered" prior_box_param {{ {text} }}', *shapes)
    top = layer(*(torch.zeros(s) for s in shapes))
    cell = top[0, 0].view(2, 3, 2, 4)[1, 2]
    expected = [[(50 - 5) / 60, (30 - 4) / 40, 55 / 60, 34 / 40],
                [(50 - 10.25) / 60, (30 - 15.125) / 40, 60.25 / 60, 45.125 / 40]]  # fmt: skip
    assert_close(cell, np.array(expected), "cell", 1e-6)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "min_size: must be given"),
        ("min_size: -1", "must be positive"),
        ("min_size: 3 max_size: 2", "one for each min_size, and greater"),
        ("min_size: 3 variance: 0.1 variance: 0.1", "give one or four"),
        ("min_size: 3 step: 4 step_h: 4", "give either it or step_h and step_w"),
        ("min_size: 3 img_h: 4", "must be positive"),
    ],
)
def test_prior_box_errors(param, message):
    with pytest.raises(LayerError, match=message):
        build(f'type: "PriorBox" prior_box_param {{ {param} }}', (1, 1, 2, 2), (1, 3, 9, 9))


# -- DetectionOutput


def nms_by_hand(boxes, threshold, eta):
    kept = []
    for i, box in enumerate(boxes):
        if all(iou(box, boxes[k]) <= threshold for k in kept):
            kept.append(i)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


@pytest.mark.parametrize(("threshold", "eta"), [(0.45, 1.0), (0.3, 1.0), (0.9, 0.8), (0.0, 1.0)])
@pytest.mark.parametrize("limit", [1, 1 << 26])
def test_suppression(threshold, eta, limit, monkeypatch):
    monkeypatch.setattr("caffeio.ops.ssd.boxes.MATRIX_LIMIT", limit)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (4, 30, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, low.shape)], -1).astype(np.float32)
    valid = torch.ones(4, 30, dtype=torch.bool)
    valid[1, 20:] = False
    keep = nms(torch.from_numpy(boxes), valid, threshold, eta)
    for i in range(4):
        expected = nms_by_hand(boxes[i, : 20 if i == 1 else 30], threshold, eta)
        assert keep[i].nonzero().flatten().tolist() == expected


def detections_by_hand(boxes, conf, *, least, threshold, top_k, keep):
    """Rows of one image; conf (P, C), background 0."""
    rows = []
    for label in range(1, conf.shape[1]):
        order = [p for p in np.argsort(-conf[:, label], kind="stable") if conf[p, label] > least]
        order = order[:top_k]
        for k in nms_by_hand([boxes[p] for p in order], threshold, 1.0):
            rows.append((label, conf[order[k], label], *boxes[order[k]]))
    best = sorted(rows, key=lambda r: -r[1])[:keep]
    return [r for r in rows if r in best]


def test_detection_output():
    rng = np.random.default_rng(1)
    num, priors, classes = 2, 40, 4
    low = rng.uniform(0, 0.6, (priors, 2))
    prior = np.concatenate([low, low + rng.uniform(0.1, 0.4, (priors, 2))], 1).astype(np.float32)
    loc = (0.3 * rng.normal(size=(num, priors, 4))).astype(np.float32)
    conf = rng.dirichlet(np.ones(classes), (num, priors)).astype(np.float32)
    var = np.full_like(prior, 0.1)
    bottoms = [
        torch.from_numpy(x)
        for x in (
            loc.reshape(num, -1),
            conf.reshape(num, -1),
            np.stack([prior, var]).reshape(1, 2, -1),
        )
    ]
    text = (
        "num_classes: 4 code_type: CORNER confidence_threshold: 0.2 keep_top_k: 15 "
        "nms_param { nms_threshold: 0.4 top_k: 12 }"
    )
    shapes = [tuple(b.shape) for b in bottoms]
    layer = build(f'type: "DetectionOutput" detection_output_param {{ {text} }}', *shapes)
    top = layer(*bottoms)
    expected = []
    for n in range(num):
        rows = detections_by_hand(
            prior + var * loc[n], conf[n], least=0.2, threshold=0.4, top_k=12, keep=15
        )
        expected += [(n, *row) for row in rows]
    assert top.shape == (1, 1, len(expected), 7) and len(expected) == 30
    assert_close(top[0, 0], np.array(expected), "rows", 1e-6)
    assert meta_shapes(layer, *shapes) == [(1, 1, 1, 7)]


def test_detection_output_finds_nothing():
    bottoms = (torch.zeros(2, 8), torch.zeros(2, 4), torch.ones(1, 2, 8))
    text = "num_classes: 2 confidence_threshold: 0.5"
    layer = build(
        f'type: "DetectionOutput" detection_output_param {{ {text} }}',
        *(tuple(b.shape) for b in bottoms),
    )
    assert layer(*bottoms).tolist() == [[[[0.0] + [-1.0] * 6, [1.0] + [-1.0] * 6]]]


def test_detection_output_locations_of_each_class():
    prior = torch.tensor([0.1, 0.1, 0.5, 0.5]).repeat(2)
    priors = torch.stack([prior, torch.full_like(prior, 0.1)]).view(1, 2, 8)
    loc = torch.zeros(1, 2, 3, 4)
    loc[0, 1, 2] = 1.0  # second prior, class 2
    conf = torch.tensor([[[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]])
    text = "num_classes: 3 share_location: false variance_encoded_in_target: true code_type: CORNER"
    text += " confidence_threshold: 0.5"
    layer = build(
        f'type: "DetectionOutput" detection_output_param {{ {text} }}', (1, 24), (1, 6), (1, 2, 8)
    )
    top = layer(loc.view(1, 24), conf.view(1, 6), priors)
    assert top[0, 0, :, 1].tolist() == [1, 2]
    assert torch.allclose(top[0, 0, 1, 3:], prior[:4] + 1)


@pytest.mark.parametrize(
    ("param", "shapes", "message"),
    [
        ("", ((1, 8), (1, 4), (1, 2, 8)), "num_classes: must be set"),
        ("num_classes: 2", ((1, 8), (1, 6), (1, 2, 8)), "2 priors need 4 scores"),
        ("num_classes: 2", ((1, 12), (1, 4), (1, 2, 8)), "2 priors need 8 locations"),
        ("num_classes: 2", ((1, 8), (1, 4), (1, 8)), "bottom 2 must be priors"),
        ("num_classes: 2 nms_param { eta: 2 }", ((1, 8), (1, 4), (1, 2, 8)), "eta: must be in"),
        ("num_classes: 2 output_logits: true", ((1, 8), (1, 4), (1, 2, 8)), "not supported"),
    ],
)
def test_detection_output_errors(param, shapes, message):
    with pytest.raises(LayerError, match=message):
        build(f'type: "DetectionOutput" detection_output_param {{ {param} }}', *shapes)


# -- DetectionEvaluate

FOUND = [
    [0, 1, 0.5, 0.10, 0.10, 0.50, 0.50],  # second best of the first truth: false
    [0, 1, 0.9, 0.12, 0.10, 0.50, 0.50],  # best: true
    [0, 2, 0.8, 0.60, 0.60, 0.90, 0.90],  # a difficult truth
    [0, 2, 0.7, 0.00, 0.00, 0.05, 0.05],  # nothing there
    [1, 1, 0.6, 0.10, 0.10, 0.50, 0.50],  # no truth of this label
    [2, -1, -1, -1, -1, -1, -1],
]
TRUTH = [
    [0, 1, 0, 0.10, 0.10, 0.50, 0.50, 0],
    [0, 2, 0, 0.60, 0.60, 0.90, 0.92, 1],
    [1, 2, 0, 0.10, 0.10, 0.50, 0.50, 0],
    [-1] * 8,
    [2, 1, 0, 0.10, 0.10, 0.50, 0.50, 0],  # after the padding: not seen
]


def evaluate(param="", found=FOUND, truth=TRUTH):
    bottoms = [torch.tensor(x, dtype=torch.float32)[None, None] for x in (found, truth)]
    text = f'type: "DetectionEvaluate" detection_evaluate_param {{ num_classes: 3 {param} }}'
    layer = build(text, *(tuple(b.shape) for b in bottoms))
    return layer(*bottoms)[0, 0], layer


def test_detection_evaluate():
    rows, layer = evaluate()
    expected = [
        [-1, 1, 1, -1, -1], [-1, 2, 2, -1, -1],
        [0, 1, 0.9, 1, 0], [0, 1, 0.5, 0, 1], [0, 2, 0.8, 1, 0], [0, 2, 0.7, 0, 1],
        [1, 1, 0.6, 0, 1],
    ]  # fmt: skip
    assert torch.allclose(rows, torch.tensor(expected))
    assert meta_shapes(layer, (1, 1, 6, 7), (1, 1, 5, 8)) == [(1, 1, 8, 5)]


def test_detection_evaluate_without_difficult_truths():
    rows, _ = evaluate("evaluate_difficult_gt: false")
    assert rows[1].tolist() == [-1, 2, 1, -1, -1]
    assert rows[4, 3:].tolist() == [0, 0]


def test_detection_evaluate_in_pixels(tmp_path):
    """A box of one pixel more or less counts by its pixels: (w + 1) x (h + 1)."""
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("a 10 10\nb 10 10\n")
    found = [[0, 1, 0.9, 0.0, 0.0, 0.1, 0.1], [1, 1, 0.9, 0.0, 0.0, 0.1, 0.1]]
    truth = [[0, 1, 0, 0.0, 0.0, 0.2, 0.1, 0], [1, 1, 0, 0.0, 0.0, 0.1, 0.1, 0]]
    param = f'name_size_file: "{sizes}" overlap_threshold: 0.6'
    rows, layer = evaluate(param, found, truth)  # 2 x 2 of 3 x 2 pixels: 0.667; normalized 0.5
    assert rows[2:, 3].tolist() == [1, 1]
    assert layer.images == 0
    assert evaluate("overlap_threshold: 0.6", found, truth)[0][2:, 3].tolist() == [0, 1]


def test_detection_evaluate_nothing_found():
    rows, _ = evaluate(found=[[0, -1, -1, -1, -1, -1, -1]])
    assert rows.tolist() == [[-1, 1, 1, -1, -1], [-1, 2, 2, -1, -1]]


def test_detection_evaluate_errors():
    with pytest.raises(LayerError, match=r"no file 'nowhere.txt'"):
        evaluate('name_size_file: "nowhere.txt"')  # when it is read
    with pytest.raises(LayerError, match="overlap_threshold: must be positive"):
        evaluate("overlap_threshold: 0")


# -- Normalize


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_normalize(across, shared):
    flags = f"across_spatial: {across} channel_shared: {shared}".lower()
    text = f"norm_param {{ {flags} eps: 0.01 scale_filler {{ value: 20 }} }}"
    x = torch.randn(2, 3, 4, 5)
    layer = build(f'type: "Normalize" {text}', x.shape)
    assert tuple(layer.blobs[0].shape) == (() if shared else (3,))
    with torch.no_grad():
        layer.blobs[0].copy_(torch.arange(1.0, 4.0) if not shared else torch.tensor(20.0))
    (y,), (grad,) = gradients(layer, x)
    expected = np.empty(x.shape)
    for n in range(2):
        for h in range(4):
            for w in range(5):
                part = (x[n] if across else x[n, :, h, w]).double().numpy()
                scale = layer.blobs[0].detach().numpy() / math.sqrt((part**2).sum() + 0.01)
                expected[n, :, h, w] = x[n, :, h, w].numpy() * scale
    assert_close(y, expected, "top", 1e-6)
    delta = 1e-3 * torch.randn_like(x)
    change = (layer(x + delta) - layer(x - delta)).sum().item() / 2
    assert (grad * delta).sum().item() == pytest.approx(change, rel=1e-3, abs=1e-5)
    assert meta_shapes(layer, tuple(x.shape)) == [tuple(x.shape)]
