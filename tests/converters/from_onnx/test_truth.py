"""Where two float32 disagree, float64 decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.converters.from_onnx import truth as truths
from caffeio.converters.from_onnx.compile import compile_model
from caffeio.converters.from_onnx.model import model_of
from caffeio.converters.from_onnx.truth import Truth, nearer, unfit
from caffeio.converters.from_onnx.verify import check, verify
from caffeio.errors import CaffeIOError
from tests.converters.from_onnx.helpers import NEAR, Of, export

pytest.importorskip("onnxruntime")
X = torch.randn(1, 8, 9, 11, generator=torch.Generator().manual_seed(1))


def log_sigmoid(_: object, x: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.sigmoid(x))


def test_a_logarithm_of_a_sigmoid_is_nearer_than_onnxruntimes() -> None:
    report = verify(compile_model(export(Of(log_sigmoid), X)))
    assert report.worst <= NEAR
    [note] = report.notes
    assert "(large inputs) was compared with float64 numbers of the model" in note
    assert "since onnxruntime's float32 is 0.0" in note


def test_a_wrong_net_does_not_become_right() -> None:
    net = compile_model(export(Of(log_sigmoid), X))
    net.layers[-1].param.log_param.scale = 1.001
    with pytest.raises(CaffeIOError, match="differ"):
        check(verify(net), "net")


def test_who_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(export(Of(lambda _, x: x.abs()), X))
    inputs = {"data": X.numpy()}
    truth, right = Truth(model, inputs), np.abs(X.numpy())
    name = model.graph.output[0].name
    rough, wrong = right * 1.01, right * 2
    found, off = nearer(name, right, rough, truth)
    np.testing.assert_array_equal(found, right)
    assert found.dtype == np.float64
    assert off == pytest.approx(0.01, rel=1e-3)
    assert nearer(name, rough, right, truth)[0] is right  # mine is the rough one
    assert nearer(name, right, wrong, truth)[0] is wrong  # no rounding explains that
    above, below = right * 1.00008, right * 0.99995
    assert nearer(name, above, below, truth)[0].dtype == np.float64  # mine is near enough
    assert nearer(name, right * 1.0002, below, truth)[0] is below
    assert nearer("another", right, rough, truth)[0] is rough
    monkeypatch.setattr(truths, "_MOST", 10)
    assert nearer(name, right, rough, Truth(model, inputs))[0] is rough


def magnifies_rounding() -> torch.nn.Module:
    """A module that is well conditioned up to 6: larger numbers cancel, in two orders."""
    torch.manual_seed(0)
    order = torch.randperm(32).tolist()
    plus, minus, rest = (torch.nn.Conv2d(32, 32, 3) for _ in range(3))
    with torch.no_grad():
        minus.weight.copy_(-plus.weight[:, order])
        assert plus.bias is not None
        assert minus.bias is not None
        minus.bias.copy_(-plus.bias)

    def cancels(m: torch.nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        large = 5e4 * torch.relu(x - 6)
        return m[2](x) + m[0](large) + m[1](large[:, order])

    return Of(cancels, plus, minus, rest)


def test_inputs_that_prove_nothing_are_replaced() -> None:
    net = compile_model(export(magnifies_rounding(), torch.randn(1, 32, 6, 6)))
    report = verify(net)
    check(report, "net")
    [note] = report.notes
    assert "large inputs prove nothing: rounding to float32 moves the Caffe net's" in note
    assert "smaller ones took their place" in note
    last = next(layer for layer in reversed(net.layers) if layer.type_name == "Convolution")
    last.blobs[0] = last.blobs[0] * np.float32(1.001)
    with pytest.raises(CaffeIOError, match="differ"):
        check(verify(net), "net")


def test_which_inputs_prove_nothing() -> None:
    right = np.abs(X.numpy())
    assert unfit(right * 1.02, right * 0.99, right) == pytest.approx(0.02, rel=1e-3)
    assert unfit(right * 1.4, right * 0.8, right) == pytest.approx(0.4, rel=1e-3)
    assert unfit(right * 1.01, right * 1.2, right) is None  # rounding does not explain that
    assert unfit(right * 1.02, right * 0.999, right) is None  # ours alone is badly conditioned
    assert unfit(right * 1.00005, right * 1.001, right) is None  # ours is well conditioned
    assert unfit(right * 1.3, right * 1.30001, right) is None  # they agree


def test_what_the_evaluator_cannot_run_decides_nothing() -> None:
    model = model_of(export(Of(lambda _, x: x.abs()), X))
    model.graph.node[0].op_type = "Nothing"
    assert Truth(model, {"data": X.numpy()}).of(model.graph.output[0].name) is None


def logarithms() -> torch.nn.Module:
    return Of(lambda _, x: torch.log(x).sum((1, 2, 3)))


def test_inputs_of_one_sign_where_others_give_no_number() -> None:
    """A sum of logarithms is nan for numbers of both signs, and was not compared."""
    net = compile_model(export(logarithms(), X))
    report = verify(net)
    check(report, "net")
    assert report.runs == ["normal", "ramp", "large", "positive", "negative", *report.runs[5:]]
    assert set(report.outputs[0].relative) <= {
        "positive", "positive batch 3",
    }  # fmt: skip
    assert 0 <= report.worst < NEAR
    last = net.layers[-1]
    last.param.reduction_param.coeff = 1.001
    with pytest.raises(CaffeIOError, match=r"differ .* \(positive"):
        check(verify(net), "net")


def test_an_output_that_never_has_a_number_is_said_so() -> None:
    net = compile_model(export(Of(lambda _, x: torch.log(-x.abs()).sum((1, 2, 3))), X))
    with pytest.raises(CaffeIOError, match=r"has a number in '.*' on inputs normal, ramp, large"):
        check(verify(net), "net")
