from __future__ import annotations

from typing import Any

import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import backward, make, random


@pytest.mark.parametrize("case", layer_cases("LRN", "MVN"))
def test_golden(case: Any) -> None:
    check_case(case)


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0])
@pytest.mark.parametrize("k", [1.0, 2.0])
def test_across_is_pytorchs(beta: float, k: float) -> None:
    text = f'type: "LRN" lrn_param {{ local_size: 3 alpha: 0.5 beta: {beta} k: {k} }}'
    x = random(2, 7, 3, 4, grad=True)
    y = make(text, tuple(x.shape))(x)
    right = torch.nn.functional.local_response_norm(x, 3, 0.5, beta, k)
    assert_close(y, right.detach().numpy(), "top")
    diff = random(*y.shape, seed=1)
    assert_close(backward(y, diff, x)[0], backward(right, diff, x)[0], "bottom diff")


def test_within_has_no_k() -> None:
    x = random(1, 2, 5, 5)
    text = 'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL alpha: 2 %s }'
    assert torch.equal(make(text % "k: 7", x.shape)(x), make(text % "", x.shape)(x))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_mvn_always_has_four_axes(shape: tuple[int, ...]) -> None:
    top = (*shape, *[1] * (4 - len(shape)))
    assert make('type: "MVN"', shape).top_shapes == (top,)
    across = make('type: "MVN" mvn_param { across_channels: true }', shape)
    x = random(*shape)
    y = across(x).flatten(1)
    assert_close(y.mean(1) + 1, [1.0] * 4, "mean", 1e-5)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ('"LRN" lrn_param { local_size: 4 }', (1, 2, 3, 4), "local_size: must be odd, not 4"),
        ('"LRN"', (1, 2), "needs a bottom of 4 axes"),
        ('"LRN" lrn_param { fuse_type: FUSED_POOL_MAX }', (1, 2, 3, 4), "fuse_type"),
        ('"MVN"', (1, 2, 3, 4, 5), "at most 4 axes"),
    ],
)
def test_checks(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(f"type: {text}", shape)
