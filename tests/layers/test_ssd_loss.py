"""MultiBoxLoss against a box-by-box reading of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError
from tests.layers.build import build, meta_shapes

N, P, C = 3, 12, 3


def area(b):
    return 0.0 if b[2] < b[0] or b[3] < b[1] else (b[2] - b[0]) * (b[3] - b[1])


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return w * h / (area(a) + area(b) - w * h) if w > 0 and h > 0 else 0.0


def encode(prior, var, box, code):
    pw, ph = prior[2] - prior[0], prior[3] - prior[1]
    if code == "CORNER":
        out = [b - p for b, p in zip(box, prior, strict=True)]
    elif code == "CORNER_SIZE":
        size = (pw, ph, pw, ph)
        out = [(b - p) / s for b, p, s in zip(box, prior, size, strict=True)]
    else:
        out = [
            ((box[0] + box[2]) - (prior[0] + prior[2])) / 2 / pw,
            ((box[1] + box[3]) - (prior[1] + prior[3])) / 2 / ph,
            math.log((box[2] - box[0]) / pw),
            math.log((box[3] - box[1]) / ph),
        ]
    return [o / v for o, v in zip(out, var, strict=True)]


def decode(prior, var, loc):
    """CENTER_SIZE."""
    size = prior[2:] - prior[:2]
    middle = (prior[:2] + prior[2:]) / 2 + var[:2] * loc[:2] * size
    half = np.exp(var[2:] * loc[2:]) * size / 2
    return np.concatenate([middle - half, middle + half])


def match(priors, boxes, threshold, per_prediction, inside=False):
    index, overlap = [-1] * len(priors), [0.0] * len(priors)
    table = [[iou(p, b) for b in boxes] for p in priors]
    for i, prior in enumerate(priors):
        if inside and boxes and (min(prior) < 0 or max(prior) > 1):
            index[i], table[i] = -2, [0.0] * len(boxes)
    for i, row in enumerate(table):
        overlap[i] = max([o for o in row if o > 1e-6], default=0.0)
    pool = list(range(len(boxes)))
    while pool:
        pairs = [
            (table[i][j], -i, -j)
            for i in range(len(priors))
            for j in pool
            if index[i] == -1 and table[i][j] > 1e-6
        ]
        if not pairs:
            break
        best, i, j = max(pairs)
        index[-i], overlap[-i] = -j, best
        pool.remove(-j)
    if per_prediction:
        for i, row in enumerate(table):
            good = [(o, -j) for j, o in enumerate(row) if o >= threshold]
            if index[i] == -1 and good:
                index[i] = -max(good)[1]
    return index, overlap


def nll(scores, label, softmax):
    if softmax:
        e = np.exp(scores - scores.max())
        return -math.log(e[label] / e.sum())
    target = np.eye(len(scores))[label]
    return float(
        np.sum(np.log1p(np.exp(-np.abs(scores))) + np.maximum(scores, 0) - scores * target)
    )


def smooth(d):
    return 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5


def reference(loc, conf, prior, var, truth, *, code="CENTER_SIZE", softmax=True, ratio=3.0,
              per_prediction=True, squared=False, loc_weight=1.0, mining=True, inside=False,
              decoded=False, bp_inside=False):  # fmt: skip
    total_loc = total_conf = 0.0
    matches = 0
    for n in range(len(loc)):
        boxes = [row[3:7] for row in truth if row[0] == n]
        labels = [int(row[1]) for row in truth if row[0] == n]
        places = [decode(*x) for x in zip(prior, var, loc[n], strict=True)] if decoded else prior
        index, overlap = match(places, boxes, 0.5, per_prediction, inside)
        matches += sum(i >= 0 for i in index)
        for p, i in enumerate(index):
            if i >= 0:
                wanted = encode(prior[p], var[p], boxes[i], code)
                for k, (a, b) in enumerate(zip(loc[n, p], wanted, strict=True)):
                    if bp_inside and not 0 <= places[p][k] <= 1:
                        continue
                    total_loc += 0.5 * (a - b) ** 2 if squared else smooth(a - b)
                total_conf += nll(conf[n, p], labels[i], softmax)
        candidates = [p for p in range(len(index)) if index[p] == -1]
        if mining:
            candidates = [p for p in candidates if overlap[p] < 0.5 and boxes]
            wanted = int(sum(i >= 0 for i in index) * ratio)
            candidates.sort(key=lambda p: -nll(conf[n, p], 0, softmax))
            candidates = candidates[:wanted]
        for p in candidates:
            total_conf += nll(conf[n, p], 0, softmax)
    return (loc_weight * total_loc + total_conf) / max(1, matches)


def sample(seed=0, truths=(3, 0, 5)):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (P, 2))
    prior = np.concatenate([low, low + rng.uniform(0.1, 0.4, (P, 2))], 1).astype(np.float32)
    var = np.tile(np.float32([0.1, 0.1, 0.2, 0.2]), (P, 1))
    rows = []
    for n, count in enumerate(truths):
        for i in range(count):
            box = prior[rng.integers(P)] + rng.uniform(-0.03, 0.03, 4)
            rows.append([n, rng.integers(1, C), i, *box, i == 1])
    rows.append([-1] * 8)
    loc = rng.normal(size=(N, P, 4)).astype(np.float32)
    conf = rng.normal(size=(N, P, C)).astype(np.float32)
    return loc, conf, prior, var, np.float32(rows)


def make(param, loc, conf, prior, var, rows, after=""):
    bottoms = [
        torch.from_numpy(loc.reshape(N, -1)).requires_grad_(),
        torch.from_numpy(conf.reshape(N, -1)).requires_grad_(),
        torch.from_numpy(np.stack([prior, var]).reshape(1, 2, -1)),
        torch.from_numpy(rows.reshape(1, 1, -1, 8)),
    ]
    text = f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: {C} {param} }}'
    return build(f"{text} {after}", *(tuple(b.shape) for b in bottoms)), bottoms


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("code_type: CENTER_SIZE", {}),
        ("code_type: CORNER", {"code": "CORNER"}),
        ("code_type: CORNER_SIZE", {"code": "CORNER_SIZE"}),
        ("code_type: CENTER_SIZE loc_weight: 2.5 loc_loss_type: L2",
         {"loc_weight": 2.5, "squared": True}),
        ("code_type: CENTER_SIZE match_type: BIPARTITE", {"per_prediction": False}),
        ("code_type: CENTER_SIZE neg_pos_ratio: 1.5", {"ratio": 1.5}),
        ("code_type: CENTER_SIZE conf_loss_type: LOGISTIC", {"softmax": False}),
        ("code_type: CENTER_SIZE mining_type: NONE", {"mining": False}),
        ("code_type: CENTER_SIZE use_prior_for_matching: false", {"decoded": True}),
        ("code_type: CENTER_SIZE use_prior_for_matching: false bp_inside: true",
         {"decoded": True, "bp_inside": True}),
        ("code_type: CENTER_SIZE use_prior_for_matching: false ignore_cross_boundary_bbox: true",
         {"decoded": True, "inside": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_the_definition(param, options, seed):
    data = sample(seed)
    layer, bottoms = make(param, *data)
    loss = layer(*bottoms)
    assert loss.item() == pytest.approx(reference(*data, **options), rel=1e-5)


def test_variances_in_the_targets():
    loc, conf, prior, var, rows = sample(1)
    layer, bottoms = make("code_type: CENTER_SIZE encode_variance_in_target: true", *sample(1))
    expected = reference(loc / var, conf, prior, var, rows)
    assert layer(*bottoms).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_the_loss_slope():
    """Central differences of the reference, at some of the predictions."""
    data = sample(3)
    layer, bottoms = make("code_type: CENTER_SIZE loc_weight: 2", *data)
    layer(*bottoms).backward()
    grads = [b.grad.reshape(N, P, -1).numpy() for b in bottoms[:2]]
    step = 1e-4
    checked = 0
    for which in (0, 1):
        places = np.argwhere(grads[which] != 0)
        for n, p, k in places[:: max(1, len(places) // 8)]:
            values = []
            for sign in (1, -1):
                moved = [x.astype(np.float64) for x in data[:2]]
                moved[which][n, p, k] += sign * step
                values.append(reference(*moved, *data[2:], loc_weight=2))
            slope = (values[0] - values[1]) / (2 * step)
            assert grads[which][n, p, k] == pytest.approx(slope, rel=2e-3, abs=1e-5)
            checked += 1
    assert checked > 10


def test_difficult_truth_can_be_left_out():
    loc, conf, prior, var, rows = sample(1)
    layer, bottoms = make("code_type: CENTER_SIZE use_difficult_gt: false", *sample(1))
    expected = reference(loc, conf, prior, var, rows[rows[:, 7] == 0])
    assert layer(*bottoms).item() == pytest.approx(expected, rel=1e-5)


def test_no_truth_at_all():
    data = sample(0, truths=())
    layer, bottoms = make("code_type: CENTER_SIZE", *data)
    loss = layer(*bottoms)
    loss.backward()
    assert loss.item() == 0
    assert all(not b.grad.any() for b in bottoms[:2])


def test_propagate_down_leaves_a_part_out():
    whole = make("code_type: CENTER_SIZE", *sample(0))
    parts = []
    for flags in ("true false", "false true"):
        after = " ".join(f"propagate_down: {flag}" for flag in flags.split())
        layer, bottoms = make("code_type: CENTER_SIZE", *sample(0), after=after)
        parts.append(layer(*bottoms).item())
    assert sum(parts) == pytest.approx(whole[0](*whole[1]).item(), rel=1e-6)
    assert all(part > 0 for part in parts)


def test_locations_of_each_class():
    """share_location: false: a truth is compared with the predictions of its own class."""
    _, conf, prior, var, rows = sample(2)
    wide = np.random.default_rng(5).normal(size=(N, P, C, 4)).astype(np.float32)
    param = "code_type: CENTER_SIZE share_location: false mining_type: NONE conf_loss_type: SOFTMAX"
    layer, bottoms = make(param, wide, conf, prior, var, rows)
    total, matches = 0.0, 0
    for n in range(N):
        mine = rows[rows[:, 0] == n]
        index, _ = match(prior, [r[3:7] for r in mine], 0.5, True)
        for p, i in enumerate(index):
            label = int(mine[i][1]) if i >= 0 else 0
            total += nll(conf[n, p], label, True)
            if i >= 0:
                matches += 1
                target = encode(prior[p], var[p], mine[i][3:7], "CENTER_SIZE")
                total += sum(smooth(a - b) for a, b in zip(wide[n, p, label], target, strict=True))
    assert layer(*bottoms).item() == pytest.approx(total / matches, rel=1e-5)


def test_hard_examples_drop_matches():
    data = sample(4)
    few, bottoms = make("code_type: CENTER_SIZE mining_type: HARD_EXAMPLE sample_size: 2", *data)
    few(*bottoms).backward()
    used = (bottoms[1].grad.reshape(N, P, C) != 0).any(-1)
    assert used.sum(1).tolist() == [2, 0, 2]  # the second image has no truth


def test_suppression_before_mining():
    data = sample(0)
    text = (
        "code_type: CENTER_SIZE nms_param { nms_threshold: 0.1 top_k: 12 } use_prior_for_nms: true"
    )
    layer, bottoms = make(text, *data)
    layer(*bottoms).backward()
    plain, others = make("code_type: CENTER_SIZE", *data)
    plain(*others).backward()
    used, before = ((b[1].grad.reshape(N, P, C) != 0).any(-1) for b in (bottoms, others))
    matched = (bottoms[0].grad.reshape(N, P, 4) != 0).any(-1)
    negatives = (used & ~matched)[0].nonzero().flatten().tolist()
    assert 0 < len(negatives) < int((before & ~matched)[0].sum())
    boxes = data[2]
    assert all(iou(boxes[a], boxes[b]) <= 0.1 for a in negatives for b in negatives if a < b)


def test_labels_are_checked():
    data = sample(0)
    data[4][0, 1] = 0
    layer, bottoms = make("", *data)
    with pytest.raises(DataError, match="label 0 of a box is the background"):
        layer(*bottoms)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("share_location: false", "mining needs share_location"),
        ("do_neg_mining: false", "contradicts mining_type MAX_NEGATIVE"),
        ("background_label_id: 7", "is no class"),
        ("map_object_to_agnostic: true", "needs num_classes 2"),
        ("ignore_difficult_gt: true", "not supported"),
    ],
)
def test_errors(param, message):
    with pytest.raises(LayerError, match=message):
        make(param, *sample(0))


def test_meta_shape():
    data = sample(0)
    layer, bottoms = make("", *data)
    assert meta_shapes(layer, *(tuple(b.shape) for b in bottoms)) == [()]
