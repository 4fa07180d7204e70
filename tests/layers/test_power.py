from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffeio.errors import LayerError
from tests.harness import assert_close, check_case, layer_cases
from tests.layers.test_neuron import slopes
from tests.layers.tools import make

POWER = 'type: "Power" power_param { %s }'
X = torch.tensor([0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("case", layer_cases("Exp", "Log", "Power"))
def test_golden(case: Any) -> None:
    check_case(case)


@pytest.mark.parametrize(
    ("fields", "value"),
    [("power: 0", 1), ("scale: 0 shift: 3 power: 2", 9), ("scale: 0 shift: 2", 2)],
)
def test_constant_power(fields: str, value: float) -> None:
    x = X.clone().requires_grad_()
    y = make(POWER % fields, x.shape)(x)
    assert y.tolist() == [value] * 4
    assert not y.requires_grad


def test_power_slopes() -> None:
    assert slopes(POWER % "scale: 3 shift: 1", X) == [3, 3, 3, 3]
    assert slopes(POWER % "power: 2 scale: 3 shift: 1", X) == [6, 24, 42, 60]
    cubic = slopes(POWER % "power: 3", X)  # y / x * 3: nan at 0, as in Caffe
    assert np.isnan(cubic[0])
    assert cubic[1:] == [3, 12, 27]
    root = slopes(POWER % "power: 0.5 shift: 1", X)
    assert root == pytest.approx([0.5 / (v + 1) ** 0.5 for v in X.tolist()])


@pytest.mark.parametrize("kind", ["Exp", "Log"])
def test_bases(kind: str) -> None:
    text = f'type: "{kind}" {kind.lower()}_param {{ base: %s scale: 2 shift: 1 }}'
    inner = 2 * X.numpy() + 1
    for base in (2.0, 10.0):
        expected = base**inner if kind == "Exp" else np.log(inner) / np.log(base)
        assert_close(make(text % base, X.shape)(X), expected, kind)
    for base in ("0", "-2"):
        with pytest.raises(LayerError, match="base: must be above 0, or -1 for e"):
            make(text % base, X.shape)


def test_no_logarithm_to_the_base_1() -> None:
    with pytest.raises(LayerError, match="not the base of a logarithm"):
        make('type: "Log" log_param { base: 1 }', X.shape)
