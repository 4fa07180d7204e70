"""Run an ONNX model against the net that it was made of, as the user's files have it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from caffeio.converters.deploy.deploy_net import DeployOptions, PathLike
from caffeio.converters.onnx.half import HALF
from caffeio.converters.onnx.pictures import PictureInput, PictureOptions, find_pictures
from caffeio.converters.verify.check import Checked, before_probabilities, check
from caffeio.converters.verify.models import OnnxModel, RunnableModel
from caffeio.converters.verify.reference import own_data, predictions, reference_net
from caffeio.errors import UnsupportedError
from caffeio.net.net import Net
from caffeio.profiles import choose_profile
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.weights.load import Weights, load_weights

Shape = tuple[int, ...]


def verify_onnx(
    prototxt: PathLike,
    weights: Weights | PathLike | None,
    onnx_path: PathLike,
    *,
    batch: int | None = None,
    **options: Any,
) -> float:
    """Run the model in onnxruntime and the net of the files on the same inputs.

    The net is what `caffeio.load_net` makes of the files in TEST, not what the export has made of
    them. Returns the largest max|a - b| / max|b| of all outputs and inputs (max|a - b| of
    probabilities), infinite where shapes, nans or infinities differ. `batch` is that of a model
    with a dynamic one (default 2). `options` are those of the export. Raises UnsupportedError if
    onnxruntime is not installed, or if the net yields no finite number, so that nothing can be
    compared.
    """
    return check_onnx(prototxt, weights, onnx_path, batch=batch, **options).worst


def check_onnx(
    prototxt: PathLike,
    weights: Weights | PathLike | None,
    onnx_path: PathLike,
    *,
    batch: int | None = None,
    pictures: PictureOptions | None = None,
    client: str = "",
    **given: Any,
) -> Checked:
    """What `verify_onnx` finds, blob by blob.

    A model for any size is run at the sizes that its metadata tell as well. With `pictures` the
    model takes pictures, and the net what Caffe's transformer makes of them. With the client
    "opencv" OpenCV runs the model, and the rows of detections are a set.
    """
    options = DeployOptions(**given)
    file = read_net(prototxt, dialect=options.dialect)
    arrays = weights
    if weights is not None and not isinstance(weights, Weights):
        arrays = load_weights(weights, dialect=options.dialect)
    assert arrays is None or isinstance(arrays, Weights)
    graph, props = _signature(onnx_path)
    blobs = [props.get(f"blob:{o.name}", o.name) for o in graph.output]
    half: set[str] = set()
    if any(t.data_type == HALF for t in graph.initializer):
        half = {name for node in graph.node for name in node.output}
    job = _Job(file, arrays, options, blobs, pictures, client, props, half)
    sizes = _named_sizes(graph, batch or 2)
    found = [job.run(onnx_path, shapes) for shapes in _tried(graph, props, sizes)]
    for other in found[1:]:
        found[0].add(other)
    return found[0]


@dataclass
class _Job:
    """The files that a model is held against, and its outputs as blobs."""

    file: NetFile
    weights: Weights | None
    options: DeployOptions
    blobs: list[str]
    pictures: PictureOptions | None
    client: str
    props: dict[str, str]
    half: set[str]  # the values of a model in float16; of others none

    def run(self, onnx_path: PathLike, shapes: dict[str, Shape]) -> Checked:
        """Compare at the shapes of the model's inputs."""
        own = {name: shape for name, shape in shapes.items() if name not in self.options.inputs}
        known: dict[str, Shape] = {n: tuple(s) for n, s in self.options.input_shapes.items()}
        known.update(own)
        if self.pictures is not None or self.options.inputs:
            known = {**self._sources(), **known}
        pictures = None
        if self.pictures is not None:
            profile = choose_profile(self.options.profile, self.file.dialect)
            image = next(name for name in own if name not in self._sources())
            sources = {n: s for n, s in known.items() if n != image}
            pictures = find_pictures(self.file, self.options, self.pictures, profile, sources)
            pictures.shape = shapes[image]
            known = {**sources, pictures.blob: pictures.made}
        plain = replace(self.options, inputs=())
        net = reference_net(self.file, self.weights, plain, self.blobs, known)
        outputs, note = self.blobs, ""
        if self.half and not self.client:  # OpenCV shows nothing but the outputs
            outputs, note = _instead_of_rows(net, self.blobs, self.half)
        own_inputs = own_data(net, self.file, plain, own) if pictures is None else None
        found = check(
            net,
            self._model(onnx_path, [*before_probabilities(net, outputs), *outputs], shapes),
            outputs,
            own_inputs,
            feed=_Feed(image, pictures) if pictures is not None else None,
            pair=_pair if self.client else None,
        )
        found.notes += [note] if note else []
        return found

    def _model(
        self, path: PathLike, shown: Sequence[str], shapes: dict[str, Shape]
    ) -> RunnableModel:
        """The model in the program that it is for."""
        if not self.client:
            return OnnxModel(path, shown, sizes=shapes)
        from caffeio.converters.verify.opencv import CvModel

        names = {k[5:]: v for k, v in self.props.items() if k.startswith("blob:")}
        return CvModel(path, names, shapes)

    def _sources(self) -> dict[str, Shape]:
        """Shapes of the inputs of the whole net."""
        plain = replace(self.options, inputs=(), outputs=())
        return predictions(self.file, self.weights, plain)[1]


def _instead_of_rows(net: Net, blobs: list[str], shown: set[str]) -> tuple[list[str], str]:
    """Outputs to compare of a model in float16, and a note on those that cannot be.

    Rows of detections are a choice: scores that differ in the fourth digit choose other boxes. What
    the choice is made of is compared in their place.
    """
    same = ("Split", "Flatten", "Reshape")
    before = {top: s.bottoms[0] for s in net.steps if s.node.type in same for top in s.tops}
    out, layers = [], []
    for blob in blobs:
        step = next((s for s in reversed(net.steps) if blob in s.tops), None)
        if step is None or not (step.layer.dynamic or step.node.type == "DetectionOutput"):
            out.append(blob)
            continue
        layers.append(step.node.name)
        for name in step.bottoms:
            while name not in shown and name in before:  # folding leaves out what only reshapes
                name = before[name]
            out += [name] if name in shown else []
    note = (
        f"the rows of {', '.join(layers)} are not compared: float16 chooses other boxes; what they "
        "are chosen from is"
    )
    return list(dict.fromkeys(out)), note if layers else ""


def _pair(kind: str, theirs: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two blobs of a layer's type with the rows of OpenCV's detections in the order of ours."""
    from caffeio.converters.verify.opencv import ROWS, same_order

    return same_order(theirs, ours) if kind in ROWS else (theirs, ours)


class _Feed:
    """Pictures for the model, and for the net what becomes of them."""

    def __init__(self, image: str, pictures: PictureInput) -> None:
        self.image, self.pictures = image, pictures

    def __call__(self, at: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of sample `at`."""
        drawn = self.pictures.draw(at)
        made = self.pictures.transform(drawn)
        return {**inputs, self.pictures.blob: made, self.image: drawn}


def _named_sizes(graph: Any, batch: int) -> dict[str, Shape]:
    """Shapes of the model's inputs; a batch that may be any is `batch`."""
    return {
        item.name: tuple(
            d.dim_value if d.HasField("dim_value") else batch
            for d in item.type.tensor_type.shape.dim
        )
        for item in graph.input
    }


def _tried(graph: Any, props: dict[str, str], sizes: dict[str, Shape]) -> list[dict[str, Shape]]:
    """The shapes at which a model is run: with heights and widths that may be any, several."""
    named = {d.dim_param for item in graph.input for d in item.type.tensor_type.shape.dim}
    if not named & {"H", "W"}:
        return [sizes]
    out = []
    for one in json.loads(props["caffe:tried"]):
        shapes = {name: tuple(shape) for name, shape in one.items()}
        if "N" in named:
            shapes = {
                n: (sizes[n][0], *shape[1:]) if shape else shape for n, shape in shapes.items()
            }
        out.append(shapes)
    return out


def _signature(path: PathLike) -> tuple[Any, dict[str, str]]:
    """The graph of a model, and its metadata."""
    try:
        onnx = import_module("onnx")
    except ImportError:
        raise UnsupportedError("reading ONNX needs the package onnx") from None
    model = onnx.load(path, load_external_data=False)
    return model.graph, {entry.key: entry.value for entry in model.metadata_props}


__all__ = ["check_onnx", "verify_onnx"]
