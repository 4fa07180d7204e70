from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from caffeio.layers.batch_norm import BatchNorm
from caffeio.layers.scale import Scale
from caffeio.net import load_net
from caffeio.ops.batch_norm import fused_batch_norm_scale
from caffeio.profiles import BVLC, INTEL, NVIDIA
from tests.harness import assert_close, check_case, golden, layer_cases
from tests.layers.tools import backward, make, random
from tests.paths import GOLDEN

PLAIN = 'type: "BatchNorm" batch_norm_param { %s }'


@pytest.mark.parametrize("case", layer_cases("BatchNorm"))
def test_golden(case: Any) -> None:
    check_case(case)


FORK = {  # batch_norm_param of golden/fork/diffs, phase
    "bn_train": ("moving_average_fraction: 0.95", "TRAIN"),
    "bn_train_default_fraction": ("", "TRAIN"),
    "bn_train_inplace": ("moving_average_fraction: 0.9 eps: 0.001", "TRAIN"),
    "bn_test_batch_stats": ("use_global_stats: false moving_average_fraction: 0.5", "TEST"),
    "bn_stats_batch_size": ("stats_batch_size: 2 moving_average_fraction: 0.9", "TRAIN"),
    "bn_filler_field": ("moving_average_fraction: 0.95 filler { value: 0 }", "TRAIN"),
    "bn_filler_bias_filler_fields": (
        "moving_average_fraction: 0.95 filler { value: 2 } bias_filler { value: 3 }", "TRAIN",
    ),
}  # fmt: skip
RECORDED = [
    pytest.param(path, id=f"{path.parent.name}/{path.stem}")
    for path in sorted((GOLDEN / "fork" / "diffs").glob("*/bn_*.npz"))
    if path.stem in FORK
]


@pytest.mark.parametrize("path", RECORDED)
def test_fork_and_bvlc(path: Any) -> None:
    """Three passes; bn_global_stats_in_train, whose factor is 0, holds the inputs / sqrt(eps)."""
    arrays = golden(path)
    inputs = golden(path.with_stem("bn_global_stats_in_train"))
    root = float(np.sqrt(np.float64(np.float32(1e-5))))
    fields, phase = FORK[path.stem]
    profile = INTEL if path.parent.name == "fork" else BVLC
    norm = make(PLAIN % fields, (6, 5, 4, 3), phase=phase, profile=profile)
    for k in range(3):
        x = torch.tensor(inputs[f"y{k}"] * root, dtype=torch.float32, requires_grad=True)
        y = norm(x)
        assert_close(y, arrays[f"y{k}"], f"y{k}", 2e-6)
        for i in range(3):
            assert_close(norm.blobs[i], arrays[f"stat{i}_{k}"], f"blob {i} after pass {k}", 1e-6)
        diff = torch.from_numpy((inputs[f"dx{k}"] * root).astype(np.float32))
        assert_close(backward(y, diff, x)[0], arrays[f"dx{k}"], f"dx{k}", 5e-6)


def test_factor_zero_means_no_statistics() -> None:
    x = random(2, 3, 2, 2)
    norm = make(PLAIN % "", x.shape, phase="TEST", blobs=[[1, 2, 3], [4, 5, 6], [0]])
    assert_close(norm(x), x.numpy() / np.sqrt(1e-5), "y")


def test_one_value_a_channel() -> None:
    """m = 1: the variance is 0 and not corrected, y and dx are 0 (golden/fork bn_train_m1)."""
    arrays = golden(GOLDEN / "fork" / "diffs" / "fork" / "bn_train_m1.npz")
    norm = make(PLAIN % "moving_average_fraction: 0.9", (1, 3, 1, 1))
    previous = np.zeros(3)
    for k in range(3):
        mean = arrays[f"stat0_{k}"] - 0.9 * previous
        x = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1).requires_grad_()
        y = norm(x)
        assert_close(y, arrays[f"y{k}"], "y")
        for i in range(3):
            assert_close(norm.blobs[i], arrays[f"stat{i}_{k}"], f"blob {i}", 1e-6)
        assert backward(y, random(1, 3, 1, 1), x)[0].tolist() == arrays[f"dx{k}"].tolist()
        previous = arrays[f"stat0_{k}"]


def test_statistics_move_without_grad_mode_too() -> None:
    norm = make(PLAIN % "", (4, 2))
    with torch.no_grad():
        norm(random(4, 2))
    assert norm.blobs[2].item() == 1


def test_intel_statistics_are_ordinary_blobs() -> None:
    norm = make(PLAIN % "", (4, 2, 3), profile=INTEL)
    assert [spec.statistic for spec in norm.blob_specs] == [False] * 3
    y = norm(random(4, 2, 3, grad=True))
    grads = torch.autograd.grad(y.sum(), list(norm.blobs), allow_unused=True)
    assert grads == (None, None, None)
    assert all(spec.statistic for spec in make(PLAIN % "", (4, 2)).blob_specs)


@pytest.mark.parametrize("engine", ["MKLDNN", "MKL2017"])
def test_mkl_engines_hold_scale_and_bias(engine: str) -> None:
    text = PLAIN % f"engine: {engine} filler {{ value: 3 }} relu: true"
    norm = make(text, (4, 2, 3), profile=INTEL)
    assert [spec.name for spec in norm.blob_specs] == [
        "mean", "variance", "factor", "scale", "bias",
    ]  # fmt: skip
    assert [spec.statistic for spec in norm.blob_specs] == [True] * 3 + [False] * 2
    assert norm.blobs[3].tolist() == [3, 3]
    x = random(4, 2, 3)
    plain = make(PLAIN % "", (4, 2, 3))(x)
    assert_close(norm(x), (3 * plain).relu().detach().numpy(), "y")
    test = make(PLAIN % "engine: MKLDNN use_global_stats: false", (4, 2, 3), phase="TEST",
                profile=INTEL)  # fmt: skip
    test(x)
    assert test.blobs[2].item() == 0  # batch statistics in TEST are not kept


def test_merged_profile() -> None:
    profile = replace(INTEL, merge_batch_norm_scale=True)
    assert len(make(PLAIN % "", (4, 2), profile=profile).blobs) == 5
    assert len(make(PLAIN % "bias_term: false", (4, 2), profile=profile).blobs) == 4
    assert len(make(PLAIN % "use_weight_bias: false", (4, 2), profile=profile).blobs) == 3
    assert len(make(PLAIN % "engine: CAFFE", (4, 2), profile=profile).blobs) == 3


def test_nvidia_stores_averages() -> None:
    text = PLAIN % "scale_bias: true moving_average_fraction: 0.9 eps: 1e-9 use_global_stats: true"
    norm = make(text, (4, 2, 3), profile=NVIDIA)
    assert [b.tolist() for b in norm.blobs] == [[0, 0], [0, 0], [1], [1, 1], [0, 0]]
    assert [(s.lr_mult, s.decay_mult) for s in norm.param.param] == [(0, 0)] * 3 + [(1, 1)] * 2
    first, second = random(4, 2, 3, seed=1), random(4, 2, 3, seed=2)
    y = norm(first)
    deviation = torch.sqrt(first.var((0, 2), correction=0, keepdim=True) + 1e-5)
    assert_close(y, ((first - first.mean((0, 2), keepdim=True)) / deviation).numpy(), "y")
    assert_close(norm.blobs[0], first.mean((0, 2)).numpy(), "the first batch is copied")
    assert_close(norm.blobs[1], first.var((0, 2)).numpy(), "its variance, corrected")
    norm(second)
    mean = 0.9 * first.mean((0, 2)) + 0.1 * second.mean((0, 2))
    variance = 0.9 * first.var((0, 2)) + 0.1 * second.var((0, 2))
    assert_close(norm.blobs[0], mean.numpy(), "mean")
    assert_close(norm.blobs[1], variance.numpy(), "variance")
    assert norm.blobs[2].item() == 1
    blobs = [b.detach().numpy() for b in norm.blobs]
    test = make(text.replace("true", "false", 1), (4, 2, 3), phase="TEST", profile=NVIDIA,
                blobs=blobs[:3])  # fmt: skip
    centred = (second - mean[:, None]) / torch.sqrt(variance + 1e-5)[:, None]
    assert_close(test(second), centred.numpy(), "TEST")
    assert len(make(PLAIN % "bias_filler { value: 1 }", (4, 2), profile=NVIDIA).blobs) == 5


def test_fused_is_the_same() -> None:
    """BatchNorm, Scale and ReLU as one operation: tops, statistics and all gradients."""
    shape = (4, 3, 5, 5)
    for phase in ("TRAIN", "TEST"):
        results = []
        for fuse in (False, True):
            stats = [[1, 2, 3], [3, 4, 5], [2]]
            norm = make(PLAIN % "", shape, phase=phase, blobs=stats)
            values = [[1, -2, 0.5], [0.1, 0.2, -0.3]]
            scale = make('type: "Scale" scale_param { bias_term: true }', shape, blobs=values)
            assert isinstance(norm, BatchNorm)
            assert isinstance(scale, Scale)
            assert norm.fusible
            assert scale.fusible
            x = random(*shape, grad=True)
            fused = fused_batch_norm_scale(x, norm, scale, relu=True) if fuse else None
            y = scale(norm(x)).relu() if fused is None else fused
            grads = backward(y, random(*shape, seed=1), x, *scale.blobs)
            results.append([y, *grads, *norm.blobs])
        for plain, fused in zip(*results, strict=True):
            if isinstance(plain, torch.Tensor):
                plain = plain.detach().numpy()
            assert_close(fused, plain, phase, 2e-6)


def test_not_fusible() -> None:
    assert not make(PLAIN % "engine: MKLDNN", (4, 2), profile=INTEL).fusible
    assert not make(PLAIN % "relu: true", (4, 2), profile=INTEL).fusible
    assert not make('type: "Scale" scale_param { axis: 2 }', (4, 2, 3)).fusible
    assert not make('type: "Scale" scale_param { num_axes: 2 }', (4, 2, 3)).fusible
    assert not make('type: "Scale" scale_param { axis: 0 }', (4, 2), (4,)).fusible
    assert make('type: "Scale"', (4, 2, 3)).fusible


def test_statistics_cannot_be_learned() -> None:
    net = """
    layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "n" type: "BatchNorm" bottom: "a" top: "b" param { lr_mult: 1 } }
    """
    with pytest.raises(Exception, match="statistics cannot be learned"):
        load_net(net)
    assert load_net(net, profile="intel").learnable[0].lr_mult == 1


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ("", (4,), "2 axes or more"),
        ("stats_batch_size: 3", (4, 2), "stats_batch_size: 3 does not divide the batch of 4"),
        ("disable_mean: true", (4, 2), "disable_mean: is a fork's field"),
        ("update_global_stats: true", (4, 2), "update_global_stats: is a fork"),
    ],
)
def test_checks(fields: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(PLAIN % fields, shape)


@pytest.mark.parametrize(("profile", "least"), [("bvlc", 0.0), ("intel", 0.0), ("nvidia", 1e-5)])
@pytest.mark.parametrize("eps", [1e-10, 1e-3])
def test_nvidia_raises_a_small_eps_to_that_of_cudnn(profile: str, least: float, eps: float) -> None:
    net = load_net(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 1 } } }'
        f'layer {{ name: "norm" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param {{'
        f" eps: {eps} }} }}",
        phase="TRAIN",
        profile=profile,
    )
    x = torch.tensor([[-1e-3], [1e-3]])  # mean 0, variance 1e-6
    y = net({"x": x})["y"]
    torch.testing.assert_close(y, x / (1e-6 + max(eps, least)) ** 0.5, rtol=1e-5, atol=0)
