from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, LayerError, NetError
from caffeio.net import load_net
from caffeio.profiles import BVLC, INTEL, NVIDIA
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.build import COMPILE_WARNING, build, check_compiled, gradients, meta_shapes
from tests.paths import GOLDEN

LOSS = 'type: "SoftmaxWithLoss"'


@pytest.mark.parametrize("case", layer_cases("SoftmaxWithLoss"))
def test_golden(case):
    check_case(case)


# The runs of fork and BVLC do not record their inputs, but softmax_plain's gradient times N is
# softmax - onehot, which gives scores (up to a shift, which softmax does not see) and labels.


def fork_diff(fork: str, case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "fork" / "diffs" / fork / f"{case}.npz") as file:
        return {key: file[key] for key in file.files}


def plain_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    grad = torch.from_numpy(fork_diff("bvlc", "softmax_plain")["dx"]).double() * 6
    label = grad.argmin(1)
    prob = grad.scatter_add(1, label[:, None], torch.ones(6, 1, dtype=torch.float64))
    return prob.clamp(min=1e-12).log().float(), label.float()


@pytest.mark.parametrize(
    ("case", "param"),
    [
        ("softmax_plain", ""),
        ("softmax_normalize_none", "loss_param { normalization: NONE }"),
        ("softmax_normalize_full", "loss_param { normalization: FULL ignore_label: 1 }"),
        ("softmax_ignore_label", "loss_param { ignore_label: 1 }"),
    ],
)
@pytest.mark.parametrize(("fork", "profile"), [("bvlc", BVLC), ("fork", INTEL)])
def test_fork_runs(case, param, fork, profile):
    scores, label = plain_inputs()
    expected = fork_diff(fork, case)
    (loss, *_), (grad,) = gradients(
        build(f"{LOSS} {param}", scores.shape, label.shape, profile=profile), scores, label
    )
    # the scores are recovered from six to seven digits
    assert_close(loss, expected["loss"], "loss", 1e-4)
    assert_close(grad, expected["dx"], "dx", 1e-5)


@pytest.mark.parametrize(("fork", "profile"), [("bvlc", BVLC), ("fork", INTEL)])
def test_fork_run_of_maps(fork, profile):
    """As above with (2,4,3,2): VALID divides by 12, BATCH_SIZE by 2."""
    grad = torch.from_numpy(fork_diff("bvlc", "softmax_spatial")["dx"]).double() * 12
    label = grad.argmin(1)
    prob = grad.scatter_add(1, label[:, None], torch.ones_like(grad[:, :1]))
    scores = prob.clamp(min=1e-12).log().float()
    for case, param in [("spatial", ""), ("normalize_batch", "loss_param { normalize: false }")]:
        expected = fork_diff(fork, f"softmax_{case}")
        layer = build(f"{LOSS} {param}", scores.shape, label.shape, profile=profile)
        (loss,), (dx,) = gradients(layer, scores, label.float())
        assert_close(loss, expected["loss"], "loss", 1e-4)
        assert_close(dx, expected["dx"], "dx", 1e-5)


def test_fork_label_smoothing_changes_the_gradient_only():
    scores, label = plain_inputs()
    expected = fork_diff("fork", "softmax_label_smoothing")
    layer = build(
        f"{LOSS} loss_param {{ label_smoothing: 0.1 }}", scores.shape, label.shape, profile=INTEL
    )
    (loss, *_), (grad,) = gradients(layer, scores, label)
    assert_close(loss, expected["loss"], "loss", 1e-4)
    assert_close(grad, expected["dx"], "dx", 1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("fork", "profile"), [("bvlc", BVLC), ("fork", INTEL)])
def test_nan_probabilities(bad, fork, profile):
    case = "softmax_nan" if np.isnan(bad) else "softmax_inf"
    expected = fork_diff(fork, case)
    row = torch.from_numpy(expected["dx"][1]).double() * 2
    label = int(row.argmin())
    row[label] += 1
    scores = torch.stack([torch.tensor([bad, 0.0, 0.0]), row.log().float()])
    labels = torch.tensor([0.0, label])
    layer = build(LOSS, (2, 3), (2,), profile=profile)
    (loss,), (grad,) = gradients(layer, scores, labels)
    assert_close(loss, expected["loss"], "loss")
    assert_close(grad, expected["dx"], "dx")


def test_saturated_scores_cost_the_log_of_flt_min():
    expected = fork_diff("bvlc", "softmax_saturated")
    scores = torch.tensor([[1000.0, 0, 0], [0, 1000.0, 0], [0, 0, 0]])
    labels = torch.tensor([1.0, 1.0, 0.0])
    layer = build(LOSS, (2, 3), (2,))
    loss = layer(scores[:1].repeat(2, 1), torch.tensor([1.0, 2.0]))
    assert loss.item() == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)
    assert expected["loss"] == pytest.approx(2 / 3 * 87.33654, rel=1e-6)
    assert build(LOSS, (3, 3), (3,))(scores, labels).item() == pytest.approx(
        (87.33654 + np.log(3)) / 3, rel=1e-6
    )


def by_hand(scores, labels, ignore=None):
    """Softmax along axis 1 of (N,C,...), -log p, and mask, in float64 loops."""
    x = scores.double().flatten(2) if scores.dim() > 2 else scores.double().unsqueeze(2)
    y = labels.reshape(x.shape[0], x.shape[2]).long()
    prob = x.softmax(1)
    return x, y, prob, (torch.ones_like(y, dtype=torch.bool) if ignore is None else y != ignore)


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_nvidia_smoothing(epsilon):
    torch.manual_seed(0)
    scores, labels = torch.randn(3, 4, 2), torch.randint(0, 4, (3, 2)).float()
    layer = build(
        f"{LOSS} loss_param {{ label_smoothing: {epsilon} }}", (3, 4, 2), (3, 2), profile=NVIDIA
    )
    _, (grad,) = gradients(layer, scores, labels)
    _, y, prob, _ = by_hand(scores, labels)
    expected = prob - epsilon / (4 * 2 - 1)
    for n in range(3):
        for s in range(2):
            expected[n, y[n, s], s] -= 1 - epsilon
    assert_close(grad, expected / 6, "gradient")


def test_smoothing_needs_a_profile_that_has_it():
    with pytest.raises(LayerError, match=r"label_smoothing.*profiles"):
        build(f"{LOSS} loss_param {{ label_smoothing: 0.1 }}", (2, 3), (2,))


@pytest.mark.parametrize("ignore", [None, 2])
def test_weights_of_the_third_bottom(ignore):
    torch.manual_seed(1)
    scores, labels = torch.randn(3, 4, 2, 2), torch.randint(0, 4, (3, 1, 2, 2)).float()
    weights = torch.rand(3, 1, 2, 2)
    param = "" if ignore is None else f"loss_param {{ ignore_label: {ignore} }}"
    layer = build(f"{LOSS} {param}", scores.shape, labels.shape, weights.shape, profile=INTEL)
    (loss,), (grad,) = gradients(layer, scores, labels, weights)
    _, y, prob, keep = by_hand(scores, labels, ignore)
    w = weights.reshape(3, 4).double() * keep
    p = prob.gather(1, y.unsqueeze(1)).squeeze(1)
    assert_close(loss, -(w * p.log()).sum() / w.sum(), "loss")
    onehot = torch.zeros_like(prob).scatter_(1, y.unsqueeze(1), 1.0)
    assert_close(grad.flatten(2), (prob - onehot) * w.unsqueeze(1) / w.sum(), "gradient")


def test_class_weighting_of_segnet():
    torch.manual_seed(2)
    scores, labels = torch.randn(2, 3, 4), torch.randint(0, 4, (2, 4)).float()
    param = "weight_by_label_freqs: true ignore_label: 3 " + " ".join(
        f"class_weighting: {w}" for w in (0.5, 2.0, 1.25)
    )
    layer = build(f"{LOSS} loss_param {{ {param} }}", scores.shape, labels.shape)
    (loss,), (grad,) = gradients(layer, scores, labels)
    _, y, prob, keep = by_hand(scores, labels, 3)
    w = torch.tensor([0.5, 2.0, 1.25, 0.0]).double()[y]
    safe = y.clamp(max=2).unsqueeze(1)
    p = prob.gather(1, safe).squeeze(1)
    assert_close(loss, -(w * p.log()).sum() / keep.sum(), "loss")
    onehot = torch.zeros_like(prob).scatter_(1, safe, 1.0)
    assert_close(grad, (prob - onehot) * w.unsqueeze(1) / keep.sum(), "gradient")
    with pytest.raises(LayerError, match=r"class_weighting.*3 classes"):
        build(f"{LOSS} loss_param {{ weight_by_label_freqs: true }}", (2, 3), (2,))


def test_pre_fixed_normalizer():
    torch.manual_seed(3)
    scores, labels = torch.randn(4, 3), torch.tensor([0.0, 1, 2, 0])
    param = "normalization: PRE_FIXED pre_fixed_normalizer: 2.5"
    total = build(f"{LOSS} loss_param {{ normalization: NONE }}", (4, 3), (4,))(scores, labels)
    loss = build(f"{LOSS} loss_param {{ {param} }}", (4, 3), (4,))(scores, labels)
    assert loss.item() == pytest.approx(total.item() / 2.5)
    half = build(f"{LOSS} loss_param {{ {param.replace('2.5', '0.5')} }}", (4, 3), (4,))
    assert half(scores, labels).item() == pytest.approx(total.item())  # never less than 1


def test_nothing_but_ignored_items():
    layer = build(f"{LOSS} loss_param {{ ignore_label: 255 }}", (2, 3, 2), (2, 2))
    scores = torch.randn(2, 3, 2)
    scores[0, 0] = float("nan")
    (loss,), (grad,) = gradients(layer, scores, torch.full((2, 2), 255.0))
    assert loss.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_second_top_is_the_softmax_without_gradient():
    scores = torch.randn(2, 3, 4, requires_grad=True)
    layer = build(LOSS, (2, 3, 4), (2, 4), tops=2)
    loss, prob = layer(scores, torch.zeros(2, 4))
    assert loss.requires_grad and not prob.requires_grad
    torch.testing.assert_close(prob, scores.detach().softmax(1))


def test_two_tops_in_a_net():
    """BVLC documents a second top, but refuses it in every form; here it works."""
    text = """
    layer { name: "in" type: "Input" top: "data" top: "label"
            input_param { shape { dim: 4 dim: 5 } shape { dim: 4 } } }
    layer { name: "l" type: "SoftmaxWithLoss" bottom: "data" bottom: "label"
            top: "l" top: "prob" loss_weight: 2 loss_weight: 0 }
    """
    net = load_net(text)
    out = net({"data": torch.randn(4, 5), "label": torch.zeros(4)})
    assert list(out) == ["l", "prob"]
    assert net.loss.item() == pytest.approx(2 * out["l"].item())
    with pytest.raises(NetError, match="loss_weight"):
        load_net(text.replace("loss_weight: 0", ""))


def test_label_count_mismatch():
    with pytest.raises(LayerError, match=r"8 predictions.*12 labels"):
        build(LOSS, (4, 5, 2), (4, 3))
    layer = build(LOSS, (4, 5), (4,))
    with pytest.raises(LayerError, match=r"4 predictions.*5 labels"):
        layer(torch.randn(4, 5), torch.zeros(5))
    with pytest.raises(LayerError, match="same first dimension"):
        build(LOSS, (4, 5, 3), (12,))


@pytest.mark.parametrize(
    ("shape", "place", "value", "message"),
    [
        ((4,), (3,), 12.0, "label 12 at item 3 is outside 0..4"),
        ((4,), (0,), -1.0, "label -1 at item 0 is outside 0..4"),
        ((4, 1, 2), (2, 0, 1), 5.0, "label 5 at item 2, position 0 1 is outside 0..4"),
        ((4,), (1,), float("nan"), "label nan at item 1"),
    ],
)
def test_label_that_is_no_class(shape, place, value, message):
    scores = (4, 5, *shape[2:])
    layer = build(f"{LOSS} loss_param {{ ignore_label: 255 }}", scores, shape, where="n.prototxt:7")
    labels = torch.full(shape, 255.0)
    labels[place] = value
    with pytest.raises(DataError) as caught:
        layer(torch.randn(scores), labels)
    assert message in str(caught.value)
    assert "n.prototxt:7" in str(caught.value) and "'x'" in str(caught.value)


@pytest.mark.filterwarnings(COMPILE_WARNING)
def test_label_that_is_no_class_makes_nan_where_nobody_may_look():
    """Compiled code takes the path of devices that must not be waited for."""
    torch._dynamo.reset()
    layer = torch.compile(build(LOSS, (3, 4), (3,)), fullgraph=True, backend="eager")
    scores = torch.randn(3, 4, requires_grad=True)
    loss = layer(scores, torch.tensor([0.0, 9.0, 1.0]))
    assert loss.isnan()
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isnan().any(1).tolist() == [False, True, False]


def test_labels_are_truncated():
    scores = torch.randn(3, 4)
    layer = build(LOSS, (3, 4), (3,))
    assert torch.equal(
        layer(scores, torch.tensor([0.9, 2.999, -0.5])), layer(scores, torch.tensor([0.0, 2, 0]))
    )


def test_ohem_losses_of_the_items():
    torch.manual_seed(4)
    scores, labels = torch.randn(3, 4, 2), torch.tensor([[0.0, 1], [2, 3], [-1, 1]])
    layer = build(
        'type: "SoftmaxWithLossOHEM" loss_param { ignore_label: -1 }', (3, 4, 2), (3, 2), tops=3
    )
    (loss, prob, items), (grad,) = gradients(layer, scores, labels)
    _, y, expected, keep = by_hand(scores, labels, -1)
    losses = -expected.gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1).log() * keep
    assert_close(items, losses, "items")
    assert_close(prob, expected, "softmax")
    assert_close(loss, losses.sum() / 5, "loss")
    reference = build(f"{LOSS} loss_param {{ ignore_label: -1 }}", (3, 4, 2), (3, 2))
    assert_close(grad, gradients(reference, scores, labels)[1][0], "gradient")
    assert not items.requires_grad


@pytest.mark.filterwarnings(COMPILE_WARNING)
@pytest.mark.parametrize(
    "param", ["", "loss_param { ignore_label: 1 }", "softmax_param { axis: 2 }"]
)
def test_compiles(param):
    shapes = ((2, 3, 4), (2, 3) if "axis" in param else (2, 4))
    make = [build(f"{LOSS} {param}", *shapes, tops=2) for _ in range(2)]
    check_compiled(*make, torch.randn(shapes[0]), torch.randint(0, 3, shapes[1]).float())


def test_meta_shapes():
    assert meta_shapes(build(LOSS, (2, 3, 4), (2, 4), tops=2), (2, 3, 4), (2, 4)) == [(), (2, 3, 4)]
    param = "weight_by_label_freqs: true class_weighting: 1 class_weighting: 2"
    layer = build(f"{LOSS} loss_param {{ {param} }}", (5, 2), (5,))
    assert meta_shapes(layer, (5, 2), (5,)) == [()]


@pytest.mark.parametrize("field", ["adaptive_weighting: true", "max_entropy_weight: 0.5"])
def test_weightings_that_nobody_implements_are_refused(field):
    with pytest.raises(LayerError, match=field.split(":")[0]):
        build(f"{LOSS} loss_param {{ {field} }}", (2, 3), (2,))
