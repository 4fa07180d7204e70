"""Two models whose probabilities are all 0 or 1 are held against each other before the Softmax."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caffeio import load_net
from caffeio.converters.onnx import export_onnx, verify_onnx
from caffeio.converters.verify.check import LIMIT, check
from caffeio.converters.verify.models import NetModel
from caffeio.net import Net

NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 4 dim: 3 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 2 }} }}
layer {{ name: "prob" type: "{kind}" bottom: "ip" top: "prob" }}
"""


def net_of(kind: str, size: float) -> Net:
    """A net whose scores are so far apart that float32 has only 0 and 1 for them."""
    net = load_net(NET.format(kind=kind))
    with torch.no_grad():
        net.params["ip"][0].copy_(torch.tensor([[0.0, 0, 0], [0, 0, 0]]))
        net.params["ip"][1].copy_(torch.tensor([size, -size]))
    return net


@pytest.mark.parametrize("kind", ["Softmax", "Sigmoid"])
def test_scores_before_saturated_probabilities_are_compared(kind: str) -> None:
    found = check(net_of(kind, 1000), NetModel(net_of(kind, 2000)), ["prob"])
    off = {row.blob: row.relative for row in found.rows}
    assert off == {"prob": 0.0, "ip": 1.0}
    assert found.worst == 1.0
    assert check(net_of(kind, 1000), NetModel(net_of(kind, 1000)), ["prob"]).worst == 0


@pytest.mark.parametrize("kind", ["Softmax", "Sigmoid"])
def test_an_onnx_model_with_other_scores_does_not_pass(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    prototxt = tmp_path / "n.prototxt"
    prototxt.write_text(NET.format(kind=kind))
    for name, size in (("a", 1000.0), ("b", 2000.0)):
        net_of(kind, size).save(tmp_path / f"{name}.caffemodel")
        export_onnx(prototxt, tmp_path / f"{name}.caffemodel", tmp_path / f"{name}.onnx")
    weights = tmp_path / "a.caffemodel"
    assert verify_onnx(prototxt, weights, tmp_path / "a.onnx") <= LIMIT
    assert verify_onnx(prototxt, weights, tmp_path / "b.onnx") > 0.5
