"""Fewer nodes that compute the same: what is constant is computed, factors go into weights.

BatchNormalization, Mul, Add, Sub and Div of constants one for each channel go into the Conv,
ConvTranspose, Gemm or BatchNormalization before them, where nothing else reads what that makes.
Only what is exact but for rounding is done; products are formed in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from caffeio.converters.onnx.build import Built, sweep
from caffeio.converters.onnx.fold_affine import fold_affine, fold_chains
from caffeio.converters.onnx.infer import Dims, Type, infer, proto
from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.layers.onnx.graph import OPSET, OnnxGraph, OnnxNode

_LARGE = 1 << 20  # bytes that a constant may grow to


def fold(built: Built, inputs: Mapping[str, Dims]) -> tuple[int, int]:
    """Fold a graph that is written for `OPSET`; the numbers of nodes before and after.

    `inputs` are the shapes of its inputs, None for sizes that may be any.
    """
    graph, before = built.graph, len(built.graph.nodes)
    ends = {*built.outputs.values()}
    while True:
        count = len(graph.nodes)
        types = infer(graph, inputs, built.elements)
        _compute(graph, types, ends)
        _merge_copies(graph, ends)
        _drop_nothings(graph, types, ends)
        fold_affine(graph, types, ends)
        fold_chains(graph, ends)
        sweep(built)
        if len(graph.nodes) == count:
            return before, count


def _compute(graph: OnnxGraph, types: Mapping[str, Type], ends: set[str]) -> None:
    """Make constants of what depends on constants and on fixed shapes only."""
    for node in graph.nodes:
        dims = types[node.inputs[0]].dims if node.inputs and node.inputs[0] in types else None
        if node.op_type == "Shape" and dims is not None and None not in dims:
            part = dims[node.attributes.get("start", 0) : node.attributes.get("end")]
            graph.constants[node.outputs[0]] = np.array(part, np.int64)
            graph.shapes[node.outputs[0]] = (len(part),)
    graph.nodes = [n for n in graph.nodes if n.outputs[0] not in graph.constants]
    known, chosen = set(graph.constants), []
    for node in graph.nodes:
        given = [name for name in node.inputs if name]
        if known.issuperset(given) and not ends.intersection(node.outputs):
            chosen.append(node)
            known.update(node.outputs)
    values = _values(graph, chosen) if chosen else {}
    for node in chosen:
        size = sum(values[name].nbytes for name in node.outputs)
        read = sum(graph.constants[name].nbytes for name in node.inputs if name in graph.constants)
        if size <= max(_LARGE, 2 * read) and all(n in graph.constants for n in node.inputs if n):
            for name in node.outputs:
                graph.constants[name] = values[name]
                graph.shapes[name] = values[name].shape
    graph.nodes = [n for n in graph.nodes if n.outputs[0] not in graph.constants]


def _values(graph: OnnxGraph, nodes: list[OnnxNode]) -> dict[str, Any]:
    """What `nodes` make of constants."""
    onnx = import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    used = {name for node in nodes for name in node.inputs if name in graph.constants}
    tensors = [numpy_helper.from_array(np.asarray(graph.constants[n]), n) for n in sorted(used)]
    made = [onnx.ValueInfoProto(name=name) for node in nodes for name in node.outputs]
    whole = helper.make_graph([proto(node) for node in nodes], "constants", [], made, tensors)
    imports = [helper.make_opsetid("", OPSET)]
    return OnnxRunner(helper.make_model(whole, opset_imports=imports, ir_version=8))({})


def _merge_copies(graph: OnnxGraph, ends: set[str]) -> None:
    """Let equal constants, and equal operators on the same values, be one."""
    names: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, array in graph.constants.items():
        if array.nbytes <= _LARGE:
            key = (array.dtype.str, array.shape, array.tobytes())
            names[name] = seen.setdefault(key, name)
    kept: list[OnnxNode] = []
    made: dict[Any, OnnxNode] = {}
    for node in graph.nodes:
        node.inputs = [names.get(name, name) for name in node.inputs]
        same = made.setdefault(_key(node), node)
        if same is node or ends.intersection(node.outputs):
            kept.append(node)
        else:
            names.update(zip(node.outputs, same.outputs, strict=True))
    graph.nodes = kept


def _key(node: OnnxNode) -> Any:
    attributes = tuple(
        (k, v.tobytes() if isinstance(v, np.ndarray) else str(v))
        for k, v in sorted(node.attributes.items())
    )
    return (node.op_type, tuple(node.inputs), attributes, len(node.outputs))


def _drop_nothings(graph: OnnxGraph, types: Mapping[str, Type], ends: set[str]) -> None:
    """Leave out operators whose output is their input, and the first of two that move axes."""
    names: dict[str, str] = {}
    makers: dict[str, OnnxNode] = {}
    kept: list[OnnxNode] = []
    for node in graph.nodes:
        node.inputs = [names.get(name, name) for name in node.inputs]
        _join(graph, node, makers.get(node.inputs[0]) if node.inputs else None, types)
        same = _same(graph, node, types)
        if same and not ends.intersection(node.outputs):
            names[node.outputs[0]] = same
            continue
        kept.append(node)
        makers.update(dict.fromkeys(node.outputs, node))
    graph.nodes = kept


def _same(graph: OnnxGraph, node: OnnxNode, types: Mapping[str, Type]) -> str:
    """The input that the output of `node` is; "" if it is another value."""
    first = node.inputs[0] if node.inputs else ""
    if node.op_type == "Identity":
        return first
    if node.op_type == "Transpose":
        order = list(node.attributes["perm"])
        return first if order == sorted(order) else ""
    if node.op_type in ("Mul", "Div", "Add", "Sub"):
        neutral = 1 if node.op_type in ("Mul", "Div") else 0
        sides = [node.inputs] + ([node.inputs[::-1]] if node.op_type in ("Mul", "Add") else [])
        for value, other in sides:
            operand = graph.constants.get(other)
            if operand is None or not (operand == neutral).all():
                continue
            small = operand.size == 1 and operand.ndim <= len(_dims(types, value) or ())
            if small or operand.ndim == 0 or _keeps_shape(types, value, node.outputs[0]):
                return value
        return ""
    keeps = node.op_type in ("Reshape", "Flatten", "Expand")
    return first if keeps and _keeps_shape(types, first, node.outputs[0]) else ""


def _keeps_shape(types: Mapping[str, Type], before: str, after: str) -> bool:
    """Whether two values surely have the same shape."""
    dims = _dims(types, before)
    return dims is not None and None not in dims and dims == _dims(types, after)


def _dims(types: Mapping[str, Type], name: str) -> Dims | None:
    return types[name].dims if name in types else None


def _join(
    graph: OnnxGraph, node: OnnxNode, before: OnnxNode | None, types: Mapping[str, Type]
) -> None:
    """Let `node` read what the node before it reads, where both move axes or both change shapes."""
    if before is None:
        return
    shapes = ("Reshape", "Flatten")
    if node.op_type == before.op_type == "Transpose":
        order = before.attributes["perm"]
        node.attributes = {"perm": [order[i] for i in node.attributes["perm"]]}
        node.inputs = list(before.inputs)
    elif node.op_type in shapes and before.op_type in shapes:
        after = _dims(types, node.outputs[0])
        if after is not None and None not in after:
            name = graph.fresh(f"{node.layer}.shape")
            graph.constants[name] = np.array(after, np.int64)
            graph.shapes[name] = (len(after),)
            node.op_type, node.attributes = "Reshape", {}
            node.inputs = [before.inputs[0], name]
