"""`caffeio show` of files that are not Caffe's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from caffeio.cli.main import main
from tests.paths import GOLDEN

NET = GOLDEN / "nets" / "residual_inplace"


def run(command: str, *args: str | Path) -> Result:
    result = CliRunner().invoke(main, [command, *map(str, args)])
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize("suffix", ["onnx", "safetensors", "pt", "npz"])
def test_what_a_file_is(suffix: str, tmp_path: Path) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"m.{suffix}"
    made = run("convert", NET / "net.prototxt", NET / "weights.caffemodel", path)
    assert made.exit_code == 0, made.output
    shown = run("show", path)
    assert shown.exit_code == 0, shown.output
    data = json.loads(run("show", path, "--json").stdout)
    if suffix == "onnx":
        assert "made by" in shown.stdout and "caffeio" in shown.stdout
        assert list(data["inputs"]) == ["data"] and data["operators"]["Conv"] > 1
    else:
        name = "conv1.0" if suffix == "npz" else "conv1.weight"
        assert name in shown.stdout
        assert data["tensors"][name]["dtype"] == "float32"
    assert run("show", path, "--html").stdout.startswith("<!doctype html>")
    assert run("show", path, "--svg").exit_code == 2


def test_programs_and_damage(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    torch.export.save(torch.export.export(Plain(), (torch.zeros(2),)), tmp_path / "p.pt2")
    assert "torch.export program" in run("show", tmp_path / "p.pt2").stdout
    (tmp_path / "odd.onnx").write_bytes(b"\x08\x07\x12")
    result = run("show", tmp_path / "odd.onnx")
    assert (result.exit_code, "is no ONNX model" in result.stderr) == (2, True)
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    assert "int64" in run("show", tmp_path / "a.npz").stdout


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("safetensors", "is no safetensors file"),
        ("pt", "is no PyTorch file"),
        ("npz", "is damaged or no .npz"),
    ],
)
def test_what_only_a_name_tells(suffix: str, said: str, tmp_path: Path) -> None:
    """Bytes that fit no kind: the reader of the file's ending says what is wrong with them."""
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(b"\xf3\x01\x00\x99" * 99)
    result = run("show", path)
    assert result.exit_code == 2 and f"m.{suffix}: {said}" in result.output, result.output
