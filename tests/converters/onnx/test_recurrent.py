"""LSTM and RNN: one operator of ONNX where `cont` is a constant, steps elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import caffeio
from caffeio.converters.onnx import export
from caffeio.converters.onnx.choices import Choices
from caffeio.net import load_net
from tests.harness import TOLERANCE, assert_close

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
NEWEST = min(24, onnx.defs.onnx_opset_version())
STEPS, STREAMS = 4, 3


def text(kind: str, cont: str, more: str = "", bottoms: str = "", steps: int = STEPS) -> str:
    dims = f"shape {{ dim: {steps} dim: {STREAMS} dim: 5 }} shape {{ dim: {steps} dim: {STREAMS} }}"
    states = 'top: "h0" top: "c0"' if "expose" in more else ""
    sizes = f"shape {{ dim: 1 dim: {STREAMS} dim: 6 }} " * (2 if states else 0)
    indicator = (
        'layer { name: "i" type: "ContinuationIndicator" bottom: "x" top: "c"'
        f" continuation_indicator_param {{ time_step: {steps} axis: 1 }} }}\n"
    )
    used = "c" if cont == "constant" else "given"
    return (
        f'layer {{ name: "in" type: "Input" top: "x" top: "given" {states}'
        f" input_param {{ {dims} {sizes} }} }}\n"
        f"{indicator if cont == 'constant' else ''}"
        f'layer {{ name: "r" type: "{kind}" bottom: "x" bottom: "{used}" {bottoms} top: "y" '
        f"recurrent_param {{ num_output: 6 {more} }} }}\n"
    )


def held(net_text: str, folder: Path, choices: Choices) -> list[str]:
    """Operators of the model, which computes what the net does."""
    net = load_net(net_text)
    rng = np.random.default_rng(0)
    weights = {
        f"r.{i}": torch.from_numpy(rng.uniform(-0.7, 0.7, b.shape).astype(np.float32))
        for i, b in enumerate(net.params["r"])
    }
    with torch.no_grad():
        for blob, value in zip(net.params["r"], weights.values(), strict=True):
            blob.copy_(value)
    built = export.build(net, ["y"], unroll=choices.unroll)
    export.finish(built, net, choices)
    model = export.to_model(built, net)
    onnx.checker.check_model(model, full_check=True)
    inputs = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes(net).items()}
    inputs["given"] = np.ones_like(inputs["given"])
    inputs["given"][0] = 0
    net.reset_state()
    with torch.no_grad():
        net({name: torch.from_numpy(value) for name, value in inputs.items()})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {item.name: inputs[item.name] for item in session.get_inputs()}
    assert_close(session.run(None, fed)[0], net.blobs["y"].numpy(), "y", TOLERANCE)
    return [node.op_type for node in model.graph.node]


def shapes(net: caffeio.Net) -> dict[str, tuple[int, ...]]:
    return {t: net.blob_shapes[t] for s in net.steps if s.layer.is_source for t in s.tops}


@pytest.mark.parametrize("choices", [Choices(), Choices(opset=9), Choices(opset=NEWEST, fold=True)])
@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_one_operator(kind: str, steps: int, choices: Choices, tmp_path: Path) -> None:
    found = held(text(kind, "constant", steps=steps), tmp_path, choices)
    assert found.count(kind) == 1
    assert "Gemm" not in found and "Sigmoid" not in found


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_step_by_step(kind: str, tmp_path: Path) -> None:
    """With --unroll, and where `cont` comes with the data."""
    assert kind not in held(text(kind, "constant"), tmp_path, Choices(unroll=True))
    assert kind not in held(text(kind, "given"), tmp_path, Choices())


def test_a_state_that_is_given_is_forgotten_in_the_first_step(tmp_path: Path) -> None:
    """ContinuationIndicator's first step is 0: the operator would begin with the state."""
    more, bottoms = "expose_hidden: true", 'bottom: "h0" bottom: "c0"'
    net_text = text("LSTM", "constant", more, bottoms).replace(
        'top: "y" rec', 'top: "y" top: "h" top: "c1" rec'
    )
    assert "LSTM" not in held(net_text, tmp_path, Choices())
