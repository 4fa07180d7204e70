"""Reshapes of Reshapes are one: shapes between them may have more axes than a target takes."""

from __future__ import annotations

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import alone, pattern, replace

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@pattern
def reshape_chain(graph: Graph) -> None:
    """Two in a row are one, to the last shape."""
    for node in list(graph.nodes):
        first = alone(graph)(node.inputs[0]) if node.op in _VIEWS else None
        if first is None or first.op not in _VIEWS:
            continue
        if any(n.input(1) and graph.constant(n.inputs[1]) is None for n in (first, node)):
            continue  # a shape that is computed is refused by name
        new = Node("Reshape", node.name, first.inputs[:1], node.outputs)
        replace(graph, node, [first], new)
