"""What onnxruntime says of models that it cannot load or run, in our words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.converters.verify.runtime_words import said_by
from caffeio.errors import UnsupportedError
from tests.converters.from_onnx.helpers import graph_of, onnx

ort: Any = pytest.importorskip("onnxruntime")


def test_an_opset_that_is_too_new() -> None:
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    model = graph_of(nodes, {"x": [2]}, ["y"], opset=99)
    said = rf"of opset 99, onnxruntime {ort.__version__} runs those up to \d\d: pip install"
    with pytest.raises(UnsupportedError, match=said):
        OnnxRunner(model)


def test_a_model_that_stops() -> None:
    nodes = [onnx.helper.make_node("Reshape", ["x", "to"], ["y"])]
    model = graph_of(nodes, {"x": [6]}, ["y"], {"to": np.array([4])}, opset=17)
    with pytest.raises(
        UnsupportedError, match=r"the model does not run: .* Reshape node"
    ) as caught:
        OnnxRunner(model)({"x": np.zeros(6, np.float32)})
    assert "onnxruntime_src" not in str(caught.value) and "\n" not in str(caught.value)


def test_places_in_its_sources_are_left_out() -> None:
    said = (
        "Status Message: /onnxruntime_src/onnxruntime/core/providers/cpu/math/ops.cc:18 "
        "onnxruntime::common::Status onnxruntime::Copy(const onnxruntime::Tensor&, void*) "
        "a.Size() == b.Size() was false.\nThe sizes differ\n"
    )
    words = "Status Message: a.Size() == b.Size() was false. The sizes differ"
    assert said_by(RuntimeError(said)) == words
