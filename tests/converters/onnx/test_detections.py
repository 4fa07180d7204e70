"""SSD's detections for OpenCV 4, and in float16."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from tests.converters.onnx.test_flags import files

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SSD = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 24 dim: 24 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 4 } }
layer { name: "n" type: "Normalize" bottom: "c" top: "n" }
layer { name: "l" type: "Convolution" bottom: "c" top: "l" convolution_param { num_output: 12 kernel_size: 1 } }
layer { name: "s" type: "Convolution" bottom: "n" top: "s" convolution_param { num_output: 9 kernel_size: 1 } }
layer { name: "lp" type: "Permute" bottom: "l" top: "lp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "sp" type: "Permute" bottom: "s" top: "sp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "lp" top: "lf" }
layer { name: "r" type: "Reshape" bottom: "sp" top: "r" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "p" type: "Softmax" bottom: "r" top: "p" softmax_param { axis: 2 } }
layer { name: "pf" type: "Flatten" bottom: "p" top: "pf" }
layer { name: "b" type: "PriorBox" bottom: "c" bottom: "data" top: "b"
  prior_box_param { min_size: 8 aspect_ratio: 2 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
layer { name: "found" type: "DetectionOutput" bottom: "lf" bottom: "pf" bottom: "b" top: "found"
  detection_output_param { num_classes: 3 keep_top_k: 20 code_type: CENTER_SIZE
    nms_param { nms_threshold: 0.4 top_k: 30 FIELDS } confidence_threshold: 0.1 } }
"""  # noqa: E501
SMALL = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 } }
"""  # noqa: E501


def convert(folder: Path, *flags: str, fields: str = "") -> tuple[str, int]:
    given = files(folder, SSD.replace("FIELDS", fields))
    result = CliRunner().invoke(main, ["convert", *given, str(folder / "m.onnx"), "-f", *flags])
    assert "Traceback" not in result.output
    return result.output, result.exit_code


@pytest.mark.parametrize("flags", [(), ("--fold",), ("--opset", "11")])
def test_for_opencv_4(flags: tuple[str, ...], tmp_path: Path) -> None:
    """OpenCV runs it, and its rows are ours in another order."""
    said, code = convert(tmp_path, "--for", "opencv", *flags)
    assert code == 0, said
    assert "largest relative difference against OpenCV" in said
    assert "other runtimes refuse it" in said
    model = onnx.load(tmp_path / "m.onnx")
    assert "DetectionOutput" in {node.op_type for node in model.graph.node}
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "m.onnx"))
    net.setInput(np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32))
    assert net.forward().shape[-1] == 7


@pytest.mark.parametrize("flags", [("--preprocess", "--mean", "104,117,123"), ("--dynamic-batch",)])
def test_pictures_and_sizes_for_opencv(flags: tuple[str, ...], tmp_path: Path) -> None:
    """OpenCV is fed as the model is: with pictures, with other batches."""
    given = files(tmp_path, SMALL)
    target = tmp_path / "m.onnx"
    result = CliRunner().invoke(main, ["convert", *given, str(target), "--for", "opencv", *flags])
    assert result.exit_code == 0, result.output
    assert "on 3 random inputs" in result.output
    assert "largest relative difference against OpenCV" in result.output


def test_layers_for_opencv_at_any_size(tmp_path: Path) -> None:
    """The graph at another size is built for the same reader."""
    net = SMALL + 'layer { name: "n" type: "Normalize" bottom: "c" top: "n" }\n'
    given, target = files(tmp_path, net), str(tmp_path / "m.onnx")
    flags = ["--for", "opencv", "--dynamic", "height,width", "--no-verify"]
    result = CliRunner().invoke(main, ["convert", *given, target, *flags])
    assert result.exit_code == 0, result.output


def test_what_opencv_does_not_read(tmp_path: Path) -> None:
    """The ordinary model has operators that OpenCV 4 lacks; that is why there is a flag."""
    _, code = convert(tmp_path)
    assert code == 0
    if cv2.__version__.startswith("4."):
        with pytest.raises(cv2.error):
            cv2.dnn.readNetFromONNX(str(tmp_path / "m.onnx"))
    said, code = convert(tmp_path, "--for", "opencv", fields="eta: 0.9")
    assert code == 2 and "eta below 1" in said


@pytest.mark.parametrize("flags", [(), ("--fold",)])
def test_half(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Rows are a choice: what they are chosen from is compared."""
    said, code = convert(tmp_path, "--fp16", *flags)
    assert code == 0, said
    assert "the rows of found are not compared" in said
    compared = [
        line.split()[1] for line in said.splitlines() if ": " in line and "  output" in line
    ]
    assert len(compared) >= 2, said
