"""Activations that exporters take apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import (
    alone,
    pairs,
    pattern,
    replace,
    scalar,
)


@pattern
def swish(graph: Graph) -> None:
    """x * Sigmoid(x)."""
    _gated(graph, "Sigmoid", "Swish", lambda node: True)


@pattern
def hard_swish(graph: Graph) -> None:
    """x * HardSigmoid(x)."""
    _gated(
        graph,
        "HardSigmoid",
        "HardSwish",
        lambda n: (
            bool(np.isclose(n.attrs.get("alpha", 0.2), 1 / 6)) and n.attrs.get("beta", 0.5) == 0.5
        ),
    )


@pattern
def scaled_swish(graph: Graph) -> None:
    """x * Sigmoid(beta * x)."""
    maker = alone(graph)
    for node in list(graph.nodes):
        for x, gated in pairs(node) if node.op == "Mul" else ():
            gate = maker(gated)
            line = maker(gate.inputs[0]) if gate is not None and gate.op == "Sigmoid" else None
            if gate is None or line is None or line.op != "Mul":
                continue
            beta = scalar(graph, line.inputs[1])
            if line.inputs[0] == x and beta is not None:
                made = Node("Swish", node.name, [x], node.outputs, {"alpha": beta})
                replace(graph, node, [gate, line], made)
                break


def _gated(graph: Graph, gate: str, new: str, fits: Callable[[Node], bool]) -> None:
    maker = alone(graph)
    for node in list(graph.nodes):
        for x, gated in pairs(node) if node.op == "Mul" else ():
            found = maker(gated)
            if found is not None and found.op == gate and found.inputs[0] == x and fits(found):
                made = Node(new, node.name, [x], node.outputs)
                replace(graph, node, [found], made)
                break


@pattern
def clipped_line(graph: Graph) -> None:
    """Clip(x + 3, 0, 6) / 6 is HardSigmoid(x); times x it is HardSwish."""
    maker = alone(graph)
    for node in list(graph.nodes):
        factor = _factor(graph, node)
        if factor is None or not np.isclose(factor[1], 1 / 6):
            continue
        parts: list[Node] = []
        bound, x = maker(factor[0]), ""
        if bound is not None and bound.op == "Mul":  # x * Clip(..) / 6
            for a, b in pairs(bound):
                line = _hard_line(graph, maker, b)
                if line and line[0] == a:
                    parts, x = [bound, *line[1]], a
            kind = "HardSwish"
        else:
            line = _hard_line(graph, maker, factor[0])
            if line:
                parts, x = line[1], line[0]
            kind = "HardSigmoid"
        if x:
            attrs = {"alpha": 1 / 6, "beta": 0.5} if kind == "HardSigmoid" else {}
            replace(graph, node, parts, Node(kind, node.name, [x], node.outputs, attrs))
            maker = alone(graph)
    hard_swish(graph)


def _factor(graph: Graph, node: Node) -> tuple[str, float] | None:
    """The value and the number that a Mul or Div multiplies it with."""
    if node.op == "Div" and (number := scalar(graph, node.inputs[1])):
        return node.inputs[0], 1 / number
    if node.op == "Mul":
        for x, other in pairs(node):
            number = scalar(graph, other)
            if number is not None:
                return x, number
    return None


def _hard_line(
    graph: Graph, maker: Callable[[str], Node | None], name: str
) -> tuple[str, list[Node]] | None:
    """The x of Clip(x + 3, 0, 6), and the nodes."""
    clip = maker(name)
    if clip is None or clip.op != "Clip":
        return None
    low, high = graph.number(clip, "min", 1, -np.inf), graph.number(clip, "max", 2, np.inf)
    line = maker(clip.inputs[0])
    if (low, high) != (0.0, 6.0) or line is None or line.op != "Add":
        return None
    for x, other in pairs(line):
        if scalar(graph, other) == 3.0:
            return x, [clip, line]
    return None


@pattern
def mish(graph: Graph) -> None:
    """x * Tanh(Softplus(x))."""
    maker = alone(graph)
    for node in list(graph.nodes):
        for x, gate in pairs(node) if node.op == "Mul" else ():
            tanh = maker(gate)
            plus = maker(tanh.inputs[0]) if tanh is not None and tanh.op == "Tanh" else None
            if tanh and plus is not None and plus.op == "Softplus" and plus.inputs[0] == x:
                replace(graph, node, [tanh, plus], Node("Mish", node.name, [x], node.outputs))
                break


@pattern
def gelu(graph: Graph) -> None:
    """x * (1 + Erf(x / sqrt(2))) / 2, in whatever order it is multiplied."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op != "Mul":
            continue
        leaves, parts = _leaves(graph, maker, node)
        numbers = [scalar(graph, name) for name in leaves]
        product = float(np.prod([n for n in numbers if n is not None]))
        values = [name for name, n in zip(leaves, numbers, strict=True) if n is None]
        if len(values) != 2 or not np.isclose(product, 0.5):
            continue
        for x, gate in (values, values[::-1]):
            found = _erf_gate(graph, maker, gate)
            if found and found[0] == x:
                made = Node("Gelu", node.name, [x], node.outputs)
                replace(graph, node, [*parts, *found[1]], made)
                maker = alone(graph)
                break


def _leaves(
    graph: Graph, maker: Callable[[str], Node | None], node: Node
) -> tuple[list[str], list[Node]]:
    """What a product multiplies, through products that nothing else reads; and those products."""
    leaves: list[str] = []
    parts: list[Node] = []
    for name in node.inputs:
        inner = maker(name)
        if inner is not None and inner.op == "Mul" and len(parts) < 4:
            found, more = _leaves(graph, maker, inner)
            leaves += found
            parts += [inner, *more]
        else:
            leaves.append(name)
    return leaves, parts


def _erf_gate(
    graph: Graph, maker: Callable[[str], Node | None], name: str
) -> tuple[str, list[Node]] | None:
    """The x of 1 + Erf(x / sqrt(2)), and the nodes."""
    plus = maker(name)
    if plus is None or plus.op != "Add":
        return None
    for inner, other in pairs(plus):
        erf = maker(inner)
        if scalar(graph, other) != 1.0 or erf is None or erf.op != "Erf":
            continue
        line = maker(erf.inputs[0])
        factor = _factor(graph, line) if line is not None else None
        if line is not None and factor and np.isclose(factor[1], 2**-0.5):
            return factor[0], [plus, erf, line]
    return None


@pattern
def two_bounds(graph: Graph) -> None:
    """Min of Max, or Max of Min, with numbers: a Clip."""
    maker = alone(graph)
    for node in list(graph.nodes):
        found = _bound(graph, node)
        inner = maker(found[0]) if found else None
        before = _bound(graph, inner) if inner is not None else None
        if found is None or inner is None or before is None or inner.op == node.op:
            continue
        low, high = (before[1], found[1]) if node.op == "Min" else (found[1], before[1])
        if node.op == "Max":
            high = max(low, high)  # the last one wins
        attrs = {"min": min(low, high), "max": high}
        replace(graph, node, [inner], Node("Clip", node.name, [before[0]], node.outputs, attrs))
        maker = alone(graph)


def _bound(graph: Graph, node: Node) -> tuple[str, float] | None:
    """The value that a Max or Min with one number bounds, and the number."""
    for x, other in pairs(node) if node.op in ("Max", "Min") else ():
        number = scalar(graph, other)
        if number is not None and graph.shape(node.outputs[0]) == graph.shape(x):
            return x, number
    return None
