"""Exported models run in onnxruntime and are compared with real Caffe's arrays, and with our net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.converters.onnx import relative_difference, to_model
from caffeio.converters.onnx_build import Built, build
from caffeio.errors import UnsupportedError
from caffeio.graph import build_graph
from caffeio.net import Net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from tests.harness import TOLERANCE, assert_close, golden, part
from tests.paths import GOLDEN

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

# Sources read data, losses and metrics measure, code and files are no arithmetic.
WITHOUT_FORM = {
    "Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData",
    "Accuracy", "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss",
    "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss",
    "HDF5Output", "Python", "Silence",
}  # fmt: skip
RANDOM = {"Dropout/train_scaling"}
CASES = [
    pytest.param(path, id=f"{path.parent.name}/{path.stem}")
    for path in sorted((GOLDEN / "layers").glob("*/*.prototxt"))
    if path.parent.name not in WITHOUT_FORM
]


def run(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    found = session.run(None, {name: inputs[name] for name in names})
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


def case_net(path: Path, arrays: dict[str, np.ndarray]) -> Net:
    """The net of a golden layer case without what only makes an objective of the top."""
    file = read_net(path)
    message = pb.NetParameter()
    message.CopyFrom(file.message)
    del message.layer[:]
    message.layer.extend(x for x in file.message.layer if not x.name.startswith("obj_"))
    net = Net(build_graph(message, phase=str(arrays["phase"]))).materialize()
    step = next(step for step in net.steps if step.node.name == "x")
    with torch.no_grad():
        for key, value in part(arrays, "param/").items():
            step.layer.blobs[int(key)].copy_(torch.from_numpy(value))
    return net


def values_of(built: Built, model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = run(model, inputs)
    return {blob: found[name] for blob, name in built.outputs.items()}


@pytest.mark.parametrize("path", CASES)
def test_layer(path: Path) -> None:
    arrays = golden(path)
    net = case_net(path, arrays)
    tops = next(step.tops for step in net.steps if step.node.name == "x")
    if f"{path.parent.name}/{path.stem}" in RANDOM:
        with pytest.raises(UnsupportedError, match=r"layer 'x' .*random"):
            build(net, tops)
        return
    built = build(net, tops)
    found = values_of(built, to_model(built, net), part(arrays, "in/"))
    for top, value in part(arrays, "out/").items():
        assert_close(found[top], value, top, TOLERANCE)
