from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import backward, make, random


@pytest.mark.parametrize("case", layer_cases("Scale", "Bias"))
def test_golden(case: Any) -> None:
    check_case(case)


def test_fillers() -> None:
    shape = (2, 3, 4)
    assert make('type: "Scale"', shape).blobs[0].tolist() == [1, 1, 1]
    assert make('type: "Scale" scale_param { filler {} }', shape).blobs[0].tolist() == [0, 0, 0]
    both = make('type: "Scale" scale_param { bias_term: true bias_filler { value: 2 } }', shape)
    assert [b.tolist() for b in both.blobs] == [[1] * 3, [2] * 3]
    assert make('type: "Bias" bias_param { filler { value: 2 } }', shape).blobs[0].sum() == 6


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("num_axes: 0", ()),
        ("num_axes: -1", (3, 4)),
        ("axis: -1", (4,)),
        ("axis: 0 num_axes: 2", (2, 3)),
    ],
)
@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_shapes_of_blobs(kind: str, fields: str, shape: tuple[int, ...]) -> None:
    layer = make(f'type: "{kind}" {kind.lower()}_param {{ {fields} }}', (2, 3, 4))
    assert layer.blobs[0].shape == shape


@pytest.mark.parametrize("operand", [(), (2, 3), (2,)])
def test_bias_of_two_bottoms(operand: tuple[int, ...]) -> None:
    """With two bottoms the bias blob spans the axes of the second one."""
    text = 'type: "Scale" scale_param { axis: 0 bias_term: true }'
    a, numbers = random(2, 3, 4, grad=True), random(24, seed=1)
    count = int(np.prod(operand))
    b = numbers[:count].view(operand).clone().requires_grad_()
    values = numbers[-count:].view(operand)
    layer = make(text, (2, 3, 4), operand, blobs=[values])
    y = layer(a, b)
    spread = (*operand, *[1] * (3 - len(operand)))
    assert_close(y, (a * b.view(spread) + values.view(spread)).detach().numpy(), "y")
    diff = random(2, 3, 4, seed=3)
    da, db, dbias = backward(y, diff, a, b, layer.blobs[0])
    rest = tuple(range(len(operand), 3))
    assert_close(da, (diff * b.view(spread)).detach().numpy(), "da")
    assert_close(db, (diff * a).detach().numpy().sum(rest), "db")
    assert_close(dbias, diff.numpy().sum(rest), "dbias")


def test_axpy() -> None:
    a, x, b = random(2, 3, 1, 1, grad=True), random(2, 3, 4, 5, grad=True), random(2, 3, 4, 5)
    b.requires_grad_()
    y = make('type: "Axpy"', a.shape, x.shape, b.shape)(a, x, b)
    assert_close(y, (a * x + b).detach().numpy(), "y")
    diff = random(*y.shape, seed=5)
    da, dx, db = backward(y, diff, a, x, b)
    assert_close(da, (diff * x).sum((2, 3), keepdim=True).detach().numpy(), "da")
    assert_close(dx, (diff * a).detach().numpy(), "dx")
    np.testing.assert_array_equal(db, diff.numpy())
    flat = make('type: "Axpy"', (2, 3), x.shape, b.shape)(a.flatten(1), x, b)
    assert torch.equal(flat, y)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ('"Scale" scale_param { num_axes: 3 }', [(2, 3, 4)], "extends past the bottom"),
        ('"Scale" scale_param { num_axes: -2 }', [(2, 3, 4)], "neither a number of axes nor -1"),
        ('"Scale" scale_param { axis: 3 }', [(2, 3, 4)], "axis 3 out of range"),
        ('"Scale" scale_param { min_value: 0 }', [(2, 3, 4)], "min_value: is a fork"),
        ('"Scale"', [(2, 3, 4), (4,)], "dimension mismatch: axis 1 .* is 3, axis 0 .* is 4"),
        ('"Bias"', [(2, 3, 4), (3, 4, 1)], "extends past the bottom"),
        ('"Axpy"', [(2, 3), (2, 3, 4), (2, 3, 5)], "must have the same shape"),
        ('"Axpy"', [(2, 4), (2, 3, 4), (2, 3, 4)], "one factor for each channel"),
    ],
)
def test_checks(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(f"type: {text}", *shapes)
