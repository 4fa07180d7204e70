"""Nets as ONNX models: `Layer.onnx` of every layer, written as one file and checked by running it.

Opset 17, IR version 8, which onnxruntime 1.12 and all later ones read. Blobs keep Caffe's names
(the last value of an in-place chain has the blob's), nodes have their layers' names, initializers
are called "<layer>.<blob>". BatchNorm and the Scale behind it are one BatchNormalization.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffeio import __version__
from caffeio.converters.deploy.deploy_net import Options, PathLike, load_deploy_net
from caffeio.converters.onnx.build import Built, build, declared_shapes
from caffeio.converters.onnx.samples import sample_inputs
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.layers.onnx.graph import OPSET
from caffeio.net.net import Net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.weights.load import Weights

IR_VERSION = 8
EXTERNAL = 2_000_000_000  # bytes of weights from which on they lie in a file of their own
_ALIGN = 4096
Declared = Mapping[str, tuple[int | str | None, ...]]
_PROBABILITIES = ("Softmax", "Sigmoid")


def export_onnx(
    prototxt: PathLike,
    weights: Weights | PathLike | None,
    out_path: PathLike,
    *,
    outputs: Sequence[str] | None = None,
    dynamic_batch: bool = False,
    external_data: bool | None = None,
    **options: Any,
) -> list[str]:
    """Write the net of `prototxt` with `weights` as the ONNX model `out_path`.

    `options` are the fields of `deploy.deploy_net.Options`: `input_shapes`, `deploy`,
    `dialect` ... With `dynamic_batch` the first dimension of inputs and outputs may be any. Weights
    of 2 GB or more (or with `external_data`) go to `<out_path>.data`. Returns notes on what was
    left out. Raises UnsupportedError for a layer that has no ONNX form, and CaffeIOError.
    """
    net, notes = load_deploy_net(prototxt, weights, Options(**options))
    built = build(net, outputs, dynamic_batch=dynamic_batch)
    write(built, net, out_path, external_data=external_data)
    return notes


def to_model(built: Built, net: Net, *, external: str | None = None) -> Any:
    """The ModelProto of a built graph; with `external` its weights are only named, not held."""
    onnx = _onnx()
    helper, graph = onnx.helper, built.graph
    shapes: Declared = declared_shapes(built)
    if graph.dynamic_batch:
        shapes = _symbolic(net, built, shapes)
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    proto = helper.make_graph(
        _nodes(helper, built),
        net.name or "net",
        [values[name] for name in built.inputs],
        [values[name] for name in built.outputs.values()],
        _tensors(onnx, graph.constants, external),
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="caffeio",
        producer_version=__version__,
    )
    renamed = {blob: name for blob, name in built.outputs.items() if blob != name}
    if renamed:
        helper.set_model_props(model, {f"blob:{name}": blob for blob, name in renamed.items()})
    return model


def write(built: Built, net: Net, path: PathLike, *, external_data: bool | None = None) -> None:
    """Write the model file, and `<path>.data` beside it for weights of 2 GB or more."""
    arrays = built.graph.constants
    size = sum(array.nbytes for array in arrays.values())
    if external_data if external_data is not None else size >= EXTERNAL:
        beside = Path(f"{os.fspath(path)}.data")
        with atomic_write(beside, needed=size, error=CaffeIOError) as file:
            for array in arrays.values():
                file.write(b"\0" * (-file.tell() % _ALIGN))
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        model = to_model(built, net, external=beside.name)
    else:
        model = to_model(built, net)
    with atomic_write(path, error=CaffeIOError) as file:
        file.write(model.SerializeToString())


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError:
        raise UnsupportedError(
            "writing ONNX needs the package onnx: pip install 'caffeio[onnx]'"
        ) from None


def _nodes(helper: Any, built: Built) -> list[Any]:
    """NodeProtos; a layer's only node has the layer's name."""
    nodes = built.graph.nodes
    count: dict[str, int] = {}
    for node in nodes:
        count[node.layer] = count.get(node.layer, 0) + 1
    out, used = [], set()
    for node in nodes:
        name = stem = node.layer if count[node.layer] == 1 else f"{node.layer}/{node.kind}"
        number = 1
        while name in used:
            name, number = f"{stem}:{number}", number + 1
        used.add(name)
        out.append(
            helper.make_node(node.kind, node.inputs, node.outputs, name=name, **node.attributes)
        )
    return out


def _tensors(onnx: Any, arrays: Mapping[str, np.ndarray], external: str | None) -> list[Any]:
    out, offset = [], 0
    for name, array in arrays.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        if external is None:
            tensor.raw_data = np.ascontiguousarray(array).tobytes()
        else:
            offset += -offset % _ALIGN
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": external, "offset": str(offset), "length": str(array.nbytes)}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
            offset += array.nbytes
        out.append(tensor)
    return out


def _symbolic(net: Net, built: Built, declared: Declared) -> Declared:
    """Shapes in which the batch is "N": found by building the net with one more example."""
    inputs = {name: built.graph.shapes[name] for name in built.inputs}
    longer = {name: (shape[0] + 1, *shape[1:]) for name, shape in inputs.items() if shape}
    try:
        other = Net(net.graph, profile=net.profile, input_shapes={**inputs, **longer})
    except CaffeIOError as error:
        raise UnsupportedError(f"the batch cannot be dynamic: {error.message}") from None
    shapes = {name: other.blob_shapes[blob] for blob, name in built.outputs.items()} | longer
    batches = {shape[0] for shape in inputs.values() if shape}

    def dim(axis: int, n: int | str | None, more: int) -> int | str | None:
        if n is None or n == more:
            return n
        return "N" if axis == 0 and n in batches and more - 1 == n else None

    return {
        name: tuple(dim(i, *pair) for i, pair in enumerate(zip(declared[name], shape, strict=True)))
        for name, shape in shapes.items()
    }


def verify_onnx(
    prototxt: PathLike,
    weights: Weights | PathLike | None,
    onnx_path: PathLike,
    *,
    seed: int = 0,
    batch: int | None = None,
    **options: Any,
) -> float:
    """Run the model in onnxruntime and the net here on the same random inputs.

    Returns the largest max|a - b| / max|b| of all outputs (max|a - b| of probabilities), infinite
    where shapes, nans or infinities differ. `batch` is that of a model with a dynamic one (default
    2). `options` are those of the export. Raises UnsupportedError if onnxruntime is not installed,
    or if the net yields no finite number, so that nothing can be compared.
    """
    session = _session(onnx_path)
    shapes = {
        item.name: tuple(n if isinstance(n, int) else batch or 2 for n in item.shape)
        for item in session.get_inputs()
    }
    given = {**options.pop("input_shapes", {}), **shapes}
    net, _ = load_deploy_net(prototxt, weights, Options(input_shapes=given, **options))
    return compare(session, net, sample_inputs(net, seed))


def _session(path: PathLike) -> Any:
    """An onnxruntime session that also gives what goes into a last Softmax or Sigmoid.

    A saturated probability would hide differences.
    """
    try:
        ort = import_module("onnxruntime")
    except ImportError:
        raise UnsupportedError(
            "checking an ONNX model needs the package onnxruntime: pip install 'caffeio[onnx]'"
        ) from None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    model: Any = os.fspath(path)
    if Path(path).stat().st_size < EXTERNAL and not Path(f"{model}.data").exists():
        model = _with_logits(_onnx().load(model)).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _with_logits(model: Any) -> Any:
    outputs = {item.name for item in model.graph.output}
    for node in model.graph.node:
        if node.op_type in _PROBABILITIES and outputs.intersection(node.output):
            model.graph.output.add(name=node.input[0])
    return model


def compare(session: Any, net: Net, inputs: Mapping[str, np.ndarray]) -> float:
    """The largest difference of the session's outputs that are blobs against `net` on `inputs`."""
    names = [item.name for item in session.get_inputs()]
    theirs = session.run(None, {name: inputs[name] for name in names})
    with torch.no_grad():
        net({name: torch.from_numpy(value) for name, value in inputs.items()})
    props = session.get_modelmeta().custom_metadata_map
    blobs = [props.get(f"blob:{item.name}", item.name) for item in session.get_outputs()]
    pairs = {blob: value for blob, value in zip(blobs, theirs, strict=True) if blob in net.blobs}
    if not any(bool(net.blobs[blob].isfinite().any()) for blob in pairs):
        raise UnsupportedError("the net yields no finite number, so there is nothing to compare")
    makers = {top: step.node.type for step in net.steps for top in step.tops}
    return max(
        relative_difference(
            value, net.blobs[blob].numpy(), 1.0 if makers[blob] in _PROBABILITIES else 1e-6
        )
        for blob, value in pairs.items()
    )


def relative_difference(mine: np.ndarray, reference: np.ndarray, least: float = 1e-6) -> float:
    """max|a - b| / max(max|b|, least); infinite when shapes, nans or infinities differ."""
    a, b = np.asarray(mine, np.float64), np.asarray(reference, np.float64)
    odd = ~np.isfinite(b)
    if a.shape != b.shape or not np.array_equal(a[odd], b[odd], equal_nan=True):
        return float("inf")
    a, b = a[~odd], b[~odd]
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), least)) if b.size else 0.0
