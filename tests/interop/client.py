"""Run converted models in one client: python client.py CLIENT JOBS.json (needs no caffeio).

JOBS.json is a list of objects with `files` (by kind), `inputs` (an .npz), `outputs` (blob, the
layer that makes it, and its name in ONNX) and `result`, the .npz to write; what fails is written
as text.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def onnxruntime(files: dict[str, str], inputs: Arrays, outputs: list[list[str]]) -> list[Any]:
    ort = import_module("onnxruntime")
    session = ort.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    given = {item.name: inputs[item.name] for item in session.get_inputs()}
    return list(session.run([name for _, _, name in outputs], given))


def _opencv(net: Any, inputs: Arrays, names: list[str]) -> list[Any]:
    net.enableWinograd(False)  # it is quicker and ten times less exact
    for name, value in inputs.items():
        net.setInput(value, name)
    found = net.forward(names)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def opencv_onnx(files: dict[str, str], inputs: Arrays, outputs: list[list[str]]) -> list[Any]:
    net = import_module("cv2").dnn.readNetFromONNX(files["onnx"])
    return _opencv(net, inputs, [name for _, _, name in outputs])


def opencv_caffe(files: dict[str, str], inputs: Arrays, outputs: list[list[str]]) -> list[Any]:
    net = import_module("cv2").dnn.readNetFromCaffe(files["prototxt"], files["caffemodel"])
    return _opencv(net, inputs, [layer for _, layer, _ in outputs])


def openvino(files: dict[str, str], inputs: Arrays, outputs: list[list[str]]) -> list[Any]:
    ov = import_module("openvino")
    core = ov.Core()
    # On some processors its default is less than float32.
    model = core.compile_model(files["onnx"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = model({port.any_name: inputs[port.any_name] for port in model.inputs})
    return [found[name] for _, _, name in outputs]


def torch_module(files: dict[str, str], inputs: Arrays, outputs: list[list[str]]) -> list[Any]:
    torch = import_module("torch")
    spec = importlib.util.spec_from_file_location("written", files["py"])
    assert spec is not None and spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    with torch.no_grad():
        found = written.load_model()(*(torch.from_numpy(value) for value in inputs.values()))
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def torch_program(files: dict[str, str], inputs: Arrays, outputs: list[list[str]]) -> list[Any]:
    torch = import_module("torch")
    found = torch.export.load(files["pt2"]).module()(*map(torch.from_numpy, inputs.values()))
    return [t.detach().numpy() for t in found]


CLIENTS = {
    "onnxruntime": onnxruntime,
    "opencv-onnx": opencv_onnx,
    "opencv-caffe": opencv_caffe,
    "openvino": openvino,
    "torch-module": torch_module,
    "torch-program": torch_program,
}
PACKAGES = {"opencv-onnx": "cv2", "opencv-caffe": "cv2", "torch-module": "torch"}


def main() -> None:
    """Run all jobs in a client; print its version."""
    client, jobs = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    sys.modules["caffeio"] = None  # type: ignore[assignment] - nobody may need it
    package = PACKAGES.get(client, client.partition("-")[0])
    print(import_module(package).__version__, flush=True)
    for job in jobs:
        inputs = dict(np.load(job["inputs"]))
        try:
            found = CLIENTS[client](job["files"], inputs, job["outputs"])
        except Exception as error:  # noqa: BLE001 - whatever the client stops with is its answer
            Path(job["result"] + ".txt").write_text(f"{type(error).__name__}: {error}")
            continue
        np.savez(job["result"], *found)


if __name__ == "__main__":
    main()
