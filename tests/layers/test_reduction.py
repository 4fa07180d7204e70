from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import backward, make, random


@pytest.mark.parametrize("case", layer_cases("Softmax", "Reduction", "ArgMax"))
def test_golden(case: Any) -> None:
    check_case(case)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=8), st.integers(1, 8))
def test_order_of_argmax(row: list[int], top_k: int) -> None:
    """By value, then by index, both descending, as pairs are compared in C++."""
    top_k = min(top_k, len(row))
    pairs = sorted(((v, i) for i, v in enumerate(row)), reverse=True)[:top_k]
    x = torch.tensor([row], dtype=torch.float32)
    text = f'type: "ArgMax" argmax_param {{ top_k: {top_k} out_max_val: true }}'
    y = make(text, x.shape)(x)
    assert y.shape == (1, 2, top_k)
    assert y[0].tolist() == [[i for _, i in pairs], [v for v, _ in pairs]]
    along = make(text.replace("}", "axis: 1 }"), x.shape)(x)
    assert along[0].tolist() == [v for v, _ in pairs]


@pytest.mark.parametrize(("shape", "top"), [((2, 5), (2, 1, 3)), ((2, 3, 4, 5), (2, 1, 3, 1))])
def test_shapes_of_argmax(shape: tuple[int, ...], top: tuple[int, ...]) -> None:
    assert make('type: "ArgMax" argmax_param { top_k: 3 }', shape).top_shapes == (top,)


def test_asum_has_no_slope_at_zero() -> None:
    x = torch.tensor([[-2.0, 0.0, 3.0]], requires_grad=True)
    y = make('type: "Reduction" reduction_param { operation: ASUM coeff: 2 }', (1, 3))(x)
    assert y.shape == ()
    assert y.item() == 10
    assert backward(y, torch.tensor(1.0), x)[0].tolist() == [[-2, 0, 2]]


def test_mean_follows_the_input() -> None:
    layer = make('type: "Reduction" reduction_param { operation: MEAN axis: 1 }', (2, 3))
    x = random(4, 7)
    assert_close(layer(x), x.numpy().mean(1), "mean")


def test_softmax_of_large_values() -> None:
    x = torch.tensor([[1000.0, 1000.0, -1000.0]])
    np.testing.assert_array_equal(make('type: "Softmax"', (1, 3))(x), [[0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"Softmax" softmax_param { axis: 2 }', "axis 2 out of range"),
        ('"Softmax" softmax_param { normalize_type: "L2" }', "normalize_type: is a fork"),
        ('"Reduction" reduction_param { operation: TOPK }', "TOPK is not supported"),
        ('"Reduction" reduction_param { axis: -3 }', "axis -3 out of range"),
        ('"ArgMax" argmax_param { top_k: 6 }', "must be from 1 to 5, not 6"),
        ('"ArgMax" argmax_param { top_k: 0 }', "must be from 1 to 5, not 0"),
        ('"ArgMax" argmax_param { top_k: 3 axis: 0 }', "must be from 1 to 2, not 3"),
        ('"ArgMax" argmax_param { use_ignore_ids: true }', "use_ignore_ids: is a fork"),
    ],
)
def test_checks(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(f"type: {text}", (2, 5))
