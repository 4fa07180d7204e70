"""Factors and offsets one for each channel go into the weights before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from caffeio.converters.onnx.infer import Type
from caffeio.layers.onnx.graph import OnnxGraph, OnnxNode

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
Pair = tuple[Any, Any]  # factors and offsets, float64, (channels,)


def fold_affine(graph: OnnxGraph, types: Mapping[str, Type], ends: set[str]) -> None:
    """Put factors and offsets behind a node with weights into its weights."""
    readers = _readers(graph)
    makers: dict[str, OnnxNode] = {}
    kept: list[OnnxNode] = []
    for node in graph.nodes:
        source = _operand(graph, node)
        maker = makers.get(source)
        pair = None
        if maker is not None and readers[source] == 1 and source not in ends:
            pair = _pair(graph, node, source, _channels(graph, maker), types)
        if pair is not None and maker is not None and _put(graph, maker, pair):
            maker.outputs = list(node.outputs)
        else:
            kept.append(node)
            maker = node
        if maker.op_type in (*_WEIGHTED, "BatchNormalization"):
            makers[maker.outputs[0]] = maker
    graph.nodes = kept


def fold_chains(graph: OnnxGraph, ends: set[str]) -> None:
    """Let two Mul, or two Add, of constants one after the other be one."""
    readers = _readers(graph)
    makers: dict[str, OnnxNode] = {}
    kept: list[OnnxNode] = []
    for node in graph.nodes:
        source = _operand(graph, node)
        before = makers.get(source)
        if (
            before is None
            or before.op_type != node.op_type
            or readers[source] != 1
            or source in ends
            or not _join(graph, before, node)
        ):
            kept.append(node)
            before = node
        if node.op_type in ("Mul", "Add") and _constant(graph, before) is not None:
            makers[before.outputs[0]] = before
    graph.nodes = kept


def _readers(graph: OnnxGraph) -> Counter[str]:
    """How often each value is read."""
    return Counter(name for node in graph.nodes for name in node.inputs)


def _constant(graph: OnnxGraph, node: OnnxNode) -> Any | None:
    """The constant operand of a Mul or Add with one; None if there is none of floats."""
    names = [name for name in node.inputs if name in graph.constants]
    found = graph.constants[names[0]] if len(names) == 1 else None
    return found if found is not None and found.dtype.kind == "f" else None


def _join(graph: OnnxGraph, first: OnnxNode, second: OnnxNode) -> bool:
    """Put the constant of `second` into `first`; False if it cannot be done."""
    a, b = _constant(graph, first), _constant(graph, second)
    if a is None or b is None:
        return False
    pair = a.astype(np.float64), b.astype(np.float64)
    try:
        value = pair[0] * pair[1] if first.op_type == "Mul" else pair[0] + pair[1]
    except ValueError:
        return False
    new = value.astype(np.float32)
    if new.size > max(a.size, b.size) or not np.isfinite(new).all():
        return False
    if first.op_type == "Mul" and ((new == 0) != (value == 0)).any():
        return False
    name = graph.fresh(f"{first.layer}.factor")
    graph.constants[name], graph.shapes[name] = new, new.shape
    first.inputs = [_operand(graph, first), name]
    first.outputs = list(second.outputs)
    return True


def _operand(graph: OnnxGraph, node: OnnxNode) -> str:
    """The input of a node that may be no constant."""
    if node.op_type in ("Mul", "Add") and node.inputs[0] in graph.constants:
        return node.inputs[1]
    return node.inputs[0] if node.inputs else ""


def _channels(graph: OnnxGraph, maker: OnnxNode) -> int | None:
    """How many channels a node with known weights makes."""
    blobs = [graph.constants.get(name) for name in maker.inputs[1:]]
    if not blobs or any(blob is None for blob in blobs):
        return None
    first = blobs[0]
    assert first is not None
    if maker.op_type == "ConvTranspose":
        return int(first.shape[1]) * int(maker.attributes.get("group", 1))
    if maker.op_type == "Gemm":
        return int(first.shape[0 if maker.attributes.get("transB") else 1])
    return int(first.shape[0])


def _pair(
    graph: OnnxGraph, node: OnnxNode, source: str, channels: int | None, types: Mapping[str, Type]
) -> Pair | None:
    """Factors and offsets of `node` for each channel of `source`; None if it is something else."""
    if channels is None:
        return None
    if node.op_type == "BatchNormalization":
        blobs = [graph.constants.get(name) for name in node.inputs[1:]]
        if any(blob is None for blob in blobs):
            return None
        scale, bias, mean, variance = (np.asarray(blob, np.float64) for blob in blobs)
        factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return factor, bias - mean * factor
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    other = node.inputs[1] if node.inputs[0] == source else node.inputs[0]
    dims = types[source].dims if source in types else None
    if other not in graph.constants or dims is None:
        return None
    found = _per_channel(graph.constants[other], len(dims), channels)
    if found is None or (node.op_type == "Div" and not (found != 0).all()):
        return None
    if node.op_type in ("Mul", "Div"):
        return (found if node.op_type == "Mul" else 1 / found), np.zeros(channels)
    return np.ones(channels), found if node.op_type == "Add" else -found


def _per_channel(array: np.ndarray, ndim: int, channels: int) -> Any | None:
    """The numbers of a constant for each channel; None if they differ along other axes."""
    if array.ndim > ndim or array.dtype.kind != "f":
        return None
    shape = (1,) * (ndim - array.ndim) + array.shape
    if ndim < 2 or any(n != 1 for i, n in enumerate(shape) if i != 1):
        return None
    flat = array.reshape(-1).astype(np.float64)
    return np.broadcast_to(flat, (channels,)) if flat.size in (1, channels) else None


def _put(graph: OnnxGraph, maker: OnnxNode, pair: Pair) -> bool:
    """Change the blobs of `maker`; False if they cannot hold the new numbers."""
    blobs = [np.asarray(graph.constants[name], np.float64) for name in maker.inputs[1:]]
    factor, offset = pair
    if maker.op_type == "BatchNormalization":
        scale, bias, mean, variance = blobs
        new = [scale * factor, bias * factor + offset, mean, variance]
    else:
        weight = _scaled(maker, blobs[0], factor)
        bias = blobs[1] if len(blobs) > 1 else np.zeros(len(factor))
        new = [weight, np.broadcast_to(bias.reshape(-1), factor.shape) * factor + offset]
    with np.errstate(over="ignore"):
        arrays = [array.astype(np.float32) for array in new]
    if not all(np.isfinite(array).all() for array in arrays):
        return False
    names = []
    for i, array in enumerate(arrays):
        hint = maker.inputs[i + 1] if i + 1 < len(maker.inputs) else f"{maker.layer}.bias"
        name = graph.fresh(hint)
        graph.constants[name], graph.shapes[name] = array, array.shape
        names.append(name)
    maker.inputs = [maker.inputs[0], *names]
    return True


def _scaled(maker: OnnxNode, weight: np.ndarray, factor: Any) -> np.ndarray:
    """Weights whose outputs are multiplied by `factor`."""
    if maker.op_type == "ConvTranspose":
        group = int(maker.attributes.get("group", 1))
        parts = weight.reshape(group, -1, *weight.shape[1:])
        spread = factor.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
        return np.asarray(parts * spread).reshape(weight.shape)
    if maker.op_type == "Gemm" and not maker.attributes.get("transB"):
        return np.asarray(weight * factor[None])
    return np.asarray(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
