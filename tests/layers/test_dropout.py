from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.boost_random import CaffeRng
from caffeio.errors import LayerError
from caffeio.profiles import BVLC, INTEL, Profile
from tests.harness import check_case, layer_cases
from tests.layers.tools import make

DROPOUT = 'type: "Dropout" dropout_param { dropout_ratio: 0.25 %s }'
ONES = torch.ones(200, 100)


@pytest.mark.parametrize("case", layer_cases("Dropout"))
def test_golden(case: Path) -> None:
    """The TRAIN case has a seed: the mask is Caffe's."""
    check_case(case)


def values(text: str, x: torch.Tensor = ONES, **options: Any) -> dict[float, float]:
    """Share of each value of the top."""
    torch.manual_seed(0)
    y = make(text, tuple(x.shape), **options)(x)
    found, counts = y.unique(return_counts=True)
    return {round(float(v), 4): float(n) / y.numel() for v, n in zip(found, counts, strict=True)}


@pytest.mark.parametrize(
    ("fields", "train", "test"),
    [
        ("", 1.3333, 1.0),
        ("scale_train: false", 1.0, 0.75),
        ("sqrt_scale: true", 1.1547, 1.0),
    ],
)
def test_scaling(fields: str, train: float, test: float) -> None:
    shares = values(DROPOUT % fields)
    assert set(shares) == {0.0, train}
    assert shares[0.0] == pytest.approx(0.25, abs=0.02)
    assert values(DROPOUT % fields, phase="TEST") == {test: 1.0}


def test_segnet_samples_in_test() -> None:
    assert set(values(DROPOUT % "sample_weights_test: true", phase="TEST")) == {0.0, 1.3333}


def test_the_gradient_has_the_same_mask() -> None:
    x = ONES.clone().requires_grad_()
    y = make(DROPOUT % "", tuple(x.shape))(x)
    assert torch.equal(torch.autograd.grad(y, x, ONES)[0], y)


def test_caffes_own_masks() -> None:
    layer = make(DROPOUT % "", (3, 4))
    layer.rng = CaffeRng(7)
    mask = CaffeRng(7).bernoulli(1 - 0.25, 24).reshape(2, 3, 4)
    for k in range(2):  # a new mask in every forward
        np.testing.assert_allclose(layer(torch.ones(3, 4)), mask[k] / 0.75, rtol=1e-6)


@pytest.mark.parametrize(("profile", "ratio"), [(BVLC, 0.25), (INTEL, 0.5)])
def test_spatial(profile: Profile, ratio: float) -> None:
    """One draw a plane; Intel Caffe reads dropout_param, whatever spatial_dropout_param says."""
    text = 'type: "SpatialDropout" spatial_dropout_param { dropout_ratio: 0.25 }'
    x = torch.ones(50, 40, 2, 3)
    torch.manual_seed(0)
    y = make(text, tuple(x.shape), profile=profile)(x)
    planes = y[:, :, 0, 0]
    assert torch.equal(y, planes[..., None, None].expand_as(y))
    assert planes.eq(0).float().mean().item() == pytest.approx(ratio, abs=0.04)
    assert planes.max().item() == pytest.approx(1 / (1 - ratio))
    assert torch.equal(make(text, tuple(x.shape), phase="TEST", profile=profile)(x), x)
    layer = make(text, tuple(x.shape), profile=profile)
    layer.rng = CaffeRng(3)
    mask = CaffeRng(3).bernoulli(1 - ratio, 2000).reshape(50, 40)
    np.testing.assert_allclose(layer(x)[:, :, 1, 2], mask / (1 - ratio), rtol=1e-6)


@pytest.mark.parametrize("ratio", ["1", "-0.5"])
def test_checks(ratio: str) -> None:
    with pytest.raises(LayerError, match=r"dropout_ratio: must be in \[0, 1\)"):
        make(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', (3,))
