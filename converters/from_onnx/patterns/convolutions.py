"""What goes into the weights or the pads of a convolution or product."""

from __future__ import annotations

import numpy as np

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import (
    alone,
    new_constant,
    pairs,
    pattern,
    replace,
)

_NOTHING = -1e9  # what exporters pad with in front of a MaxPool, if not with -inf


@pattern
def conv_batch_norm(graph: Graph) -> None:
    """A BatchNormalization behind a convolution goes into its weights."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op != "BatchNormalization" or node.attrs.get("training_mode", 0):
            continue
        conv = maker(node.inputs[0])
        if conv is None or conv.op not in ("Conv", "ConvTranspose"):
            continue
        found = [graph.constant(n) for n in (*conv.inputs[1:], *node.inputs[1:5])]
        if any(value is None for value in found):
            continue
        gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in found[-4:])
        factor = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        weight = np.asarray(found[0], np.float64)
        bias = np.asarray(found[1], np.float64) if len(conv.inputs) > 2 else 0.0
        if conv.op == "Conv":
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        else:
            group = int(conv.attrs.get("group", 1))
            scale = factor.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
            split = weight.reshape(group, -1, *weight.shape[1:])
            weight = (split * scale).reshape(weight.shape)
        names = [f"{conv.inputs[1]}", f"{conv.inputs[1]}::bias"]
        names[0] = new_constant(graph, names[0], weight)
        names[1] = new_constant(graph, names[1], (bias - mean) * factor + beta)
        new = Node(conv.op, conv.name, [conv.inputs[0], *names], node.outputs, conv.attrs)
        replace(graph, node, [conv], new)


@pattern
def matmul_add(graph: Graph) -> None:
    """MatMul by a constant and Add of a row: one InnerProduct."""
    maker = alone(graph)
    for node in list(graph.nodes):
        for x, other in pairs(node) if node.op == "Add" else ():
            bias, product = graph.constant(other), maker(x)
            if bias is None or product is None or product.op != "MatMul" or product.input(2):
                continue
            b = graph.constant(product.inputs[1])
            if b is None or b.ndim != 2 or bias.size != b.shape[1]:
                continue
            if graph.shape(node.outputs[0]) != graph.shape(x) or bias.shape[-1:] != b.shape[1:]:
                continue
            row = graph.constants.setdefault(f"{other}::row", bias.reshape(-1))
            assert row.size == b.shape[1]
            inputs = [*product.inputs, f"{other}::row"]
            replace(graph, node, [product], Node("MatMul", product.name, inputs, node.outputs))
            break


@pattern
def pad_conv(graph: Graph) -> None:
    """A Pad with zeros goes into a convolution, one with next to -inf into a MaxPool."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op not in ("Conv", "AveragePool", "MaxPool"):
            continue
        pad = maker(node.inputs[0])
        if pad is None or pad.op != "Pad" or pad.attrs.get("mode", "constant") != "constant":
            continue
        if node.op == "AveragePool" and not _counts_pads(node):
            continue
        pads, value = graph.ints(pad, "pads", 1), graph.number(pad, "value", 2, 0.0)
        rank = len(graph.shape(pad.inputs[0]))
        if pads is None or value is None or graph.ints(pad, "axes", 3) is not None:
            continue
        if value > _NOTHING if node.op == "MaxPool" else value != 0:
            continue
        if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or min(pads) < 0:
            continue
        if any(pads[i] or pads[rank + i] for i in (0, 1)):
            continue
        axes = rank - 2
        own = [int(n) for n in node.attrs.get("pads", [0] * 2 * axes)]
        both = [a + b for a, b in zip(own, [*pads[2:rank], *pads[rank + 2 :]], strict=True)]
        attrs = {**node.attrs, "pads": both, "auto_pad": "NOTSET"}
        if node.op == "AveragePool":
            attrs["count_include_pad"] = 1
        inputs = [pad.inputs[0], *node.inputs[1:]]
        replace(graph, node, [pad], Node(node.op, node.name, inputs, node.outputs, attrs))


def _counts_pads(node: Node) -> bool:
    """Whether zeros around an average may become its pads: no pads yet, floor, whole windows."""
    own = node.attrs.get("pads", [])
    return not any(own) and not node.attrs.get("ceil_mode", 0)
