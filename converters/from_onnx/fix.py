"""A Model as it is compiled: float32, fixed input shapes, the outputs that are wanted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.model import Model, array_of
from caffeio.errors import CaffeIOError, UnsupportedError

HALVES = (10, 11, 16)  # TensorProto.FLOAT16, DOUBLE, BFLOAT16
FLOAT, DOUBLE = 1, 11
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16)  # TensorProto's types that floats can be

Shapes = Mapping[str, Sequence[int]]


def fixed(model: Model, shapes: Shapes, outputs: Sequence[str] = ()) -> Model:
    """A copy of the model with every input shape fixed, in float32, without functions.

    `shapes` gives shapes by input name, `outputs` the values to stop at. Dimensions that are not
    given are the model's own, 1 for an unknown first one. Raises UnsupportedError if another
    dimension is unknown, naming what `--input-shape` wants.
    """
    work = _without_functions(model.copy())
    graph = work.graph
    _dense(graph)
    _float32(work)
    weights = {tensor.name for tensor in graph.initializer} | work.weights.keys()
    kept = [item for item in graph.input if item.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)
    names = [item.name for item in kept]
    if unknown := sorted(set(shapes) - set(names)):
        raise UnsupportedError(
            f"--input-shape names {unknown[0]!r}, but the model's inputs are {', '.join(names)}"
        )
    for item in graph.input:
        _fix(item, shapes.get(item.name))
    del graph.value_info[:]
    _cut(graph, outputs)
    _once(graph)
    for item in graph.output:
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.ClearField("shape")
    return work


def _without_functions(model: Model) -> Model:
    """The model with the nodes of its functions in their places."""
    if not model.proto.functions:
        return model
    inliner = import_module("onnx.inliner")
    return Model(inliner.inline_local_functions(model.runnable()), model.weights, model.files)


def _dense(graph: Any) -> None:
    """Write sparse tensors out."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_written_out(sparse))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                dense = _written_out(attribute.sparse_tensor)
                attribute.Clear()
                attribute.name, attribute.type = "value", attribute.TENSOR
                attribute.t.CopyFrom(dense)


def _written_out(sparse: Any) -> Any:
    """A TensorProto of a SparseTensorProto, whose indices are flat or (numbers, axes)."""
    import onnx

    values, indices = array_of(sparse.values), array_of(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except (IndexError, ValueError) as error:
        raise CaffeIOError(f"tensor {sparse.values.name!r} is damaged: {error}") from None
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def _once(graph: Any) -> None:
    """Name each output once, and no two nodes alike: runtimes want it so."""
    outputs = {item.name: item for item in graph.output}
    if len(outputs) < len(graph.output):
        kept = [type(item).FromString(item.SerializeToString()) for item in outputs.values()]
        del graph.output[:]
        graph.output.extend(kept)
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if node.name in seen and node.name:
            node.name = f"{node.name}_{number}"
        seen.add(node.name)


def _fix(item: Any, given: Sequence[int] | None) -> None:
    _refuse_kind(item)
    dims = item.type.tensor_type.shape.dim
    if given is not None:
        if item.type.tensor_type.HasField("shape") and len(dims) != len(given):
            raise UnsupportedError(
                f"input {item.name!r} has {len(dims)} axes, not {len(given)} as in --input-shape"
            )
        fix = [dim.dim_value for dim in dims]
        for axis, (have, want) in enumerate(zip(fix, given, strict=False)):
            if have and have != want and axis:
                raise UnsupportedError(
                    f"input {item.name!r}: the model fixes axis {axis} at {have}, and "
                    f"--input-shape says {want}"
                )
        found = list(given)
    else:
        found = [dim.dim_value for dim in dims]
        if found and not found[0]:
            found[0] = 1
        if not all(found) or not item.type.tensor_type.HasField("shape"):
            said = ",".join(str(n) if n else "?" for n in found) or "N,C,H,W"
            raise UnsupportedError(
                f"the shape of input {item.name!r} is not in the model: give "
                f"--input-shape {item.name}={said} with numbers"
            )
    item.type.tensor_type.shape.ClearField("dim")
    for size in found:
        item.type.tensor_type.shape.dim.add(dim_value=size)


def _refuse_kind(item: Any) -> None:
    """Raise UnsupportedError for an input that holds no numbers which floats can be."""
    import onnx

    kind = item.type.tensor_type.elem_type
    if not item.type.HasField("tensor_type"):
        said = f"is no tensor but of {item.type.WhichOneof('value') or 'an unknown type'}"
    elif kind not in _NUMBERS:
        said = f"holds {onnx.TensorProto.DataType.Name(kind)}"
    else:
        return
    raise UnsupportedError(f"input {item.name!r} {said}: Caffe's blobs are floats")


def _cut(graph: Any, outputs: Sequence[str]) -> None:
    """Make the values called `outputs` the only outputs."""
    if not outputs:
        return
    import onnx

    known = {item.name: item for item in graph.output}
    made = {name for node in graph.node for name in node.output}
    by_node = {node.name: node.output[0] for node in graph.node if node.name}
    chosen = []
    for wanted in outputs:
        name = wanted if wanted in made else by_node.get(wanted, "")
        if not name:
            raise UnsupportedError(
                f"--output-blob {wanted}: the model has no value and no node of that name"
            )
        chosen.append(known.get(name) or onnx.ValueInfoProto(name=name))
    del graph.output[:]
    graph.output.extend(chosen)
    needed, keep = {item.name for item in chosen}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(_captured(node))
            keep.append(node)
    nodes = keep[::-1]
    del graph.node[:]
    graph.node.extend(nodes)
    inputs = [item for item in graph.input if item.name in needed]
    del graph.input[:]
    graph.input.extend(inputs)


def _captured(node: Any) -> set[str]:
    """Values of the outer graph that the graphs inside a node may read."""
    out: set[str] = set()
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                out.update(inner.input)
                out.update(_captured(inner))
            out.update(item.name for item in graph.output)
    return out


def _float32(model: Model) -> None:
    """Make float32 of float16, bfloat16 and double: Caffe's blobs are float32."""
    retype(model, HALVES, FLOAT)


def retype(model: Model, kinds: Collection[int], to: int) -> None:
    """Make numbers of the types `kinds` (of TensorProto) numbers of the type `to`, in place."""
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
    dtypes = {onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in kinds}
    dtypes.discard(dtype)  # what onnx before 1.19 takes for bfloat16
    for name, array in model.weights.items():
        if array.dtype in dtypes:
            model.weights[name] = array.astype(dtype)
    _retype_graph(model.graph, kinds, to)


def _retype_graph(graph: Any, kinds: Collection[int], to: int) -> None:
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(to)

    def single(tensor: Any) -> None:
        if tensor.data_type in kinds:
            array = array_of(tensor).astype(dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    for tensor in graph.initializer:
        single(tensor)
    for item in (*graph.input, *graph.output):
        if item.type.tensor_type.elem_type in kinds:
            item.type.tensor_type.elem_type = to
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_datatype") and attribute.i in kinds:
                attribute.i = to
            if attribute.HasField("t"):
                single(attribute.t)
            if attribute.HasField("g"):
                _retype_graph(attribute.g, kinds, to)
