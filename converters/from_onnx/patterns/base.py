"""The register of patterns, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from caffeio.converters.from_onnx.graph import Array, Graph, Node

Pattern = Callable[[Graph], None]
PATTERNS: list[Pattern] = []


def pattern(function: Pattern) -> Pattern:
    """Register a pattern; they run in the order of the files in `__init__`, and in theirs."""
    PATTERNS.append(function)
    return function


def alone(graph: Graph) -> Callable[[str], Node | None]:
    """A function that gives the maker of a value which one node reads, and no output is."""
    readers, makers = graph.readers(), graph.makers()

    def maker(name: str) -> Node | None:
        if len(readers.get(name, [])) != 1 or name in graph.outputs:
            return None
        return makers.get(name)

    return maker


def replace(graph: Graph, last: Node, parts: list[Node], new: Node) -> None:
    """Put `new` where `last` stands; the others go."""
    new.part_of = sorted({place for part in (*parts, last) for place in part.part_of})
    new.place = last.place
    gone = {id(part) for part in parts}
    graph.nodes = [new if node is last else node for node in graph.nodes if id(node) not in gone]


def scalar(graph: Graph, name: str) -> float | None:
    """The number that a constant holds, if it is one number."""
    value = graph.constant(name)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def pairs(node: Node) -> Iterator[tuple[str, str]]:
    """The two inputs of a node, in both orders."""
    if len(node.inputs) == 2:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def new_constant(graph: Graph, name: str, value: Array) -> str:
    """A constant beside the old one, whose name it keeps behind "::"."""
    fresh, n = f"{name}::folded", 1
    while fresh in graph.constants:
        n += 1
        fresh = f"{name}::folded{n}"
    graph.constants[fresh] = value.astype(np.float32)
    return fresh
