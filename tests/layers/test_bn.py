from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close
from tests.layers.tools import backward, make, random

BN = 'type: "BN" bn_param { %s }'
SHAPE = (4, 3, 5, 2)
SCALE, SHIFT = np.float32([1, -2, 3]).reshape(1, 3, 1, 1), np.float32([4, 5, 6]).reshape(1, 3, 1, 1)
MEAN, VARIANCE = SHIFT / 10, SCALE**2


def normalized(x: torch.Tensor, eps: float) -> torch.Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_segnet_always_uses_the_batch(phase: str) -> None:
    bn = make(BN % "bn_mode: LEARN", SHAPE, phase=phase, tops=3, blobs=[SCALE, SHIFT])
    x = random(*SHAPE, grad=True)
    y, mean, variance = bn(x)
    right = normalized(x, 1e-9) * torch.from_numpy(SCALE) + torch.from_numpy(SHIFT)
    assert_close(y, right.detach().numpy(), "y")
    data = x.detach().numpy()
    assert_close(mean, data.mean((0, 2, 3), keepdims=True), "mean")
    assert_close(variance, data.var((0, 2, 3), keepdims=True), "variance")
    diff = random(*SHAPE, seed=1)
    assert_close(backward(y, diff, x)[0], backward(right, diff, x)[0], "dx")
    dscale, dshift = backward(bn(x)[0], diff, *bn.blobs)
    assert_close(dscale, (normalized(x, 1e-9) * diff).sum((0, 2, 3), True).detach().numpy(), "ds")
    assert_close(dshift, diff.sum((0, 2, 3), keepdim=True).numpy(), "dt")


def test_segnet_inference() -> None:
    text = BN % "scale_filler { value: 1 } shift_filler { value: 0.5 } bn_mode: INFERENCE"
    x = random(*SHAPE)
    assert torch.equal(make(text, SHAPE)(x), x + 0.5)
    bn = make(text, SHAPE, blobs=[SCALE, SHIFT])
    assert len(bn.blobs) == 2
    assert_close(bn(x), x.numpy() * SCALE + SHIFT, "y")


def test_slope_form() -> None:
    """PSPNet's: 4 blobs, moving averages of biased variances, stored statistics in TEST."""
    text = BN % "slope_filler { value: 1 } momentum: 0.75 eps: 0.001"
    blobs = [SCALE, SHIFT, MEAN, VARIANCE]
    bn = make(text, SHAPE, blobs=blobs)
    assert [s.statistic for s in bn.blob_specs] == [False, False, True, True]
    assert [(s.lr_mult, s.decay_mult) for s in bn.param.param] == [(1, 1)] * 2 + [(0, 0)] * 2
    x = random(*SHAPE)
    assert_close(bn(x), normalized(x, 1e-3).numpy() * SCALE + SHIFT, "TRAIN")
    data = x.numpy()
    assert_close(bn.blobs[2], 0.75 * MEAN + 0.25 * data.mean((0, 2, 3), keepdims=True), "mean")
    variance = 0.75 * VARIANCE + 0.25 * data.var((0, 2, 3), keepdims=True)
    assert_close(bn.blobs[3], variance, "variance")
    stored = (data - MEAN) / np.sqrt(VARIANCE + 1e-3) * SCALE + SHIFT
    assert_close(make(text, SHAPE, phase="TEST", blobs=blobs)(x), stored, "TEST")


def test_frozen() -> None:
    text = BN % "frozen: true eps: 0.001"
    bn = make(text, SHAPE, blobs=[SCALE, SHIFT, MEAN, VARIANCE])
    assert make(text, SHAPE).blobs[3].eq(1).all()
    assert [(s.lr_mult, s.decay_mult) for s in bn.param.param] == [(0, 0)] * 4
    x = random(*SHAPE, grad=True)
    y = bn(x)
    stored = (x.detach().numpy() - MEAN) / np.sqrt(VARIANCE + 1e-3) * SCALE + SHIFT
    assert_close(y, stored, "y")
    assert_close(bn.blobs[2], MEAN, "the mean stays")
    diff = random(*SHAPE, seed=1)
    assert_close(backward(y, diff, x)[0], diff.numpy() * SCALE / np.sqrt(VARIANCE + 1e-3), "dx")
    assert torch.autograd.grad(bn(x).sum(), list(bn.blobs)[:2], allow_unused=True) == (None, None)


def test_moving_average_form() -> None:
    text = BN % "scale_filler { value: 1 } moving_average: true decay: 0.25 var_eps: 0.001"
    blobs = [SCALE, SHIFT, MEAN, VARIANCE]
    bn = make(text, SHAPE, blobs=blobs)
    x = random(*SHAPE)
    assert_close(bn(x), normalized(x, 1e-3).numpy() * SCALE + SHIFT, "TRAIN")
    mean = 0.75 * MEAN + 0.25 * x.numpy().mean((0, 2, 3), keepdims=True)
    assert_close(bn.blobs[2], mean, "mean")
    stored = (x.numpy() - MEAN) / np.sqrt(VARIANCE + 1e-3) * SCALE + SHIFT
    assert_close(make(text, SHAPE, phase="TEST", blobs=blobs)(x), stored, "TEST")
    without = text.replace("moving_average: true", "moving_average: false")
    test = make(without, SHAPE, phase="TEST", blobs=blobs)
    assert_close(test(x), normalized(x, 1e-3).numpy() * SCALE + SHIFT, "TEST, batch")


@pytest.mark.parametrize(
    ("fields", "blobs", "form", "count"),
    [
        ("", "", "slope", 4),
        ("", "blobs {} blobs {}", "segnet", 2),
        ("", "blobs {} blobs {} blobs {} blobs {}", "slope", 4),
        ("scale_filler {}", "", "segnet", 2),
        ("scale_filler {}", "blobs {} blobs {} blobs {} blobs {}", "moving", 4),
        ("decay: 0.5", "", "moving", 4),
        ("decay: 0.5", "blobs {} blobs {}", "moving", 2),
        ("momentum: 0.5", "", "slope", 4),
    ],
)
def test_told_apart(fields: str, blobs: str, form: str, count: int) -> None:
    bn = make(BN % fields + blobs, SHAPE)
    assert (bn.form, len(bn.blobs)) == (form, count)


@pytest.mark.parametrize(
    ("text", "tops", "message"),
    [
        (BN % "across_spatial: false", 1, "across_spatial: is a fork's field"),
        (BN % "frozen: true", 3, "only SegNet's BN has further tops"),
        (BN % "bn_mode: INFERENCE", 3, "INFERENCE has one top"),
        (BN % "moving_average: true" + " blobs {} blobs {}", 1, "hold no statistics"),
    ],
)
def test_checks(text: str, tops: int, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(text, SHAPE, tops=tops, phase="TEST")
