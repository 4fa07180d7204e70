"""Several nodes that are one layer in Caffe become one node: what exporters take apart.

Each pattern is a function that changes the graph; it looks for its last node and walks back.
"""

from __future__ import annotations

from caffeio.converters.from_onnx.graph import Graph
from caffeio.converters.from_onnx.patterns import (  # noqa: F401  (they register their patterns)
    activations,
    convolutions,
    means,
    moves,
    norms,
    reshapes,
    unit_norm,
)
from caffeio.converters.from_onnx.patterns.base import PATTERNS
from caffeio.converters.from_onnx.patterns.transposes import cancel_transposes


def fuse(graph: Graph) -> None:
    """Apply all patterns, again where Transposes between them went."""
    again = True
    while again:
        for one in PATTERNS:
            one(graph)
            graph.sweep()
        again = cancel_transposes(graph)
