"""SSD's Normalize, as our own exporter writes it."""

from __future__ import annotations

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import alone, pairs, pattern, replace, scalar


@pattern
def unit_norm(graph: Graph) -> None:
    """x / sqrt(sum of squares over the channels + eps) * scale: Normalize."""
    maker = alone(graph)
    for node in list(graph.nodes):
        for product, other in pairs(node) if node.op == "Mul" else ():
            found = _parts(graph, maker(product))
            scale, shape = graph.constant(other), graph.shape(node.outputs[0])
            if found is None or scale is None or len(shape) != 4:
                continue
            x, eps, parts = found
            if scale.size != shape[1] or scale.shape[-3:] != (shape[1], 1, 1):
                continue
            inputs = [x, other]
            new = Node("UnitNorm", node.name, inputs, node.outputs, {"eps": eps})
            replace(graph, node, parts, new)
            break


def _parts(graph: Graph, quotient: Node | None) -> tuple[str, float, list[Node]] | None:
    """x, eps, and the nodes from the sum of squares to the quotient."""
    maker = alone(graph)
    if quotient is None or quotient.op != "Div":
        return None
    root = maker(quotient.inputs[1])
    line = maker(root.inputs[0]) if root is not None and root.op == "Sqrt" else None
    total = maker(line.inputs[0]) if line is not None and line.op == "Add" else None
    eps = scalar(graph, line.inputs[1]) if line is not None and line.op == "Add" else None
    if root is None or line is None or total is None or eps is None:
        return None
    over = graph.ints(total, "axes", 1)
    fits = total.op == "ReduceSumSquare" and over == [1] and total.attrs.get("keepdims", 1)
    if not fits or total.inputs[0] != quotient.inputs[0]:
        return None
    return quotient.inputs[0], eps, [total, line, root, quotient]
