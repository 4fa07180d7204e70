from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import backward, make, random

KINDS = (
    "AbsVal", "BNLL", "Clip", "ELU", "PReLU", "ReLU", "Sigmoid", "Swish", "TanH", "Threshold",
)  # fmt: skip
EDGES = torch.tensor([-8.0, -6.0, -1.0, -0.0, 0.0, 0.5, 1.0, 6.0, 7.0])


@pytest.mark.parametrize("case", layer_cases(*KINDS))
def test_golden(case: Any) -> None:
    check_case(case)


def slopes(text: str, x: torch.Tensor = EDGES, **options: Any) -> list[float]:
    """The gradient at each value of `x`."""
    x = x.clone().requires_grad_()
    layer = make(text, tuple(x.shape), **options)
    return [float(v) for v in backward(layer(x), torch.ones_like(x), x)[0].ravel()]


def test_gradients_at_the_edges() -> None:
    assert slopes('type: "ReLU"') == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert slopes('type: "ReLU" relu_param { negative_slope: 0.5 }') == [0.5] * 5 + [1] * 4
    assert slopes('type: "ReLU6"') == [0, 0, 0, 0, 0, 1, 1, 0, 0]
    leaky = 'type: "ReLU6" relu6_param { negative_slope: 0.5 }'
    assert slopes(leaky) == [0.5] * 5 + [1, 1, 0, 0]
    assert slopes('type: "AbsVal"') == [-1, -1, -1, 0, 0, 1, 1, 1, 1]
    clip = 'type: "Clip" clip_param { min: -1 max: 6 }'
    assert slopes(clip) == [0, 0, 1, 1, 1, 1, 1, 1, 0]
    assert slopes('type: "ELU" elu_param { alpha: 0.5 }')[3:] == [0.5, 0.5, 1, 1, 1, 1]


def test_values() -> None:
    x = EDGES
    leaky = make('type: "ReLU6" relu6_param { negative_slope: 0.5 }', x.shape)(x)
    assert leaky.tolist() == [-4, -3, -0.5, 0, 0, 0.5, 1, 6, 6]
    elu = make('type: "ELU" elu_param { alpha: 2 lambda: 3 }', x.shape)(x)
    assert_close(elu, 3 * torch.where(x > 0, x, 2 * (torch.exp(x) - 1)), "ELU with lambda")
    assert make('type: "Threshold"', x.shape)(x).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    big = torch.tensor([-200.0, 200.0])
    assert make('type: "BNLL"', big.shape)(big).tolist() == [0, 200]
    assert slopes('type: "BNLL"', big) == [0, 1]


def test_prelu_shapes() -> None:
    assert make('type: "PReLU"', (2, 3, 4)).blobs[0].tolist() == [0.25] * 3
    shared = make('type: "PReLU" prelu_param { channel_shared: true }', (2, 3))
    assert shared.blobs[0].shape == ()
    x = random(2, 3, grad=True)
    slope = backward(shared(x), torch.ones(2, 3), shared.blobs[0])[0]
    assert slope == pytest.approx(x.detach().clamp(max=0).sum().item())


def test_checks() -> None:
    with pytest.raises(LayerError, match=r"clip_param.max: must be given"):
        make('type: "Clip" clip_param { min: 0 }', (3,))
    with pytest.raises(LayerError, match="2 axes or more"):
        make('type: "PReLU"', (3,))


def test_swish_beta() -> None:
    x = random(5)
    y = make('type: "Swish" swish_param { beta: 2 }', x.shape)(x)
    assert_close(y, [v / (1 + math.exp(-2 * v)) for v in x.tolist()], "Swish")
