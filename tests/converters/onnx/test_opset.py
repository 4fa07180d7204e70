"""Models for each opset from 9 to 24: checked against ONNX's schemas and run in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.converters.onnx import export
from caffeio.converters.onnx.choices import Choices
from caffeio.errors import UnsupportedError
from tests.converters import test_onnx as forms
from tests.paths import GOLDEN

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NEWEST = min(24, onnx.defs.onnx_opset_version())
OPSETS = range(9, NEWEST + 1)
ROWS = forms.FORMS.strip().splitlines()
NAMES = [row.split("|")[0].strip() for row in ROWS]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the tests of all forms write the opset that is set here, and nothing newer or older."""
    whole = export.to_model
    chosen = {"opset": 17}

    def to_model(built: Any, net: Any) -> Any:
        export.finish(built, net, Choices(opset=chosen["opset"]))
        model = whole(built, net)
        assert [(x.domain, x.version) for x in model.opset_import] == [("", chosen["opset"])]
        return model

    monkeypatch.setattr(forms, "to_model", to_model)
    return chosen


@pytest.mark.parametrize(
    ("index", "row"), list(enumerate(ROWS)), ids=[r.split("|")[0] for r in ROWS]
)
def test_other_forms(index: int, row: str, written: Any) -> None:
    """Each form at the oldest opsets, the newest, and one between that goes around."""
    for opset in (9, 11, NEWEST, OPSETS[index % len(OPSETS)]):
        written["opset"] = opset
        forms.test_other_forms(row, dynamic=index % 2 == 0)


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("path", forms.CASES[::3])
def test_layer(path: Path, opset: int, written: Any) -> None:
    written["opset"] = opset
    forms.test_layer(path)


@pytest.mark.parametrize("opset", [11, 12, 14, 20])
def test_detections_and_masks(opset: int, written: Any) -> None:
    written["opset"] = opset
    fields = forms.DETECTIONS + "keep_top_k: 7 code_type: CENTER_SIZE"
    forms.test_detections(fields, 1)
    forms.test_detections("num_classes: 4 confidence_threshold: 2", 1)
    forms.test_regions_and_masks()


def test_what_an_opset_cannot_say(written: Any) -> None:
    written["opset"] = 10
    message = (
        r"<text>:.*layer 'x' cannot be written for opset 10: it needs GatherElements, which is "
        r"there from opset 11 on.*exported: --output-blob prior"
    )
    with pytest.raises(UnsupportedError, match=message):
        forms.test_detections("num_classes: 4", 1)
    written["opset"] = 9
    with pytest.raises(UnsupportedError, match="opset 9: it needs "):  # not what comes of it
        forms.test_detections("num_classes: 4", 1)
    written["opset"] = 8
    with pytest.raises(UnsupportedError, match="opset 8 is not written: give one from 9 to 24"):
        forms.test_other_forms(ROWS[0], dynamic=False)


@pytest.mark.parametrize("opset", [9, 16, NEWEST])
def test_the_command(opset: int, tmp_path: Path) -> None:
    """The file is complete, its weights beside it if that is wanted, and was compared."""
    folder = next(iter(sorted(GOLDEN.glob("nets/*/net.prototxt")))).parent
    weights = next(iter(folder.glob("*.caffemodel")))
    out = tmp_path / "m.onnx"
    args = ["convert", str(folder / "net.prototxt"), str(weights), str(out)]
    result = CliRunner().invoke(main, [*args, "--opset", str(opset), "--external-data"])
    assert result.exit_code == 0, result.output
    assert "largest relative difference against onnxruntime" in result.output
    onnx.checker.check_model(str(out), full_check=True)
    assert (tmp_path / "m.onnx.data").stat().st_size > 4 * out.stat().st_size / 10
    model = onnx.load(out, load_external_data=False)
    assert model.opset_import[0].version == opset
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    for tensor in model.graph.initializer:  # sizes, axes and a few numbers stay in the model
        size = (
            np.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
        large = tensor.data_type == onnx.TensorProto.FLOAT and size > export.LEAST_BESIDE
        assert (tensor.data_location == onnx.TensorProto.EXTERNAL) == large, tensor.name
