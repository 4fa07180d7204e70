"""ROIPooling, PSROIPooling, Proposal and the training targets against loops over boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError
from tests.harness import assert_close
from tests.layers.build import build, gradients, meta_shapes


def rounded(x: float) -> int:
    return math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1)


ROIS = np.float32([
    [0, 0, 0, 40, 30],  # bins overlap
    [1, 8, 8, 9, 9],  # less than a cell: bins share it
    [1, 50, 40, 120, 90],  # reaches out of the map
    [0, 20, 4, 100, 72],
    [1, 200, 200, 220, 220],  # outside
])  # fmt: skip


def roi_pool_by_hand(x, rois, pooled, scale):
    f = np.float32
    out = np.zeros((len(rois), x.shape[1], *pooled))
    place = np.full(out.shape, -1)
    for n, roi in enumerate(rois):
        corner = [rounded(float(f(v) * f(scale))) for v in roi[1:]]
        start, end = (corner[1], corner[0]), (corner[3], corner[2])
        extent = [f(max(b - a + 1, 1)) / f(p) for a, b, p in zip(start, end, pooled, strict=True)]
        for c in range(x.shape[1]):
            for i in range(pooled[0]):
                for j in range(pooled[1]):
                    low = [math.floor(f(k) * e) + s
                           for k, e, s in zip((i, j), extent, start, strict=True)]  # fmt: skip
                    high = [math.ceil(f(k + 1) * e) + s
                            for k, e, s in zip((i, j), extent, start, strict=True)]  # fmt: skip
                    h0, h1 = (min(max(v, 0), x.shape[2]) for v in (low[0], high[0]))
                    w0, w1 = (min(max(v, 0), x.shape[3]) for v in (low[1], high[1]))
                    best = -math.inf
                    for h in range(h0, h1):
                        for w in range(w0, w1):
                            if x[int(roi[0]), c, h, w] > best:
                                best = x[int(roi[0]), c, h, w]
                                place[n, c, i, j] = h * x.shape[3] + w
                    out[n, c, i, j] = 0 if best == -math.inf else best
    return out, place


@pytest.mark.parametrize("pooled", [(2, 2), (3, 4), (7, 7), (1, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_roi_pooling(pooled, ties):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 13)
    x = x.round() if ties else x
    text = f"pooled_h: {pooled[0]} pooled_w: {pooled[1]} spatial_scale: 0.125"
    rois = torch.from_numpy(ROIS)
    layer = build(f'type: "ROIPooling" roi_pooling_param {{ {text} }}', x.shape, rois.shape)
    (y,), (grad,) = gradients(layer, x, rois)
    expected, place = roi_pool_by_hand(x.numpy(), ROIS, pooled, 0.125)
    assert np.array_equal(y.detach().numpy(), expected.astype(np.float32))
    counts = np.zeros(x.shape).reshape(2, 3, -1)
    for (n, c, *_), at in np.ndenumerate(place):
        if at >= 0:
            counts[int(ROIS[n, 0]), c, at] += 1
    assert np.array_equal(grad.numpy(), counts.reshape(x.shape).astype(np.float32))
    assert meta_shapes(layer, tuple(x.shape), (5, 5)) == [(5, 3, *pooled)]


def test_roi_pooling_of_volumes():
    """Three axes: the same cells as a plain maximum over the bins."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 5, 6)
    rois = torch.tensor([[0, 1.0, 1, 0, 2, 4, 3]])  # d 1..2, x 1..4, y 0..3
    text = "pooled_size: 2 pooled_size: 2 pooled_size: 1"
    layer = build(f'type: "ROIPooling" roi_pooling_param {{ {text} }}', x.shape, rois.shape)
    y = layer(x, rois)
    for d in range(2):
        for h in range(2):
            part = x[0, :, 1 + d, 2 * h : 2 * h + 2, 1:5]
            assert torch.equal(y[0, :, d, h, 0], part.amax((1, 2)))


def psroi_by_hand(x, rois, dim, group, scale):
    f = np.float32
    out = np.zeros((len(rois), dim, group, group))
    for n, roi in enumerate(rois):
        low = [f(rounded(roi[k])) * f(scale) for k in (2, 1)]
        high = [f(rounded(roi[k]) + 1) * f(scale) for k in (4, 3)]
        size = [max(b - a, f(0.1)) / f(group) for a, b in zip(low, high, strict=True)]
        for c in range(dim):
            for i in range(group):
                for j in range(group):
                    (h0, h1), (w0, w1) = (
                        (min(max(math.floor(f(k) * s + a), 0), n_),
                         min(max(math.ceil(f(k + 1) * s + a), 0), n_))
                        for k, s, a, n_ in zip((i, j), size, low, x.shape[2:], strict=True)
                    )  # fmt: skip
                    part = x[int(roi[0]), (c * group + i) * group + j, h0:h1, w0:w1]
                    out[n, c, i, j] = part.astype(np.float64).mean() if part.size else 0
    return out


@pytest.mark.parametrize("num", [1, 2])
def test_psroi_pooling(num):
    torch.manual_seed(0)
    dim, group = 2, 3
    x = torch.randn(num, dim * group**2, 9, 13)
    rois = ROIS.copy()
    rois[:, 0] %= num
    text = f"output_dim: {dim} group_size: {group} spatial_scale: 0.125"
    layer = build(f'type: "PSROIPooling" psroi_pooling_param {{ {text} }}', x.shape, rois.shape)
    (y,), (grad,) = gradients(layer, x, torch.from_numpy(rois))
    assert_close(y, psroi_by_hand(x.numpy(), rois, dim, group, 0.125), "top", 1e-6)
    assert grad.sum().item() == pytest.approx((y != 0).sum().item(), rel=1e-5)  # means of ones
    assert meta_shapes(layer, tuple(x.shape), (5, 5, 1, 1)) == [(5, dim, group, group)]


def test_region_errors():
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }'
    layer = build(text, (1, 1, 4, 4), (1, 5))
    with pytest.raises(DataError, match="region 0 is of image 3, the batch has 1"):
        layer(torch.zeros(1, 1, 4, 4), torch.tensor([[3.0, 0, 0, 1, 1]]))
    with pytest.raises(LayerError, match="regions are rows of 5 numbers"):
        build(text, (1, 1, 4, 4), (1, 4))
    with pytest.raises(LayerError, match="give the number of bins"):
        build('type: "ROIPooling"', (1, 1, 4, 4), (1, 5))
    with pytest.raises(LayerError, match="needs a map of 8 channels"):
        build(
            'type: "PSROIPooling" psroi_pooling_param { output_dim: 2 group_size: 2 '
            "spatial_scale: 1 }", (1, 9, 4, 4), (1, 5)
        )  # fmt: skip


# -- Proposal

PAPER_ANCHORS = [  # the paper's, counted from 0
    [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
    [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
    [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
]  # fmt: skip


def python_text(module, name, param_str):
    return (
        f'type: "Python" python_param {{ module: "{module}" layer: "{name}" '
        f'param_str: "{param_str}" }}'
    )


def test_anchors():
    from caffeio.layers.rcnn.proposal import RATIOS, SCALES, base_anchors

    expected = np.array(PAPER_ANCHORS, np.float32)
    assert np.array_equal(base_anchors(16, RATIOS, SCALES), expected)


def proposals_by_hand(scores, deltas, info, anchors, stride, before, after, threshold, least):
    count, (height, width) = len(anchors), scores.shape[2:]
    found = []
    for h in range(height):
        for w in range(width):
            for k, anchor in enumerate(anchors):
                box = np.asarray(anchor, np.float64) + [w * stride, h * stride] * 2
                dx, dy, dw, dh = deltas[0, 4 * k : 4 * k + 4, h, w].astype(np.float64)
                bw, bh = box[2] - box[0] + 1, box[3] - box[1] + 1
                cx, cy = box[0] + bw / 2 + dx * bw, box[1] + bh / 2 + dy * bh
                bw, bh = bw * math.exp(dw), bh * math.exp(dh)
                box = np.array([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2])
                box = np.clip(box, 0, [info[1] - 1, info[0] - 1] * 2)
                if min(box[2] - box[0], box[3] - box[1]) + 1 >= least * info[2]:
                    found.append((float(scores[0, count + k, h, w]), box))
    found.sort(key=lambda item: -item[0])
    kept = []
    for score, box in found[:before]:
        for _, other in kept:
            span = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) + 1
            both = max(span[0], 0) * max(span[1], 0)
            areas = sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other))
            if both / (areas - both) > threshold:
                break
        else:
            kept.append((score, box))
    return kept[:after]


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(1, 18, 5, 7)).astype(np.float32)
    deltas = (0.2 * rng.normal(size=(1, 36, 5, 7))).astype(np.float32)
    return scores, deltas


def check_proposals(tops, expected):
    assert len(tops[0]) == len(expected) > 4
    assert not tops[0][:, 0].any()
    assert_close(tops[0][:, 1:], np.array([box for _, box in expected]), "boxes", 1e-5)
    assert_close(tops[1].flatten(), np.array([score for score, _ in expected]), "scores", 1e-6)


def test_python_proposal_layer(maps):
    scores, deltas = maps
    info = np.float32([[80, 112, 1.5]])
    text = python_text("rpn.proposal_layer", "ProposalLayer", "'feat_stride': 16")
    shapes = (scores.shape, deltas.shape, info.shape)
    layer = build(text, *shapes, tops=2)
    tops = layer(*map(torch.from_numpy, (scores, deltas, info)))
    check_proposals(
        tops, proposals_by_hand(scores, deltas, info[0], PAPER_ANCHORS, 16, 6000, 300, 0.7, 16)
    )
    assert meta_shapes(layer, *shapes) == [(1, 5), (1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("param_str", "expected"),
    [
        ("'feat_stride': 16", (9, 16)),
        ("feat_stride: 8", (9, 8)),
        ("{'feat_stride': 16, 'scales': [2, 4, 8, 16, 32]}", (15, 16)),
        (r"'feat_stride': 16 \n'scales': !!python/tuple [4, 8, 16, 32]", (12, 16)),
    ],
)
def test_param_str_of_public_nets(param_str, expected):
    text = python_text("rpn.proposal_layer", "ProposalLayer", param_str)
    count = expected[0]
    shapes = ((1, 2 * count, 5, 7), (1, 4 * count, 5, 7), (1, 3))
    layer = build(text, *shapes)
    assert (len(layer.anchors), layer.stride) == expected


def test_param_str_errors():
    shapes = ((1, 18, 5, 7), (1, 36, 5, 7), (1, 3))
    for param_str, message in (("'speed': 3", "unknown keys speed"), ("16", "neither YAML nor")):
        with pytest.raises(LayerError, match=message):
            build(python_text("rpn.proposal_layer", "ProposalLayer", param_str), *shapes)
    text = python_text("rpn.proposal_layer", "ProposalLayer", "")
    with pytest.raises(LayerError, match="9 anchors need 36 channels in bottom 1, not 1 35 5 7"):
        build(text, shapes[0], (1, 35, 5, 7), (1, 3))


def test_native_proposal(maps):
    scores, deltas = maps
    info = np.float32([[80, 112, 1.5, 1.5]])
    text = (
        'type: "Proposal" proposal_param { ratio: 0.5 ratio: 1 ratio: 2 scale: 8 scale: 16 '
        "scale: 32 pre_nms_topn: 100 post_nms_topn: 20 nms_thresh: 0.5 }"
    )
    shapes = ((2, *scores.shape[1:]), (2, *deltas.shape[1:]), info.shape)
    layer = build(text, *shapes, tops=2)
    twice = [torch.from_numpy(np.repeat(x, 2, 0)) for x in (scores, deltas)]
    rois, values = layer(*twice, torch.from_numpy(info))
    expected = proposals_by_hand(scores, deltas, info[0], PAPER_ANCHORS, 16, 100, 20, 0.5, 16)
    assert len(rois) == 2 * len(expected) == len(values)
    for i in range(2):
        mine = rois[:, 0] == i
        check_proposals((rois[mine] * torch.tensor([0, 1, 1, 1, 1]), values[mine]), expected)
    assert meta_shapes(layer, *shapes) == [(40, 5), (40,)]


# -- targets


def test_anchor_targets():
    text = python_text(
        "rpn.anchor_target_layer", "AnchorTargetLayer", "{'feat_stride': 16, 'rpn_batchsize': 40}"
    )
    shapes = ((1, 18, 20, 30), (2, 5), (1, 3), (1, 3, 320, 480))
    layer = build(text, *shapes, tops=4)
    truth = torch.tensor([[100.0, 100, 227, 227, 3], [200, 50, 300, 120, 1]])
    info = torch.tensor([[320.0, 480, 1]])
    label, target, inner, outer = layer(torch.zeros(shapes[0]), truth, info, torch.zeros(1))
    assert label.shape == (1, 1, 180, 30) and target.shape == inner.shape == (1, 36, 20, 30)
    objects, background = (label == 1).sum().item(), (label == 0).sum().item()
    assert objects + background == 40 and 2 <= objects <= 20
    grid = label.view(9, 20, 30)
    assert inner.view(9, 4, 20, 30).amax(1).equal((grid == 1).float())
    assert outer[outer > 0].unique().tolist() == [pytest.approx(1 / 40)]
    # each target moves its anchor onto a truth
    from caffeio.ops.rcnn.proposal import shift_boxes, shifted_anchors

    anchors = shifted_anchors(layer.anchors, 20, 30, 16)
    moved = shift_boxes(anchors, target.permute(0, 2, 3, 1).reshape(-1, 4))
    mine = (grid == 1).permute(1, 2, 0).reshape(-1)
    width = truth[:, 2:4] - truth[:, :2] + 1
    for box in moved[mine]:
        near = (box[2:] - box[:2] - width).abs().amax(1).min().item()
        assert near < 1e-3
    assert meta_shapes(layer, *shapes) == [(1, 1, 180, 30)] + [(1, 36, 20, 30)] * 3


@pytest.mark.parametrize("classes", [2, 5])
def test_proposal_targets(classes):
    text = python_text(
        "rpn.proposal_target_layer", "ProposalTargetLayer", f"'num_classes': {classes}"
    )
    layer = build(text, (4, 5), (2, 5), tops=5)
    truth = torch.tensor([[0.0, 0, 99, 99, 4], [200, 0, 299, 99, 2]])
    regions = torch.tensor([
        [0, 10.0, 0, 99, 99], [0, 200, 0, 280, 99], [0, 0, 50, 99, 250], [0, 400, 400, 500, 500],
    ])  # fmt: skip
    tops = layer(regions, truth)
    assert all(top.shape[2:] == (1, 1) for top in tops)
    rois, label, target, inner, outer = (top.flatten(1) for top in tops)
    label = label.flatten()
    # two regions and the two truths are objects, one overlaps by a quarter, one by nothing
    assert sorted(label.tolist()) == [0, 2, 2, 4, 4] and len(rois) == 5
    for row, value in enumerate(label.long().tolist()):
        place = min(value, 1) if classes == 2 else value
        weights = inner[row].view(classes, 4)
        assert weights.sum() == (4 if value else 0)
        assert not value or weights[place].sum() == 4
        assert not target[row][inner[row] == 0].any()
    assert torch.equal(inner, outer)
    from caffeio.ops.rcnn.proposal import shift_boxes

    moved = shift_boxes(rois[:, 1:], target.view(len(rois), classes, 4).sum(1))
    width = (moved[label > 0, 2:] - moved[label > 0, :2]).unique()
    assert torch.allclose(width, torch.tensor(100.0), atol=1e-3)
    assert meta_shapes(layer, (4, 5), (2, 5)) == [(1, n, 1, 1) for n in (5, 1, *[4 * classes] * 3)]


def test_proposal_targets_sample():
    param = "{'num_classes': 3, 'batch_size': 8}"
    text = python_text("rpn.proposal_target_layer", "ProposalTargetLayer", param)
    layer = build(text, (50, 5), (1, 5), tops=5)
    near = torch.tensor([0, 0.0, 0, 99, 99]).repeat(30, 1)
    far = torch.tensor([0, 0.0, 60, 99, 159]).repeat(20, 1)
    _, label, *_ = layer(torch.cat((near, far)), torch.tensor([[0.0, 0, 99, 99, 1]]))
    assert label.flatten().tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    param = "{'num_classes': 3, 'batch_size': -1}"
    text = python_text("rpn.proposal_target_layer", "ProposalTargetLayer", param)
    layer = build(text, (50, 5), (1, 5), tops=5)
    _, label, *_ = layer(torch.cat((near, far)), torch.tensor([[0.0, 0, 99, 99, 1]]))
    assert label.sum() == 31 and len(label) == 51
