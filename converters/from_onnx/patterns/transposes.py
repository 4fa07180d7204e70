"""Transposes of graphs with channels last: they move down until they meet and cancel.

TensorFlow's exporters and torch's channels-last blocks put a Transpose before and behind what they
compute per channel. An operator behind a Transpose computes the same before it, with its axes and
constants turned back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from caffeio.converters.from_onnx.graph import Array, Dims, Graph, Node
from caffeio.converters.from_onnx.patterns.base import new_constant
from caffeio.converters.from_onnx.patterns.moves import flat_product

_EACH = ("Relu", "Relu6", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid",
         "HardSwish", "Softplus", "Softsign", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal",
         "Clip", "Mish", "Gelu", "Swish", "ThresholdedRelu", "Erf", "Sign", "Not",
         "Cast")  # fmt: skip
_TOGETHER = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum", "Mean", "Concat",
             "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Where")  # fmt: skip
_REDUCES = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
            "ReduceSumSquare", "ReduceLogSumExp", "ArgMax", "ArgMin")  # fmt: skip
Order = tuple[int, ...]
Moved = tuple[Node, Order] | None  # the new node, and the order of its outputs


def cancel_transposes(graph: Graph) -> bool:
    """Let Transposes move down where that leaves fewer of them; true if the graph has changed."""
    before = _count(graph)
    if not before:
        return False
    trial = graph.copy()
    makers: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in trial.nodes:
        made = _passed(trial, node, makers)
        makers.update((name, one) for one in made for name in one.outputs)
        nodes += made
    trial.nodes = nodes
    trial.sweep()
    flat_product(trial)
    if _count(trial) >= before:
        return False
    graph.nodes, graph.constants, graph.shapes = trial.nodes, trial.constants, trial.shapes
    graph.larger, graph.aliases = trial.larger, trial.aliases
    return True


def _count(graph: Graph) -> int:
    """Transposes that move numbers, not only axes of size 1."""
    return sum(
        1
        for node in graph.nodes
        if node.op == "Transpose"
        and [a for a in _order(graph, node) if graph.shape(node.inputs[0])[a] != 1]
        != [a for a, n in enumerate(graph.shape(node.inputs[0])) if n != 1]
    )


def _order(graph: Graph, node: Node) -> Order:
    axes = range(len(graph.shape(node.inputs[0])))
    return tuple(int(a) for a in node.attrs.get("perm", reversed(axes)))


def _passed(graph: Graph, node: Node, makers: dict[str, Node]) -> list[Node]:
    """A node with the Transposes before it moved behind it; the node alone if they cannot."""
    computed = [n for n in dict.fromkeys(node.inputs) if n and graph.constant(n) is None]
    turns = [makers[n] for n in computed if n in makers and makers[n].op == "Transpose"]
    move = _MOVES.get(node.op)
    if move is None or not turns or len(turns) < len(computed):
        return [node]
    orders = {_order(graph, turn) for turn in turns}
    moved = move(graph, node, orders.pop()) if len(orders) == 1 else None
    if moved is None:
        return [node]
    new, behind = moved
    sources = {turn.outputs[0]: turn.inputs[0] for turn in turns}
    new.inputs = [sources.get(name, name) for name in new.inputs]
    new.part_of, new.place = node.part_of, node.place
    return [new, *_behind(graph, new, node.outputs, behind)]


def _behind(graph: Graph, new: Node, outputs: list[str], order: Order) -> list[Node]:
    """Transposes of all outputs of a moved node, which get names of their own."""
    if order == tuple(range(len(order))):
        new.outputs = outputs
        return []
    out = []
    new.outputs = []
    for name in outputs:
        before = f"{name}::turned" if name else ""
        new.outputs.append(before)
        if name:
            graph.shapes[before] = _turned_back(graph.shapes[name], order)
            if graph.larger is not None and name in graph.larger:
                graph.larger[before] = _turned_back(graph.larger[name], order)
            turn = Node("Transpose", new.name, [before], [name], {"perm": list(order)})
            turn.place, turn.part_of = new.place, new.part_of
            out.append(turn)
    return out


def _turned_back(shape: Dims, order: Order) -> Dims:
    return tuple(shape[i] for i in np.argsort(order)) if len(shape) == len(order) else shape


def _copy(node: Node, inputs: Sequence[str] | None = None, **attrs: Any) -> Node:
    return Node(node.op, node.name, list(inputs or node.inputs), [], {**node.attrs, **attrs})


def _each(graph: Graph, node: Node, order: Order) -> Moved:
    """An operator on single numbers, with one input that is computed."""
    return _copy(node), order


def _together(graph: Graph, node: Node, order: Order) -> Moved:
    """An operator on several values: its constants are turned back."""
    inputs = []
    for name in node.inputs:
        value = graph.constant(name)
        if value is None:
            if len(graph.shape(name)) != len(order):
                return None
            inputs.append(name)
        elif value.ndim > len(order):
            return None
        elif value.size == 1 and node.op != "Concat":
            inputs.append(name)
        else:
            wide = value.reshape((1,) * (len(order) - value.ndim) + value.shape)
            back: Array = wide.transpose(np.argsort(order))
            inputs.append(new_constant(graph, name, back))
    if node.op == "Concat":
        axis = order[int(node.attrs["axis"]) % len(order)]
        return _copy(node, inputs, axis=axis), order
    return _copy(node, inputs), order


def _reduce(graph: Graph, node: Node, order: Order) -> Moved:
    """An operator that goes over axes and leaves them or not."""
    named = "axis" if node.op.startswith("Arg") else "axes"
    axes = graph.ints(node, named, 1)
    if named == "axis":
        axes = axes or [0]
    if not axes or node.attrs.get("noop_with_empty_axes"):
        return None
    rank = len(order)
    gone = sorted(order[a % rank] for a in axes)
    told = {named: gone if named == "axes" else gone[0]}
    new = _copy(node, node.inputs[:1], **told)
    if node.attrs.get("keepdims", 1):
        return new, order
    kept = [a for a in order if a not in gone]
    return new, tuple(sorted(kept).index(a) for a in kept)


def _along(graph: Graph, node: Node, order: Order) -> Moved:
    """An operator along one axis; a Softmax before opset 13 goes over all axes from its own on."""
    old = graph.opset < 13 and node.op != "Split" and not node.attrs.get("along")
    axis = int(node.attrs.get("axis", 0 if node.op == "Split" else 1 if old else -1)) % len(order)
    if old and math.prod(graph.shape(node.inputs[0])[axis + 1 :]) != 1:
        return None
    return _copy(node, axis=order[axis], along=1), order


def _pad(graph: Graph, node: Node, order: Order) -> Moved:
    pads, rank = graph.ints(node, "pads", 1), len(order)
    if pads is None or len(pads) != 2 * rank or node.input(3):
        return None
    back = np.argsort(order)
    turned = [pads[side * rank + int(a)] for side in (0, 1) for a in back]
    value = graph.number(node, "value", 2, 0.0)
    if value is None:
        return None
    inputs = [node.inputs[0], "", node.inputs[2]] if node.input(2) else node.inputs[:1]
    return _copy(node, inputs, pads=turned), order


def _product(graph: Graph, node: Node, order: Order) -> Moved:
    """A product of channels, which are the last axis, by constants: a 1 x 1 convolution."""
    weight = graph.constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or len(order) != 4 or order[0] != 0 or order[3] != 1:
        return None
    kernel = new_constant(graph, node.inputs[1], weight.T[:, :, None, None])
    attrs = {"kernel_shape": [1, 1]}
    inputs = [node.inputs[0], kernel, *node.inputs[2:]]  # a row that was added is the bias
    return Node("Conv", node.name, inputs, [], attrs), order


def _transpose(graph: Graph, node: Node, order: Order) -> Moved:
    """Two Transposes are one, or nothing."""
    both = tuple(order[a] for a in _order(graph, node))
    if both == tuple(range(len(both))):
        return Node("Identity", node.name, node.inputs[:1], []), both
    return _copy(node, node.inputs[:1], perm=list(both)), tuple(range(len(both)))


_MOVES: dict[str, Callable[[Graph, Node, Order], Moved]] = {
    **dict.fromkeys(_EACH, _each),
    **dict.fromkeys(_TOGETHER, _together),
    **dict.fromkeys(_REDUCES, _reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Split"), _along),
    "Pad": _pad,
    "MatMul": _product,
    "Transpose": _transpose,
}
