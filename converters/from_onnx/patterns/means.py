"""A reduction in two steps is one: exporters write two where a runtime is wrong about one."""

from __future__ import annotations

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import alone, pattern, replace, scalar

# (first, second) -> the operator over all their axes
_TOGETHER = {
    ("ReduceMean", "ReduceMean"): "ReduceMean",
    ("ReduceSum", "ReduceSum"): "ReduceSum",
    ("ReduceL1", "ReduceL1"): "ReduceL1",
    ("ReduceMax", "ReduceMax"): "ReduceMax",
    ("ReduceMin", "ReduceMin"): "ReduceMin",
    ("ReduceSumSquare", "ReduceSum"): "ReduceSumSquare",
}


@pattern
def reduction_of_reduction(graph: Graph) -> None:
    """Two Reduce operators of one kind over different axes."""
    maker = alone(graph)
    for node in list(graph.nodes):
        first = maker(node.inputs[0]) if node.op.startswith("Reduce") and node.inputs else None
        if first is None or (first.op, node.op) not in _TOGETHER:
            continue
        kept = [one.attrs.get("keepdims", 1) for one in (first, node)]
        axes = [graph.ints(one, "axes", 1) for one in (first, node)]
        if kept[0] != kept[1] or not axes[0] or not axes[1]:
            continue
        rank = len(graph.shape(first.inputs[0]))
        before = {axis % rank for axis in axes[0]}
        left = [axis for axis in range(rank) if kept[0] or axis not in before]
        after = {left[axis % len(left)] for axis in axes[1]}
        new = Node(
            _TOGETHER[first.op, node.op], node.name, [first.inputs[0]], node.outputs,
            {"axes": sorted(before | after), "keepdims": kept[0]},
        )  # fmt: skip
        replace(graph, node, [first], new)
        maker = alone(graph)


@pattern
def factor_before_axes_go(graph: Graph) -> None:
    """A factor of what is left of a reduction, before its axes go: they go first."""
    maker = alone(graph)
    for node in list(graph.nodes):
        scaled = maker(node.inputs[0]) if node.op == "Reshape" else None
        if scaled is None or scaled.op != "Mul" or not _one_number(graph, scaled):
            continue
        first = next((one for name in scaled.inputs if (one := maker(name))), None)
        if first is None or not first.op.startswith("Reduce") or not first.attrs.get("keepdims", 1):
            continue
        axes = graph.ints(first, "axes", 1)
        shape = graph.shape(first.outputs[0])
        gone = {axis % len(shape) for axis in axes or range(len(shape))}
        left = tuple(n for axis, n in enumerate(shape) if axis not in gone)
        if graph.shape(node.outputs[0]) != left:
            continue
        first.attrs["keepdims"] = 0
        graph.shapes[first.outputs[0]] = left
        scaled.outputs = node.outputs
        scaled.part_of = sorted({*scaled.part_of, *node.part_of})
        graph.nodes = [one for one in graph.nodes if one is not node]
        maker = alone(graph)


def _one_number(graph: Graph, node: Node) -> bool:
    """Whether a node has a factor that is one number."""
    return any(scalar(graph, name) is not None for name in node.inputs)
