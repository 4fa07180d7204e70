"""Small blobs have the very digits of real Caffe (tests/golden/real_caffe/digits)."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.net import load_net
from caffeio.ops import digits, glibc
from caffeio.ops.blas import column_sums, dots, row_sums, sums
from tests.paths import GOLDEN

FOLDER = GOLDEN / "real_caffe" / "digits"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())
# rounding a float64 function once is glibc's float function but for one number in 2,000 (log: 200);
# LRN's gradient is added up by fused operations that are rounded twice here
ALLOWED = 2
ALLOWED_LRN = 18  # of 180


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i]['kind']}-{i}")
def test_digits_of_real_caffe(index: int) -> None:
    case = CASES[index]
    with np.load(FOLDER / "arrays.npz") as file:
        arrays = {
            key.split("/", 1)[1]: file[key] for key in file.files if key.startswith(f"{index}/")
        }
    net = load_net(case["text"], phase="TRAIN", seed=case["seed"])
    given = {
        key.removeprefix("in/"): torch.from_numpy(value).requires_grad_()
        for key, value in arrays.items()
        if key.startswith("in/")
    }
    net({name: value * 1 for name, value in given.items()})
    net.loss.backward()
    assert (net.blobs["y"].detach().numpy() != arrays["top"]).sum() <= ALLOWED
    gradient = given["a"].grad
    assert gradient is not None
    allowed = ALLOWED_LRN if case["kind"] == "LRN" else ALLOWED
    assert (gradient.numpy() != arrays["diff"]).sum() <= allowed
    if "param_diff" in arrays:
        slope = net.params["x"][0].grad
        assert slope is not None
        assert np.array_equal(slope.numpy(), arrays["param_diff"])


NUMBERS = np.concatenate(
    [
        np.random.RandomState(0).randn(20000) * 3,
        np.random.RandomState(1).randn(5000) * 1e-4,
        [0.0, -0.0, 1.0, -1.0, 1e-30, 22, -22, 90, -90, np.inf, -np.inf, np.nan],
    ]
).astype(np.float32)


def _of_the_c_library(name: str, x: np.ndarray) -> np.ndarray:
    try:
        function = getattr(ctypes.CDLL("libm.so.6"), name)
    except OSError:
        pytest.skip("no glibc here")
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return np.array([function(float(value)) for value in x], np.float32)


def test_tanh_is_that_of_glibc() -> None:
    theirs = _of_the_c_library("tanhf", NUMBERS)
    assert np.array_equal(glibc.tanh(NUMBERS), theirs, equal_nan=True)
    assert np.array_equal(np.signbit(glibc.tanh(NUMBERS)), np.signbit(theirs))


@pytest.mark.parametrize(
    ("name", "ours", "limit"), [("expf", digits.exp, 1e-3), ("logf", digits.log, 1e-2)]
)
def test_functions_of_the_c_library(
    name: str, ours: Callable[[torch.Tensor], torch.Tensor], limit: float
) -> None:
    x = np.abs(NUMBERS) if name == "logf" else NUMBERS
    mine, theirs = ours(torch.from_numpy(x)).numpy(), _of_the_c_library(name, x)
    assert np.mean(~((mine == theirs) | (np.isnan(mine) & np.isnan(theirs)))) < limit


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (1, 8), (1, 13), (1, 36), (5, 1), (4, 3), (3, 40)]
)
def test_sums_are_sums(shape: tuple[int, int]) -> None:
    x = torch.from_numpy(np.random.RandomState(2).randn(*shape).astype(np.float32))
    wide = x.double()
    assert torch.allclose(row_sums(x).double(), wide.sum(1), atol=1e-5)
    assert torch.allclose(column_sums(x).double(), wide.sum(0), atol=1e-5)
    assert torch.allclose(sums(x, 1).double(), wide.sum(1, keepdim=True), atol=1e-5)
    assert torch.allclose(sums(x, 0).double(), wide.sum(0, keepdim=True), atol=1e-5)
    assert torch.allclose(dots(x, x, 0).double(), (wide * wide).sum(0, keepdim=True), atol=1e-4)
    assert torch.equal(row_sums(wide), wide.sum(1))


SECOND = (
    '"Sigmoid"',
    '"TanH"',
    '"ELU"',
    '"PReLU"',
    '"Power" power_param { power: 3 shift: 9 }',
    '"Scale" scale_param { bias_term: true }',
    '"Softmax"',
    '"BNLL"',
    '"ReLU"',
    '"Split"',
)


@pytest.mark.parametrize("kind", SECOND)
def test_gradients_of_gradients(kind: str) -> None:
    """A small blob's second derivative is that of a large one, which is torch's own."""
    tops = 'top: "y" top: "y2" top: "y3"' if kind == '"Split"' else 'top: "y"'
    net = load_net(
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } } '
        f'layer {{ name: "x" bottom: "a" {tops} type: {kind} }}'
    )
    x = torch.tensor([[0.3, -1.2, 0.8], [2.0, -0.1, 1.1]], requires_grad=True)

    def second(x: torch.Tensor) -> torch.Tensor:
        net.to(x.dtype)({"a": x * 1})
        tops = [net.blobs[name] for name in ("y", "y2", "y3") if name in net.blobs]
        value = sum((top.square().sum() for top in tops), torch.zeros(()))
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (found,) = torch.autograd.grad(first.square().sum(), x)
        return found

    small = second(x)
    large = second(x.detach().double().requires_grad_())  # what is not float32 is torch's
    assert torch.allclose(small.double(), large, rtol=1e-4, atol=1e-5)


def test_transforms_get_operations_of_torch() -> None:
    net = load_net(
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 1 dim: 3 } } } '
        'layer { name: "x" bottom: "a" top: "y" type: "ReLU" } '
        'layer { name: "z" bottom: "y" top: "z" type: "TanH" }'
    )

    def total(x: torch.Tensor) -> torch.Tensor:
        return net({"a": x.unsqueeze(0)})["z"].sum()

    x = torch.tensor([[0.3, -1.2, 0.8], [2.0, -0.1, 1.1]])
    by_row = torch.func.vmap(torch.func.grad(total))(x)
    assert torch.allclose(by_row, torch.where(x > 0, 1 - x.tanh() ** 2, 0.0), atol=1e-6)
