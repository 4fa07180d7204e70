"""Nets as ONNX models: `Layer.onnx` of every layer, written as one file and checked by running it.

Opset 17 unless another is chosen, with the IR version that came with it: onnxruntime 1.12 and all
later ones read it. Blobs keep Caffe's names
(the last value of an in-place chain has the blob's), nodes have their layers' names, initializers
are called "<layer>.<blob>". BatchNorm and the Scale behind it are one BatchNormalization.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from caffeio import __version__
from caffeio.converters.deploy.deploy_net import Options, PathLike, load_deploy_net
from caffeio.converters.onnx.build import Built, build, declared_shapes, located
from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.fold import fold
from caffeio.converters.onnx.infer import proto
from caffeio.converters.onnx.opset import to_opset
from caffeio.converters.onnx.verify import verify_onnx
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.opened import open_map
from caffeio.proto.weights.load import Weights

EXTERNAL = 2_000_000_000  # bytes of weights from which on they lie in a file of their own
_ALIGN = 4096
Declared = Mapping[str, tuple[int | str | None, ...]]


def export_onnx(
    prototxt: PathLike,
    weights: Weights | PathLike | None,
    out_path: PathLike,
    *,
    outputs: Sequence[str] | None = None,
    dynamic_batch: bool = False,
    external_data: bool | None = None,
    choices: Choices | None = None,
    **options: Any,
) -> list[str]:
    """Write the net of `prototxt` with `weights` as the ONNX model `out_path`.

    `options` are the fields of `deploy.deploy_net.Options`: `input_shapes`, `deploy`,
    `dialect` ... With `dynamic_batch` the first dimension of inputs and outputs may be any. Weights
    of 2 GB or more (or with `external_data`) go to `<out_path>.data`. `choices` has the opset.
    Returns notes on what was left out. Raises UnsupportedError for a layer that has no ONNX form,
    and CaffeIOError.
    """
    chosen = Options(**{"outputs": tuple(outputs or ()), **options})
    net, notes = load_deploy_net(prototxt, weights, chosen)
    built = build(net, outputs or None, dynamic_batch=dynamic_batch)
    notes += finish(built, net, choices or Choices())
    sources = digests(prototxt, weights)
    write(built, net, out_path, external_data=external_data, sources=sources)
    return notes


def finish(built: Built, net: Net, choices: Choices) -> list[str]:
    """Give a built graph the form that is chosen; returns notes.

    Raises UnsupportedError for what a layer cannot have.
    """
    _onnx()
    dims = declared_shapes(built)
    inputs = {name: dims[name] for name in built.inputs}
    if built.graph.dynamic_batch:
        inputs = {name: (None, *shape[1:]) for name, shape in inputs.items()}
    notes = []
    if choices.fold:
        before, after = fold(built, inputs)
        notes.append(f"folded: of {before} nodes {after} are left")
    try:
        to_opset(built.graph, inputs, choices.opset)
    except UnsupportedError as error:
        raise located(net, error) from None
    built.opset = choices.opset
    return notes


def to_model(
    built: Built,
    net: Net,
    *,
    external: str | None = None,
    sources: Mapping[str, str] | None = None,
) -> Any:
    """The ModelProto of a built graph; with `external` its weights are only named, not held.

    `sources` are entries for the metadata, beside the profile and the names of blobs.
    """
    onnx = _onnx()
    helper, graph = onnx.helper, built.graph
    shapes: Declared = declared_shapes(built)
    if graph.dynamic_batch:
        shapes = _symbolic(net, built, shapes)
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    ends = {*built.inputs, *built.outputs.values()}
    whole = helper.make_graph(
        _nodes(built),
        net.name or "net",
        [values[name] for name in built.inputs],
        [values[name] for name in built.outputs.values()],
        _tensors(onnx, graph.constants, external),
        value_info=[values[name] for name in values if name not in ends],
    )
    opset = helper.make_opsetid("", built.opset)
    model = helper.make_model(
        whole,
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
        producer_name="caffeio",
        producer_version=__version__,
    )
    helper.set_model_props(model, {**_metadata(built, net), **(sources or {})})
    return model


def _metadata(built: Built, net: Net) -> dict[str, str]:
    """What a model tells of itself: blobs under other names, the profile, layers as they were."""
    renamed = {blob: name for blob, name in built.outputs.items() if blob != name}
    props = {f"blob:{name}": blob for blob, name in renamed.items()}
    props["caffe:profile"] = net.profile.name
    made = {name for node in built.graph.nodes for name in node.outputs}
    made.update(built.graph.constants)
    made.update(built.inputs)
    for one in built.told:
        if made.issuperset((*one.bottoms, *one.tops, *one.blobs)):
            props.update([one.entry()])
    return props


def digests(prototxt: PathLike, weights: Weights | PathLike | None) -> dict[str, str]:
    """Metadata on the files that a model is made of: their SHA-256 sums; none of a net as text."""
    path = weights.path if isinstance(weights, Weights) else weights
    found = {}
    for key, name in (("net", prototxt), ("weights", path)):
        if name is not None and _is_file(name):
            found[f"caffe:sha256:{key}"] = hashlib.sha256(open_map(name)).hexdigest()
    return found


def _is_file(name: PathLike) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a name: a net as text
        return False


def write(
    built: Built,
    net: Net,
    path: PathLike,
    *,
    external_data: bool | None = None,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Write the model file, and `<path>.data` beside it for weights of 2 GB or more."""
    arrays = built.graph.constants
    size = sum(array.nbytes for array in arrays.values())
    if external_data if external_data is not None else size >= EXTERNAL:
        beside = Path(f"{os.fspath(path)}.data")
        with atomic_write(beside, needed=size, error=CaffeIOError) as file:
            for array in arrays.values():
                file.write(b"\0" * (-file.tell() % _ALIGN))
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        model = to_model(built, net, external=beside.name, sources=sources)
    else:
        model = to_model(built, net, sources=sources)
    with atomic_write(path, error=CaffeIOError) as file:
        file.write(model.SerializeToString())


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError:
        raise UnsupportedError(
            "writing ONNX needs the package onnx: pip install 'caffeio[onnx]'"
        ) from None


def _nodes(built: Built) -> list[Any]:
    """NodeProtos; a layer's only node has the layer's name."""
    nodes = built.graph.nodes
    count: dict[str, int] = {}
    for node in nodes:
        count[node.layer] = count.get(node.layer, 0) + 1
    out, used = [], set()
    numbers: dict[str, int] = {}  # the first that may be free, by stem
    for node in nodes:
        name = stem = node.layer if count[node.layer] == 1 else f"{node.layer}/{node.kind}"
        number = numbers.get(stem, 1)
        while name in used:
            name, number = f"{stem}:{number}", number + 1
        numbers[stem] = number
        used.add(name)
        out.append(proto(node, name))
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
    inner = {name: other.blob_shapes[name] for name in declared if name in other.blob_shapes}
    shapes = inner | {n: other.blob_shapes[blob] for blob, n in built.outputs.items()} | longer
    batches = {shape[0] for shape in inputs.values() if shape}

    def dim(axis: int, n: int | str | None, more: int) -> int | str | None:
        if n is None or n == more:
            return n
        return "N" if axis == 0 and n in batches and more - 1 == n else None

    return {
        name: tuple(dim(i, *pair) for i, pair in enumerate(zip(declared[name], shape, strict=True)))
        for name, shape in shapes.items()
    }


__all__ = ["export_onnx", "to_model", "verify_onnx", "write"]
