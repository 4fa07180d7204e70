from __future__ import annotations

from typing import Any

import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.tools import make, random

DENSE = 'type: "InnerProduct" inner_product_param { num_output: 3 %s }'


@pytest.mark.parametrize("case", layer_cases("InnerProduct", "Embed"))
def test_golden(case: Any) -> None:
    check_case(case)


def test_shapes_and_macs() -> None:
    dense = make(DENSE % "", (5, 2, 4))
    assert [b.shape for b in dense.blobs] == [(3, 8), (3,)]
    assert dense.macs() == 5 * 3 * 8
    turned = make(DENSE % "transpose: true bias_term: false axis: 2", (5, 2, 4))
    assert [b.shape for b in turned.blobs] == [(4, 3)]
    assert turned.top_shapes == ((5, 2, 3),)
    assert turned.macs() == 10 * 3 * 4
    assert make(DENSE % "axis: 0", (5, 2)).top_shapes == ((3,),)


def test_relu_that_intel_fused() -> None:
    x, w = random(4, 5), random(3, 5, seed=1)
    plain = make(DENSE % "bias_term: false", (4, 5), blobs=[w])(x)
    fused = make(DENSE % "bias_term: false relu: true", (4, 5), blobs=[w])(x)
    leaky = make(DENSE % "bias_term: false relu: true negative_slope: 0.1", (4, 5), blobs=[w])(x)
    assert torch.equal(fused, plain.relu())
    assert_close(leaky, torch.where(plain > 0, plain, 0.1 * plain).detach().numpy(), "leaky")


def test_embed_truncates_indices() -> None:
    text = 'type: "Embed" embed_param { num_output: 2 input_dim: 4 bias_term: false }'
    rows = random(4, 2)
    embed = make(text, (2, 2), blobs=[rows])
    y = embed(torch.tensor([[0.9, 3.0], [1.0, 2.7]]))
    assert torch.equal(y, rows[torch.tensor([[0, 3], [1, 2]])])
    y.sum().backward()
    assert embed.blobs[0].grad is not None
    assert embed.blobs[0].grad.eq(1).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"InnerProduct"', "num_output: must be above 0"),
        ('"InnerProduct" inner_product_param { num_output: 2 axis: 2 }', "axis 2 out of range"),
        ('"InnerProduct" inner_product_param { num_output: 2 normalize: true }', "normalize"),
        ('"Embed" embed_param { num_output: 2 }', "input_dim: must be above 0"),
        ('"Embed" embed_param { input_dim: 2 }', "num_output: must be above 0"),
    ],
)
def test_checks(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make(f"type: {text}", (5, 2))


def test_other_size_than_built_for() -> None:
    dense = make(DENSE % "", (5, 2, 4))
    assert dense(random(7, 8)).shape == (7, 3)
    with pytest.raises(LayerError, match="9 values do not fit weights for 8"):
        dense(random(7, 9))
