"""Folded models: fewer nodes, the same numbers, and nothing folded that is not exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.converters.onnx import export
from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.export import export_onnx, verify_onnx
from tests.converters import test_onnx as forms

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of all forms fold."""
    whole = export.to_model

    def to_model(built: Any, net: Any) -> Any:
        export.finish(built, net, Choices(fold=True))
        return whole(built, net)

    monkeypatch.setattr(forms, "to_model", to_model)
    monkeypatch.setattr(forms, "assert_zeros_are_told", lambda model: None)  # they are constants


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("row", forms.FORMS.strip().splitlines())
def test_other_forms(row: str, dynamic: bool) -> None:
    forms.test_other_forms(row, dynamic)


@pytest.mark.parametrize("path", forms.CASES[1::3])
def test_layer(path: Path) -> None:
    forms.test_layer(path)


def test_detections_and_masks() -> None:
    forms.test_detections(forms.DETECTIONS + "keep_top_k: 7 code_type: CENTER_SIZE", 1)
    forms.test_detections("num_classes: 4 confidence_threshold: 2", 1)
    forms.test_regions_and_masks()


def kinds(text: str, *shapes: tuple[int, ...], dynamic: bool = False) -> list[str]:
    """Operators of the folded model, which was compared with the net."""
    return [node.op_type for node in forms.check(text, *shapes, dynamic=dynamic).graph.node]


def chain(*layers: str) -> str:
    """Layers one after the other, in place but for the first."""
    out = []
    for i, text in enumerate(layers):
        bottom = "b0" if i == 0 else "y"
        out.append(f'layer {{ name: "l{i}" bottom: "{bottom}" top: "y" {text} }}')
    return "\n".join(out)


CONV = 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 pad: 1 FIELDS }'
DECONV = 'type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 2 group: 2 }'
DENSE = 'type: "InnerProduct" inner_product_param { num_output: 5 FIELDS }'
NORM, SCALE, RELU = (
    'type: "BatchNorm"',
    'type: "Scale" scale_param { bias_term: true }',
    'type: "ReLU"',
)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("first", "left"),
    [
        (CONV.replace("FIELDS", ""), ["Conv"]),
        (CONV.replace("FIELDS", "group: 2 bias_term: false"), ["Conv"]),
        (DECONV, ["ConvTranspose"]),
        (DENSE.replace("FIELDS", ""), ["Flatten", "Gemm"]),
        (DENSE.replace("FIELDS", "transpose: true bias_term: false"), ["Flatten", "Gemm"]),
        (NORM, ["BatchNormalization"]),
    ],
)
def test_what_goes_into_weights(first: str, left: list[str], dynamic: bool) -> None:
    power = 'type: "Power" power_param { scale: 0.5 shift: -2 }'
    text = chain(first, NORM, SCALE, power, 'type: "Bias"', RELU)
    assert kinds(text, (2, 4, 5, 6), dynamic=dynamic) == [*left, "Relu"]


def test_what_does_not() -> None:
    before = chain(NORM, CONV.replace("FIELDS", "")).replace(
        'top: "y" type: "Conv', 'top: "z" type: "Conv'
    )
    assert kinds(before, (1, 4, 5, 5)) == ["BatchNormalization", "Conv"]  # it pads with zeros
    read_twice = (
        f'layer {{ name: "c" bottom: "b0" top: "c" {CONV.replace("FIELDS", "")} }}'
        f'layer {{ name: "s" bottom: "c" top: "s" {SCALE} }}'
        'layer { name: "e" type: "Eltwise" bottom: "c" bottom: "s" top: "y" }'
    )
    assert kinds(read_twice, (1, 4, 5, 5)) == ["Conv", "Mul", "Add", "Add"]
    factors = (
        'layer { name: "a" type: "Power" bottom: "b0" top: "a" power_param { scale: 2 } }'
        'layer { name: "b" type: "Power" bottom: "a" top: "b" power_param { scale: 3 } }'
        'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "y" }'
    )
    assert kinds(factors, (1, 4, 5, 5)) == ["Mul", "Mul", "Add"]
    along_width = chain(CONV.replace("FIELDS", ""), 'type: "Scale" scale_param { axis: 3 }')
    assert kinds(along_width, (1, 4, 5, 5)) == ["Conv", "Mul"]


def test_an_output_stays(tmp_path: Path) -> None:
    """A blob that is asked for keeps its own value, and BatchNorm then stands behind it."""
    text = (
        'layer { name: "in" type: "Input" top: "b0"'
        " input_param { shape { dim: 1 dim: 4 dim: 5 dim: 5 } } }"
        f'layer {{ name: "c" bottom: "b0" top: "c" {CONV.replace("FIELDS", "")} }}'
        f'layer {{ name: "n" bottom: "c" top: "n" {NORM} }}'
    )
    out = tmp_path / "m.onnx"
    notes = export_onnx(text, None, out, outputs=["c", "n"], choices=Choices(fold=True))
    assert "folded: of 2 nodes 2 are left" in notes
    assert verify_onnx(text, None, out, outputs=("c", "n")) < 1e-5
    notes = export_onnx(text, None, out, choices=Choices(fold=True))
    assert "folded: of 2 nodes 1 are left" in notes
    assert verify_onnx(text, None, out) < 1e-5


@pytest.mark.parametrize("weights", forms.golden_nets())
def test_golden_nets(weights: Path, tmp_path: Path) -> None:
    """The command says how many nodes are left, and compares with the user's files."""
    out = tmp_path / "m.onnx"
    args = ["convert", str(weights.parent / "net.prototxt"), str(weights), str(out), "--fold"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "folded: of " in result.stderr
    assert "largest relative difference against onnxruntime" in result.output
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    ends = {item.name for item in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] not in ends:
            assert readers[node.output[0]] != ["BatchNormalization"]
