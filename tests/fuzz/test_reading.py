"""Random chains, in place or not, against a slow reading of Caffe on real memory in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from caffeio.net import load_net
from tests.paths import nightly

Array = np.ndarray
Forward = Callable[[Array], Array]
Gradient = Callable[[Array, Array, Array], Array]  # bottom, top and gradient as they lie there


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# type and parameters: forward, backward from what lies in bottom and top
LAYERS: dict[str, tuple[Forward, Gradient]] = {
    '"ReLU"': (lambda x: np.maximum(x, 0), lambda x, y, g: g * (x > 0)),
    '"ReLU" relu_param { negative_slope: -0.5 }': (
        lambda x: np.where(x > 0, x, -0.5 * x),
        lambda x, y, g: g * np.where(x > 0, 1, -0.5),
    ),
    '"Sigmoid"': (_sigmoid, lambda x, y, g: g * y * (1 - y)),
    '"TanH"': (np.tanh, lambda x, y, g: g * (1 - y * y)),
    '"Exp" exp_param { base: 2 scale: 0.5 }': (
        lambda x: 2 ** (0.5 * x),
        lambda x, y, g: g * y * (0.5 * np.log(2)),
    ),
    '"BNLL"': (lambda x: np.log1p(np.exp(x)), lambda x, y, g: g * _sigmoid(x)),
    '"Clip" clip_param { min: -0.5 max: 0.75 }': (
        lambda x: np.clip(x, -0.5, 0.75),
        lambda x, y, g: g * ((x >= -0.5) & (x <= 0.75)),
    ),
    '"ELU" elu_param { alpha: 0.6 }': (
        lambda x: np.where(x > 0, x, 0.6 * np.expm1(np.minimum(x, 0))),
        lambda x, y, g: g * np.where(x > 0, 1, 0.6 + y),
    ),
    '"Dropout" dropout_param { dropout_ratio: 0 }': (lambda x: x.copy(), lambda x, y, g: g),
    '"Bias" bias_param { filler { value: 0.3 } }': (lambda x: x + 0.3, lambda x, y, g: g),
    '"Scale" scale_param { filler { value: -1.3 } }': (
        lambda x: -1.3 * x,
        lambda x, y, g: -1.3 * g,
    ),
}


def _read(kinds: list[tuple[str, bool]], x: Array) -> tuple[Array, Array]:
    """Output and gradient of the input for a loss that is half the sum of squares."""
    data, places = [x.copy()], [(0, 0)]
    for kind, in_place in kinds:
        bottom = places[-1][1]
        y = LAYERS[kind][0](data[bottom])
        if in_place:
            data[bottom] = y
        else:
            data.append(y)
        places.append((bottom, bottom if in_place else len(data) - 1))
    out = data[-1].copy()
    grad = out.copy()
    for (kind, _), (bottom, top) in zip(reversed(kinds), reversed(places[1:]), strict=True):
        grad = LAYERS[kind][1](data[bottom], data[top], grad)
    return out, grad


def _net(kinds: list[tuple[str, bool]]) -> str:
    text = 'force_backward: true layer { name: "in" type: "Input" top: "b0" '
    text += "input_param { shape { dim: 3 dim: 4 } } }\n"
    blob = 0
    for i, (kind, in_place) in enumerate(kinds):
        top = blob if in_place else blob + 1
        text += f'layer {{ name: "l{i}" bottom: "b{blob}" top: "b{top}" type: {kind} }}\n'
        blob = top
    return text + (
        f'layer {{ name: "loss" type: "Reduction" bottom: "b{blob}" top: "loss" loss_weight: 1 '
        "reduction_param { operation: SUMSQ coeff: 0.5 } }"
    )


def _check(seed: int) -> None:
    rng = np.random.RandomState(seed)
    names = list(LAYERS)
    kinds = [
        (names[rng.randint(len(names))], bool(i and rng.rand() < 0.7))
        for i in range(rng.randint(2, 8))
    ]
    x = rng.randn(3, 4)
    out, grad = _read(kinds, x)
    net = load_net(_net(kinds), phase="TRAIN").double()
    given = torch.from_numpy(x).requires_grad_()
    net({"b0": given * 1})
    net.loss.backward()
    where = f"seed {seed}: {kinds}"
    blob = f"b{sum(not in_place for _, in_place in kinds)}"
    # parameters are float32: 1e-7 of the largest value, and what that makes of gradients
    assert np.allclose(net.blobs[blob].detach(), out, rtol=1e-5, atol=1e-7), where
    assert given.grad is not None
    scale = max(1e-12, np.abs(grad).max())
    assert np.allclose(given.grad / scale, grad / scale, rtol=1e-4, atol=1e-5), where


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_chains(first: int) -> None:
    for seed in range(first, first + 20):
        _check(seed)


@nightly
def test_many_chains() -> None:
    for seed in range(1000, 4000):
        _check(seed)
