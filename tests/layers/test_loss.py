from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from caffeio.profiles import INTEL
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.build import COMPILE_WARNING, build, check_compiled, gradients, meta_shapes


@pytest.mark.parametrize("case", layer_cases("EuclideanLoss", "ContrastiveLoss"))
def test_golden(case):
    check_case(case)


def test_euclidean_of_other_shapes():
    a, b = torch.randn(3, 4, 1, 1), torch.randn(3, 2, 2)
    layer = build('type: "EuclideanLoss"', a.shape, b.shape)
    (loss,), (grad_a, grad_b) = gradients(layer, a, b, of=(0, 1))
    diff = (a.flatten() - b.flatten()).double()
    assert_close(loss, (diff * diff).sum() / 6, "loss")
    assert_close(grad_a.flatten(), diff / 3, "a")
    assert_close(grad_b.flatten(), -diff / 3, "b")


def test_l1():
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    a[0, 0] = b[0, 0]
    layer = build('type: "L1Loss"', (4, 3), (4, 3))
    (loss,), (grad_a, grad_b) = gradients(layer, a, b, of=(0, 1))
    assert_close(loss, (a - b).abs().sum() / 4, "loss")
    assert torch.equal(grad_a, (a - b).sign() / 4)
    assert torch.equal(grad_b, -grad_a)


def smooth_l1(d: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope, element by element."""
    square = sigma * sigma
    value, slope = np.empty_like(d), np.empty_like(d)
    for i, x in enumerate(d):
        if abs(x) < 1 / square:
            value[i], slope[i] = 0.5 * x * x * square, square * x
        else:
            value[i], slope[i] = abs(x) - 0.5 / square, np.sign(x)
    return value, slope


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("weights", [0, 1, 2])
def test_smooth_l1(weights, sigma):
    rng = np.random.default_rng(weights)
    shape = (3, 2, 2, 2)
    a, b, inside, outside = (rng.normal(size=shape).astype(np.float32) for _ in range(4))
    bottoms = [torch.from_numpy(x) for x in (a, b, inside, outside)[: 2 + weights]]
    text = f'type: "SmoothL1Loss" smooth_l1_loss_param {{ sigma: {sigma} }}'
    layer = build(text, *(shape for _ in bottoms))
    (loss,), (grad_a, grad_b) = gradients(layer, *bottoms, of=(0, 1))
    d = (a - b).astype(np.float64).ravel()
    win, wout = inside.ravel().astype(float), outside.ravel().astype(float)
    value, slope = smooth_l1(d * win if weights else d, sigma)
    if weights == 2:  # with one weight the gradient is not multiplied by it again
        value, slope = value * wout, slope * win * wout
    assert_close(loss, value.sum() / 3, "loss")
    assert_close(grad_a.flatten(), slope / 3, "a")
    assert_close(grad_b.flatten(), -slope / 3, "b")


def test_smooth_l1_without_normalization_is_intels():
    a, b = torch.randn(3, 2), torch.randn(3, 2)
    text = 'type: "SmoothL1Loss" loss_param { normalization: NONE }'
    plain = build(text, (3, 2), (3, 2))(a, b)
    assert_close(build(text, (3, 2), (3, 2), profile=INTEL)(a, b), plain * 3, "loss")


@pytest.mark.parametrize(
    ("param", "divisor"),
    [
        ("", 12),
        ("normalization: FULL", 12),
        ("normalization: BATCH_SIZE", 2),
        ("normalization: NONE", 1),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 5", 5),
        ("normalize: false", 2),
    ],
)
def test_smooth_l1_ohem(param, divisor):
    rng = np.random.default_rng(5)
    shape = (2, 4, 3, 2)
    a, b, w = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    layer = build(f'type: "SmoothL1LossOHEM" loss_param {{ {param} }}', shape, shape, shape, tops=2)
    tops, (grad,) = gradients(layer, *(torch.from_numpy(x) for x in (a, b, w)))
    value, slope = smooth_l1((w * (a - b)).astype(np.float64).ravel(), 1.0)
    assert_close(tops[0], value.sum() / divisor, "loss")
    assert_close(tops[1], value.reshape(shape).sum(1, keepdims=True), "items")
    assert_close(grad.flatten(), slope / divisor, "gradient")
    assert not tops[1].requires_grad


@pytest.mark.parametrize("legacy", [False, True])
def test_contrastive_by_hand(legacy):
    a = np.array([[1, 2], [0, 0], [1, 1], [3, 4]], np.float32)
    b = np.array([[1, 1], [0.3, 0.1], [1, 1], [0, 0]], np.float32)
    y = np.array([1, 0, 0, 0], np.float32)  # similar, near, at the same place, far
    param = f"contrastive_loss_param {{ margin: 1.5 legacy_version: {str(legacy).lower()} }}"
    layer = build(f'type: "ContrastiveLoss" {param}', (4, 2), (4, 2, 1, 1), (4, 1))
    bottoms = [torch.from_numpy(x) for x in (a, b.reshape(4, 2, 1, 1), y.reshape(4, 1))]
    (loss,), (grad_a, grad_b) = gradients(layer, *bottoms, of=(0, 1))
    total, grad = 0.0, np.zeros((4, 2))
    for i in range(4):
        diff = a[i].astype(float) - b[i]
        square = (diff**2).sum()
        if y[i]:
            total, grad[i] = total + square, diff
        elif legacy and square < 1.5:
            total, grad[i] = total + 1.5 - square, -diff
        elif not legacy and np.sqrt(square) < 1.5:
            gap = 1.5 - np.sqrt(square)
            total, grad[i] = total + gap**2, -gap / (np.sqrt(square) + 1e-4) * diff
    assert_close(loss, total / 8, "loss")
    assert_close(grad_a, grad / 4, "a")
    assert_close(grad_b.flatten(1), -grad / 4, "b")


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        ("EuclideanLoss", ((3, 4), (2, 4)), "same first dimension: bottom 0 is 3 4"),
        ("EuclideanLoss", ((3, 4), (3, 5)), r"bottom 0 \(3 4\) and bottom 1 \(3 5\)"),
        ("EuclideanLoss", ((), ()), "same first dimension"),
        ("L1Loss", ((3, 4), (3, 5)), "same count"),
        ("SmoothL1Loss", ((3, 4), (3, 4), (3, 1), (3, 4)), "bottom 2.*a weight for each"),
        ("SmoothL1LossOHEM", ((3, 4), (3, 4), (4, 4)), "bottom 2"),
        ("ContrastiveLoss", ((3, 4), (3, 5), (3,)), "vectors"),
        ("ContrastiveLoss", ((3, 4, 2), (3, 4, 2), (3,)), "vectors"),
        ("ContrastiveLoss", ((3, 4), (3, 4), (3, 2)), "one number for each of 3 pairs"),
    ],
)
def test_shape_errors(kind, shapes, message):
    with pytest.raises(LayerError, match=message):
        build(f'type: "{kind}"', *shapes)


def test_sigma_must_be_positive():
    with pytest.raises(LayerError, match="sigma"):
        build('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 0 }', (3, 4), (3, 4))


@pytest.mark.filterwarnings(COMPILE_WARNING)
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("EuclideanLoss", 2), ("L1Loss", 2), ("ContrastiveLoss", 2), ("SmoothL1Loss", 2),
        ("SmoothL1Loss", 3), ("SmoothL1Loss", 4), ("SmoothL1LossOHEM", 3),
    ],
)  # fmt: skip
def test_compiles(kind, count):
    shapes = [(3, 4)] * count
    if kind == "ContrastiveLoss":
        shapes.append((3,))
    layers = [build(f'type: "{kind}"', *shapes) for _ in range(2)]
    check_compiled(*layers, *(torch.randn(shape) for shape in shapes))


def test_meta_shapes():
    for kind in ("EuclideanLoss", "L1Loss", "SmoothL1Loss"):
        assert meta_shapes(build(f'type: "{kind}"', (3, 4), (3, 4)), (3, 4), (3, 4)) == [()]
    layer = build('type: "SmoothL1LossOHEM"', (3, 4), (3, 4), tops=2)
    assert meta_shapes(layer, (3, 4), (3, 4)) == [(), (3, 1, 1, 1)]
