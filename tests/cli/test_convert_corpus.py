"""Public models through the command: every kind of result is made, and run against the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.proto.weights.load import load_weights
from tests.cli.converting import run
from tests.corpus import smaller
from tests.paths import NIGHT, SHARED, needs_shared

pytest.importorskip("onnxruntime")
CORPUS = SHARED / "corpus" / "caffemodels"
MODELS = json.loads((CORPUS / "index.json").read_text()) if CORPUS.exists() else []
PAIRS = [pytest.param(entry, id=entry["id"]) for entry in MODELS if "prototxt" in entry]
# Residual nets of 250 layers: what else is made of them goes the others' way, and is made at night.
ONNX_BY_DAY = {"nsfw"}
# What BVLC's Caffe 1.0 has no layers for, and why no exact form exists.
NO_BVLC = {
    "res10_ssd": "DetectionOutput",
    "yuface_v1": "DetectionOutput",
}


def compared(*args: str | Path) -> float:
    """Convert; returns the difference that the command has found."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert "NOT COMPARED" not in result.output, result.output
    last = result.stdout.strip().splitlines()[-1]
    assert "largest relative difference against" in last, result.output
    return float(last.rpartition(" ")[2])


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("entry", PAIRS)
def test_a_public_model(entry: dict[str, Any], tmp_path: Path) -> None:
    folder = CORPUS / entry["id"]
    files = folder / entry["prototxt"], folder / entry["model"]
    shapes = [
        part
        for name, dims in (smaller(entry["id"]) or entry["inputs"] or {}).items()
        for part in ("--input-shape", f"{name}={','.join(map(str, dims))}")
    ]
    assert compared(*files, tmp_path / "m.onnx", *shapes) <= 2e-5
    if entry["id"] in ONNX_BY_DAY and not NIGHT:
        return
    assert compared(*files, tmp_path / "m.py", *shapes) <= 1e-5
    assert compared(*files, tmp_path / "d.prototxt", "--deploy", *shapes) <= 1e-5
    to_bvlc = ("--to-dialect", "bvlc", *shapes)
    if entry["id"] in NO_BVLC:
        result = run(*files, tmp_path / "b.prototxt", "--deploy", *to_bvlc)
        assert result.exit_code == 2
        assert NO_BVLC[entry["id"]] in result.output
    else:
        assert compared(*files, tmp_path / "b.prototxt", "--deploy", *to_bvlc) <= 1e-5
        assert compared(*files, tmp_path / "b.caffemodel", *to_bvlc) <= 1e-5
    for name in ("w.pt", "w.safetensors") if load_weights(files[1]) else ():
        result = run(*files, tmp_path / name)
        assert "blobs read back, equal bit for bit" in result.stdout, result.output
        args = [*files, tmp_path / name, *shapes]
        checked = CliRunner().invoke(main, ["verify", *map(str, args)])
        assert checked.exit_code == 0, checked.output
