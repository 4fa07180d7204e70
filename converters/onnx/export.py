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
from caffeio._json import to_json
from caffeio.converters.deploy.deploy_net import DeployOptions, PathLike, load_deploy_net
from caffeio.converters.onnx.build import Built, build, located
from caffeio.converters.onnx.choices import Choices
from caffeio.converters.onnx.dynamic import find_sizes
from caffeio.converters.onnx.fold import fold
from caffeio.converters.onnx.half import to_half
from caffeio.converters.onnx.infer import proto
from caffeio.converters.onnx.opset import OWN, to_opset
from caffeio.converters.onnx.pictures import PictureOptions, find_pictures
from caffeio.converters.onnx.verify import verify_onnx
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.net.net import Net
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.opened import open_map
from caffeio.proto.weights.load import Weights

EXTERNAL = 2_000_000_000  # bytes of weights from which on they lie in a file of their own
_ALIGN = 4096
LEAST_BESIDE = 64  # bytes: the scales of a Resize are fewer
Props = dict[str, str]


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

    `options` are the fields of `deploy.deploy_net.DeployOptions`: `input_shapes`, `deploy`,
    `dialect` ... With `dynamic_batch` the first dimension of inputs and outputs may be any. Weights
    of 2 GB or more (or with `external_data`) go to `<out_path>.data`. `choices` are those
    of the command's flags. Returns notes on what was left out. Raises UnsupportedError for a layer
    that has no ONNX form, and CaffeIOError.
    """
    chosen = DeployOptions(**{"outputs": tuple(outputs or ()), **options})
    choices = choices or Choices()
    axes = {*choices.dynamic, *(("batch",) if dynamic_batch else ())}
    net, notes = load_deploy_net(prototxt, weights, chosen)
    size = bool(axes & {"height", "width"})
    built = build(
        net,
        outputs or None,
        dynamic_batch="batch" in axes,
        dynamic_size=size,
        unroll=choices.unroll,
        client=choices.client,
    )
    sizes = find_sizes(net, built, outputs or None, axes)
    built.declared, built.tried = dict(sizes.declared), sizes.tried
    notes += sizes.notes
    props = digests(prototxt, weights)
    file = read_net(prototxt, dialect=chosen.dialect)
    props["caffe:dialect"] = file.dialect
    if choices.pictures is not None:
        notes.append(_add_pictures(built, net, file, chosen, choices.pictures, props))
    notes += finish(built, net, choices)
    if any(node.op_type in OWN for node in built.graph.nodes):
        props["caffe:for"] = choices.client
        notes.append("the model has an operator of OpenCV's own: other runtimes refuse it")
    notes += _labelled(net, built, choices.labels, props)
    write(built, net, out_path, external_data=external_data, sources=props)
    return notes


def _add_pictures(
    built: Built,
    net: Net,
    file: NetFile,
    options: DeployOptions,
    choices: PictureOptions,
    props: Props,
) -> str:
    """Put the preprocessing before the net; tells what goes in."""
    shapes = {name: built.graph.shapes[name] for name in built.inputs}
    pictures = find_pictures(file, options, choices, net.profile, shapes)
    dims = built.declared[pictures.blob]
    any_size = not all(isinstance(n, int) for n in dims[1:])
    if any_size and not pictures.takes_any_size:
        raise UnsupportedError(
            "a crop or the image of a mean fixes the size of pictures: --dynamic height and width "
            "do not go with it"
        )
    image = pictures.add(built)
    sides = dims[2:] if any_size else pictures.shape[1:3]
    built.declared[image] = (dims[0], *sides, pictures.shape[3])
    for one in built.tried:
        batch, _, *tried = one.pop(pictures.blob)
        one[image] = (batch, *(tried if any_size else pictures.shape[1:3]), pictures.shape[3])
    props.update(pictures.entry())
    return pictures.note()


def _labelled(net: Net, built: Built, labels: Sequence[str], props: Props) -> list[str]:
    """Put names of classes into the metadata; a note if there are not as many as numbers."""
    if not labels:
        return []
    props["caffe:labels"] = "\n".join(labels)
    shapes = [built.graph.shapes[name] for name in built.outputs.values()]
    if any(len(labels) in shape[1:] for shape in shapes):
        return []
    return [f"there are {len(labels)} labels, and no output has as many channels"]


def finish(built: Built, net: Net, choices: Choices) -> list[str]:
    """Give a built graph the form that is chosen; returns notes.

    Raises UnsupportedError for what a layer cannot have.
    """
    onnx = _onnx()
    newest = onnx.defs.onnx_opset_version()
    if choices.opset > newest:
        raise UnsupportedError(
            f"--opset {choices.opset}: onnx {onnx.__version__}, which is installed, knows opsets "
            f"up to {newest} (pip install --upgrade onnx)"
        )
    _declare(built, net)
    inputs = {
        name: tuple(n if isinstance(n, int) else None for n in built.declared[name])
        for name in built.inputs
    }
    notes = []
    if choices.fold:
        before, after = fold(built, inputs)
        notes.append(f"folded: of {before} nodes {after} are left")
    if choices.half:
        old, new = to_half(built, inputs)
        notes.append(f"float16: the weights have {new:,} bytes in place of {old:,}")
    try:
        to_opset(built.graph, inputs, choices.opset, built.elements)
    except UnsupportedError as error:
        raise located(net, error) from None
    built.opset = choices.opset
    return notes


def _declare(built: Built, net: Net) -> None:
    """Name the sizes of a graph that have no name yet."""
    if not built.declared:
        axes = {"batch"} if built.graph.dynamic_batch else set()
        built.declared = dict(find_sizes(net, built, None, axes).declared)


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
    _declare(built, net)
    there = {*built.inputs, *(name for node in graph.nodes for name in node.outputs)}
    plain = np.dtype(np.float32)
    values = {
        name: helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(built.elements.get(name, plain)), shape
        )
        for name, shape in built.declared.items()
        if name in there
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
    if built.tried:
        props["caffe:tried"] = to_json(built.tried)
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
            for array in filter(_lies_beside, arrays.values()):
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
        name = stem = node.layer if count[node.layer] == 1 else f"{node.layer}/{node.op_type}"
        number = numbers.get(stem, 1)
        while name in used:
            name, number = f"{stem}:{number}", number + 1
        numbers[stem] = number
        used.add(name)
        out.append(proto(node, name))
    return out


def _lies_beside(array: np.ndarray) -> bool:
    """Whether an array is one of weights: runtimes want sizes and scales in the model itself."""
    return array.dtype.kind == "f" and array.nbytes > LEAST_BESIDE


def _tensors(onnx: Any, arrays: Mapping[str, np.ndarray], external: str | None) -> list[Any]:
    out, offset = [], 0
    for name, array in arrays.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        if external is None or not _lies_beside(array):
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


__all__ = ["export_onnx", "to_model", "verify_onnx", "write"]
