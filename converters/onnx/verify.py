"""Run an ONNX model against the net that it was made of, as the user's files have it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from caffeio.converters.deploy.deploy_net import Options, PathLike
from caffeio.converters.verify.check import Checked, before_probabilities, check
from caffeio.converters.verify.models import OnnxModel
from caffeio.converters.verify.reference import own_data, reference_net
from caffeio.errors import UnsupportedError
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import Weights, load_weights


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
    **given: Any,
) -> Checked:
    """What `verify_onnx` finds, blob by blob."""
    options = Options(**given)
    file = read_net(prototxt, dialect=options.dialect)
    arrays = weights
    if weights is not None and not isinstance(weights, Weights):
        arrays = load_weights(weights, dialect=options.dialect)
    assert arrays is None or isinstance(arrays, Weights)
    graph, blobs = _signature(onnx_path)
    shapes = {
        item.name: tuple(
            d.dim_value if d.HasField("dim_value") else batch or 2
            for d in item.type.tensor_type.shape.dim
        )
        for item in graph.input
    }
    net = reference_net(file, arrays, options, blobs, {**options.input_shapes, **shapes})
    model = OnnxModel(onnx_path, [*before_probabilities(net, blobs)], batch or 2)
    return check(net, model, blobs, own_data(net, file, options, shapes))


def _signature(path: PathLike) -> tuple[Any, list[str]]:
    """The graph of a model, and the blobs that its outputs are."""
    try:
        onnx = import_module("onnx")
    except ImportError:
        raise UnsupportedError("reading ONNX needs the package onnx") from None
    model = onnx.load(path, load_external_data=False)
    props = {entry.key: entry.value for entry in model.metadata_props}
    return model.graph, [props.get(f"blob:{o.name}", o.name) for o in model.graph.output]


__all__ = ["check_onnx", "verify_onnx"]
