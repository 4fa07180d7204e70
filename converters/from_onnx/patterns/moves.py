"""Reshapes, Transposes and Slices that are one layer, or go into weights."""

from __future__ import annotations

import itertools

import numpy as np

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import (
    alone,
    new_constant,
    pattern,
    replace,
)
from caffeio.converters.from_onnx.slices import slice_ranges


@pattern
def reshape_transpose_reshape(graph: Graph) -> None:
    """Channel shuffle, DepthToSpace and SpaceToDepth as exporters write them."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op != "Reshape":
            continue
        turn = maker(node.inputs[0])
        first = maker(turn.inputs[0]) if turn is not None and turn.op == "Transpose" else None
        if turn is None or first is None or first.op not in ("Reshape", "Unsqueeze"):
            continue
        start, middle = graph.shape(first.inputs[0]), graph.shape(first.outputs[0])
        end, perm = graph.shape(node.outputs[0]), list(turn.attrs.get("perm", []))
        new = _move(start, middle, perm, end)
        if new is not None:
            new.name, new.inputs, new.outputs = node.name, [first.inputs[0]], node.outputs
            replace(graph, node, [turn, first], new)


def _move(
    start: tuple[int, ...], middle: tuple[int, ...], perm: list[int], end: tuple[int, ...]
) -> Node | None:
    if len(start) != 4 or len(end) != 4 or start[0] != end[0] or middle[0] != start[0]:
        return None
    n, c, h, w = start
    spatial = middle[3:] in ((h, w), (h * w,)) or middle[2:] == (h, w)
    if len(middle) in (4, 5) and perm[:3] == [0, 2, 1] and perm[3:] == list(range(3, len(middle))):
        if end == start and middle[1] * middle[2] == c and spatial:
            return Node("ChannelShuffle", "", [], [], {"group": middle[1]})
        return None
    if len(middle) != 6:
        return None
    a, b, d = middle[1:4]
    if perm in ([0, 1, 4, 2, 5, 3], [0, 3, 4, 1, 5, 2]) and middle[4:] == (h, w):
        crd = perm[1] == 1
        r = (b, d) if crd else (a, b)
        kept = a if crd else d
        if r[0] == r[1] and end == (n, kept, h * r[0], w * r[0]):
            attrs = {"blocksize": r[0], "mode": "CRD" if crd else "DCR"}
            return Node("DepthToSpace", "", [], [], attrs)
    r0, r1 = middle[3], middle[5]
    down = middle[1:] == (c, h // r0, r0, w // r1, r1) and r0 == r1
    if down and end == (n, c * r0 * r0, h // r0, w // r0):
        if perm == [0, 1, 3, 5, 2, 4]:
            return Node("Focus", "", [], [], {"blocksize": r0, "inner": 1})
        if perm == [0, 3, 5, 1, 2, 4]:
            return Node("Focus", "", [], [], {"blocksize": r0})
    return None


@pattern
def slice_chain(graph: Graph) -> None:
    """Slices of Slices over other axes are one Slice."""
    maker = alone(graph)
    for node in list(graph.nodes):
        before = maker(node.inputs[0]) if node.op == "Slice" else None
        if before is None or before.op != "Slice":
            continue
        first, second = (_ranges(graph, n) for n in (before, node))
        if first is None or second is None or set(first) & set(second):
            continue
        replace(graph, node, [before], _slice(node, before.inputs[0], {**first, **second}))
        maker = alone(graph)


def _ranges(graph: Graph, node: Node) -> dict[int, range] | None:
    given = (graph.ints(node, n, i) for i, n in enumerate(("starts", "ends", "axes", "steps"), 1))
    return slice_ranges(graph.shape(node.inputs[0]), *given)


def _slice(node: Node, source: str, ranges: dict[int, range]) -> Node:
    """A Slice with attributes, as opset 1 had it."""
    attrs = {
        "axes": list(ranges),
        "starts": [r.start for r in ranges.values()],
        "ends": [r.stop if r.stop >= 0 else -(1 << 63) for r in ranges.values()],
        "steps": [r.step for r in ranges.values()],
    }
    return Node("Slice", node.name, [source], node.outputs, attrs)


@pattern
def focus(graph: Graph) -> None:
    """A Concat of every n-th pixel with all offsets: one convolution."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op != "Concat" or node.attrs.get("axis") not in (1, -3):
            continue
        parts = [maker(name) for name in node.inputs]
        if not all(part is not None and part.op == "Slice" for part in parts):
            continue
        slices = [part for part in parts if part is not None]
        source = {part.inputs[0] for part in slices}
        ranges = [_ranges(graph, part) for part in slices]
        order = [_offset(graph.shape(slices[0].inputs[0]), r) for r in ranges]
        block = order[0][2] if order and order[0] else 0
        if len(source) != 1 or not block or any(o is None or o[2] != block for o in order):
            continue
        attrs = {"blocksize": block, "order": [o[:2] for o in order if o]}
        new = Node("Focus", node.name, [slices[0].inputs[0]], node.outputs, attrs)
        replace(graph, node, slices, new)


def _offset(shape: tuple[int, ...], ranges: dict[int, range] | None) -> tuple[int, int, int] | None:
    """Row, column and step of a Slice that takes every n-th pixel of a whole map."""
    if len(shape) != 4 or ranges is None or set(ranges) != {2, 3}:
        return None
    r, c = ranges[2], ranges[3]
    step = r.step
    whole = all(
        x.step == step > 1 and 0 <= x.start < step and len(x) * step == n
        for x, n in ((r, shape[2]), (c, shape[3]))
    )
    return (r.start, c.start, step) if whole else None


@pattern
def parts(graph: Graph) -> None:
    """Slices of one value along one axis that do not overlap are one Slice layer."""
    readers = graph.readers()
    for source in list(readers):
        found: dict[int, list[tuple[range, Node]]] = {}
        for node in readers[source]:
            if node.op != "Slice" or node.inputs[0] != source or graph.constant(source) is not None:
                continue
            ranges = _ranges(graph, node)
            if ranges and len(ranges) == 1:
                [(axis, r)] = ranges.items()
                if r.step == 1 and len(r) > 0:
                    found.setdefault(axis, []).append((r, node))
        for axis, group in found.items():
            group.sort(key=lambda pair: pair[0].start)
            apart = all(a.stop <= b.start for (a, _), (b, _) in itertools.pairwise(group))
            if apart and len(group) > 1:
                _as_parts(graph, source, axis, group)


def _as_parts(graph: Graph, source: str, axis: int, group: list[tuple[range, Node]]) -> None:
    sizes, outputs, at = [], [], 0
    total = graph.shape(source)[axis]
    for r, node in [*group, (range(total, total), None)]:
        if r.start > at:
            sizes.append(r.start - at)
            outputs.append(f"{source}::{axis}:{at}")
        if node is not None:
            sizes.append(len(r))
            outputs.append(node.outputs[0])
            at = r.stop
    nodes = [node for _, node in group]
    first = min(nodes, key=graph.nodes.index)
    new = Node("Parts", first.name, [source], outputs, {"axis": axis, "split": sizes})
    replace(graph, first, [node for node in nodes if node is not first], new)


@pattern
def both_directions(graph: Graph) -> None:
    """Transpose and Reshape that put the directions of a recurrent layer side by side."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op not in ("Reshape", "Squeeze"):
            continue
        turn = maker(node.inputs[0])
        cell = turn
        between: list[Node] = []
        if turn is not None and turn.op == "Transpose" and turn.attrs.get("perm") == [0, 2, 1, 3]:
            cell, between = maker(turn.inputs[0]), [turn]
        if cell is None or cell.op not in ("LSTM", "GRU", "RNN"):
            continue
        y = between[0].inputs[0] if between else node.inputs[0]
        if y != cell.outputs[0] or cell.attrs.get("merged"):
            continue
        steps, count, batch, hidden = graph.shape(y)
        if graph.shape(node.outputs[0]) != (steps, batch, count * hidden):
            continue
        if count > 1 and not between:
            continue
        outputs = [node.outputs[0], *cell.outputs[1:]]
        new = Node(cell.op, cell.name, cell.inputs, outputs, {**cell.attrs, "merged": 1})
        at = graph.nodes.index(cell)
        new.part_of = sorted(
            {*cell.part_of, *node.part_of, *(p for b in between for p in b.part_of)}
        )
        new.place = cell.place
        gone = {id(n) for n in (node, *between)}
        graph.nodes[at] = new
        graph.nodes = [n for n in graph.nodes if id(n) not in gone]
        maker = alone(graph)


@pattern
def flat_product(graph: Graph) -> None:
    """A Transpose that a Reshape and a product by constants follow goes into their weights."""
    maker = alone(graph)
    for node in list(graph.nodes):
        if node.op not in ("Gemm", "MatMul") or graph.constant(node.inputs[1]) is None:
            continue
        flat = maker(node.inputs[0])
        turn = maker(flat.inputs[0]) if flat and flat.op in ("Reshape", "Flatten") else None
        if flat is None or turn is None or turn.op != "Transpose":
            continue
        perm = list(turn.attrs.get("perm", []))
        before, after = graph.shape(turn.inputs[0]), graph.shape(turn.outputs[0])
        rows = graph.shape(flat.outputs[0])
        if not perm or perm[0] != 0 or len(rows) != 2 or rows[0] != after[0]:
            continue
        if node.attrs.get("transA", 0):
            continue
        weight = np.asarray(graph.constant(node.inputs[1]))
        last = bool(node.attrs.get("transB", 0))
        matrix = weight if last else weight.T  # (out, in)
        back = np.argsort(perm[1:])
        matrix = matrix.reshape(len(matrix), *after[1:]).transpose(0, *(back + 1))
        matrix = matrix.reshape(len(matrix), -1)
        name = new_constant(graph, node.inputs[1], matrix if last else matrix.T)
        flatten = Node("Flatten", flat.name, [turn.inputs[0]], flat.outputs, {"axis": 1})
        replace(graph, flat, [turn], flatten)
        node.inputs = [node.inputs[0], name, *node.inputs[2:]]
        assert before
