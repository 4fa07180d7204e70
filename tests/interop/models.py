"""Convert models into everything that clients read, with inputs and the numbers of `load_net`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffeio import load_net
from caffeio.converters.convert.convert import convert
from caffeio.converters.deploy.deploy_net import DeployOptions
from caffeio.converters.request import Request
from caffeio.converters.verify.models import NetModel, OnnxModel
from caffeio.converters.verify.numbers import relative_difference
from caffeio.converters.verify.reference import reference_net
from caffeio.converters.verify.samples import sample_inputs
from caffeio.errors import CaffeIOError
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import load_weights
from tests.paths import ROOT

Shapes = Mapping[str, Sequence[int]]
OWN = ("vgg_like", "googlenet_like")


@dataclass
class Model:
    """A prototxt with weights, and what became of it."""

    name: str
    prototxt: Path
    weights: Path
    shapes: Shapes
    files: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # kind of file -> why there is none
    dialect: str = "bvlc"  # of the caffemodel
    outputs: list[list[str]] = field(default_factory=list)  # blob, layer, name in ONNX
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)  # of the net itself against float64


def models(folder: Path | None, scratch: Path) -> Iterator[Model]:
    """Small nets of this repository with random weights, and those that `folder` lists."""
    for name in OWN:
        path = ROOT / "tests" / "nets" / f"{name}.prototxt"
        weights = scratch / f"{name}.caffemodel"
        load_net(path, seed=1).save(weights)
        yield Model(name, path, weights, {})
    if folder is None:
        return
    for entry in json.loads((folder / "index.json").read_text()):
        if "prototxt" in entry:
            place = folder / entry["id"]
            files = place / entry["prototxt"], place / entry["model"]
            yield Model(entry["id"], *files, entry["inputs"] or {})


def prepare(model: Model, scratch: Path) -> dict[str, Any]:
    """Convert a model and compute what clients must find; returns the job for them."""
    place = scratch / model.name
    place.mkdir()
    shapes = {name: tuple(shape) for name, shape in model.shapes.items()}
    sources = [model.prototxt, model.weights]
    for kind in ("onnx", "py", "pt2"):
        _attempt(model, kind, sources, place / f"net.{kind}", Request(input_shape=shapes))
    for dialect in ("bvlc", "ssd", None):
        request = Request(input_shape=shapes, to_dialect=dialect)
        deploy = Request(input_shape=shapes, to_dialect=dialect, deploy=True)
        done = _attempt(model, "prototxt", sources, place / "deploy.prototxt", deploy)
        if done and _attempt(model, "caffemodel", sources, place / "w.caffemodel", request):
            model.dialect = dialect or "as it was"
            plain = Request(dialect=dialect, float32=True, no_verify=True)
            _attempt(model, "caffemodel", [place / "w.caffemodel"], place / "w32.caffemodel", plain)
            break
    inputs = _numbers(model, shapes)
    np.savez(place / "inputs.npz", **inputs)
    return {
        "files": model.files, "inputs": str(place / "inputs.npz"), "outputs": model.outputs,
        "result": str(place / "result"),
    }  # fmt: skip


def _attempt(
    model: Model, kind: str, sources: Sequence[Path], target: Path, request: Request
) -> bool:
    try:
        convert(sources, target, request)
    except CaffeIOError as error:
        model.refused[kind] = str(error).splitlines()[0]
        return False
    model.files[kind] = str(target)
    model.refused.pop(kind, None)
    return True


def _numbers(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Fill in outputs and expected numbers; returns the inputs."""
    onnx = OnnxModel(model.files["onnx"])
    weights = load_weights(model.weights)
    blobs = list(onnx.blobs.values())
    # what load_net makes, with a Softmax where a training net has the loss
    file = read_net(model.prototxt)
    net = reference_net(file, weights, DeployOptions(), blobs, {**shapes, **onnx.inputs})
    reference = NetModel(net)
    everything = sample_inputs(net, 0)
    makers = {top: step.node.name for step in net.steps for top in step.tops}
    found, exact = reference.run(everything), reference.exact(everything) or {}
    for name, blob in onnx.blobs.items():
        model.outputs.append([blob, makers[blob], name])
        model.expected[blob] = found[blob]
        if blob in exact:
            model.rounding[blob] = relative_difference(found[blob], exact[blob])
    return {name: everything[name] for name in onnx.inputs}
