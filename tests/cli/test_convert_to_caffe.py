"""`caffeio convert model.onnx out.caffemodel`, as people type it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from caffeio.net.net import load_net
from caffeio.proto.files import read_net
from tests.cli.converting import run
from tests.converters.from_onnx.helpers import export, graph_of, onnx

pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )
    onnx.save(export(net, torch.randn(1, 3, 9, 9)), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_two_files_appear_and_compute(model: Path) -> None:
    out = model.with_name("out.caffemodel")
    result = run(model, out)
    assert result.exit_code == 0, result.output
    assert "compared with onnxruntime" in result.stdout
    assert "layers for bvlc-1.0" in result.stdout
    net = load_net(out.with_suffix(".prototxt"), out)
    x = torch.randn(1, 3, 9, 9)
    import onnxruntime as ort

    [wanted] = ort.InferenceSession(str(model)).run(None, {"data": x.numpy()})
    with torch.no_grad():
        [found] = net({"data": x}).values()
    assert np.abs(found.numpy() - wanted).max() < 1e-5
    assert read_net(out).dialect == "bvlc"
    assert sorted(p.name for p in model.parent.iterdir()) == [
        "model.onnx",
        "out.caffemodel",
        "out.prototxt",
    ]


def test_options(model: Path) -> None:
    out, text = model.with_name("o.caffemodel"), model.with_name("net.prototxt")
    shape = "data=4,3,9,9"
    result = run(model, out, "--prototxt", text, "--target", "bvlc", "--input-shape", shape)
    assert result.exit_code == 0, result.output
    assert "dim: 4" in text.read_text()
    assert text.read_text().startswith("# Made by caffeio")
    assert run(model, out, "--prototxt", text).exit_code == 0  # its own files are replaced
    assert "for bvlc-1.0" in text.read_text()
    assert run(model, out, "--target", "nothing").exit_code == 2


def test_certificate(model: Path) -> None:
    page = model.with_name("certificate.html")
    result = run(model, model.with_name("o.caffemodel"), "--certificate", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "o.caffemodel computes what its source does" in text


def test_hearsay_is_said(model: Path) -> None:
    result = run(
        model,
        model.with_name("o.caffemodel"),
        "--target",
        "nnie",
        "--output-blob",
        "/0/Conv_output_0",
    )
    assert result.exit_code == 0, result.output
    result = run(model, model.with_name("p.caffemodel"), "--target", "ncnn")
    assert "not verified with ncnn itself" in result.stderr


def test_nobodys_prototxt_is_replaced(model: Path) -> None:
    out = model.with_name("out.caffemodel")
    mine = out.with_suffix(".prototxt")
    mine.write_text("name: 'mine'")
    result = run(model, out)
    assert result.exit_code == 2
    assert "--prototxt" in result.stderr
    assert mine.read_text() == "name: 'mine'"
    assert not out.exists()
    assert run(model, out, "--force").exit_code == 0
    out.with_name("q.caffemodel").write_bytes(b"weights of somebody")
    assert run(model, out.with_name("q.caffemodel")).exit_code == 2
    assert out.with_name("q.caffemodel").read_bytes() == b"weights of somebody"


def test_a_refusal_writes_nothing(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Erf", ["x"], ["y"], name="erf")
    model = graph_of([node], {"x": [1, 2]}, ["y"])
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "m.onnx")
    result = run(tmp_path / "m.onnx", tmp_path / "o.caffemodel")
    assert result.exit_code == 2
    assert "node 0 'erf' (Erf (1, 2) -> (1, 2)): Caffe has no error function" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_wrong_numbers_write_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caffeio.converters.from_onnx import compile as compiler

    def wrong(w: Any, node: Any) -> str:
        return str(w.unary("TanH", w.blob(node.inputs[0])))

    monkeypatch.setitem(compiler.load_operators(), "Relu", wrong)
    result = run(model, model.with_name("o.caffemodel"))
    assert result.exit_code == 2
    assert "the Caffe net and the model differ" in result.stderr
    assert [p.name for p in model.parent.iterdir()] == ["model.onnx"]
    result = run(model, model.with_name("o.caffemodel"), "--no-verify")
    assert result.exit_code == 0
    assert "NOT COMPARED" in result.stderr
