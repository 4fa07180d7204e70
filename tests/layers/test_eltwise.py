from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import backward, make, random

ELTWISE = 'type: "Eltwise" eltwise_param { %s }'


@pytest.mark.parametrize("case", layer_cases("Eltwise"))
def test_golden(case: Any) -> None:
    check_case(case)


def test_the_winner_of_a_maximum() -> None:
    """The second wins ties against the first, later ones must be greater; nan loses at the end."""
    nan = math.nan
    rows = [[1, 2, 1, 3, nan, 0], [1, 1, 2, 3, 0, nan], [1, 2, 2, 4, 1, 5]]
    xs = [torch.tensor(row, dtype=torch.float32, requires_grad=True) for row in rows]
    y = make(ELTWISE % "operation: MAX", (6,), (6,), (6,))(*xs)
    np.testing.assert_array_equal(y.detach(), [1, 2, 2, 4, 1, nan])
    grads = backward(y, torch.ones(6), *xs)
    winners = np.stack(grads).argmax(0)
    assert winners.tolist() == [1, 0, 1, 2, 2, 1]
    assert np.stack(grads).sum(0).tolist() == [1] * 6


def test_product_of_three() -> None:
    xs = [random(4, seed=i).requires_grad_() for i in range(3)]
    for stable in ("true", "false"):
        y = make(ELTWISE % f"operation: PROD stable_prod_grad: {stable}", *[(4,)] * 3)(*xs)
        expected = [(xs[1] * xs[2]), (xs[0] * xs[2]), (xs[0] * xs[1])]
        grads = backward(y, torch.ones(4), *xs)
        for mine, right in zip(grads, expected, strict=True):
            assert_close(mine, right.detach().numpy(), stable)


def test_unstable_gradient_at_zero() -> None:
    a, b = torch.tensor([0.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    y = make(ELTWISE % "operation: PROD stable_prod_grad: false", (1,), (1,))(a, b)
    da, db = backward(y, torch.ones(1), a, b)
    assert math.isnan(da[0])
    assert db[0] == 0


def test_coefficients_of_max_are_not_looked_at() -> None:
    a, b = random(4), random(4, seed=1)
    y = make(ELTWISE % "operation: MAX coeff: 5 coeff: -5", (4,), (4,))(a, b)
    assert torch.equal(y, torch.maximum(a, b))


@pytest.mark.parametrize(
    ("fields", "shapes", "message"),
    [
        ("", [(2, 3), (2, 4)], r"all bottoms must have the same shape: \(2, 3\), \(2, 4\)"),
        ("coeff: 1", [(2,), (2,)], "one coefficient for each of the 2 bottoms, not 1"),
        ("operation: PROD coeff: 1 coeff: 1", [(2,), (2,)], "coeff: PROD takes none"),
        ("operation: SORT", [(2,), (2,)], "SORT is not supported"),
        ("coeff_blob: true", [(2,), (2,)], "coeff_blob: is a fork"),
    ],
)
def test_checks(fields: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(ELTWISE % fields, *shapes)
