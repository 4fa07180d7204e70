"""Several nodes that are one layer in Caffe become one node: what exporters take apart.

Each pattern is a function from the graph to nothing; it looks for its last node and walks back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from caffeio.converters.from_onnx.graph import Array, Graph, Node
from caffeio.converters.from_onnx.ops.shape import slice_ranges

PATTERNS: list[Callable[[Graph], None]] = []


def pattern(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    """Register a pattern; they run in the order of this file."""
    PATTERNS.append(function)
    return function


def fuse(graph: Graph) -> None:
    """Apply all patterns."""
    for one in PATTERNS:
        one(graph)
        graph.sweep()


# --- helpers


def _alone(graph: Graph) -> Callable[[str], Node | None]:
    """A function that gives the maker of a value which one node reads, and no output is."""
    readers, makers = graph.readers(), graph.makers()

    def maker(name: str) -> Node | None:
        if len(readers.get(name, [])) != 1 or name in graph.outputs:
            return None
        return makers.get(name)

    return maker


def _replace(graph: Graph, last: Node, parts: list[Node], new: Node) -> None:
    """Put `new` where `last` stands; the others go."""
    new.part_of = sorted({place for part in (*parts, last) for place in part.part_of})
    new.place = last.place
    gone = {id(part) for part in parts}
    graph.nodes = [new if node is last else node for node in graph.nodes if id(node) not in gone]


def _scalar(graph: Graph, name: str) -> float | None:
    value = graph.constant(name)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _pairs(node: Node) -> Iterator[tuple[str, str]]:
    if len(node.inputs) == 2:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


# --- activations


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


def _gated(graph: Graph, gate: str, new: str, fits: Callable[[Node], bool]) -> None:
    maker = _alone(graph)
    for node in list(graph.nodes):
        for x, gated in _pairs(node) if node.op == "Mul" else ():
            found = maker(gated)
            if found is not None and found.op == gate and found.inputs[0] == x and fits(found):
                made = Node(new, node.name, [x], node.outputs)
                _replace(graph, node, [found], made)
                break


@pattern
def clipped_line(graph: Graph) -> None:
    """Clip(x + 3, 0, 6) / 6 is HardSigmoid(x); times x it is HardSwish."""
    maker = _alone(graph)
    for node in list(graph.nodes):
        factor = _factor(graph, node)
        if factor is None or not np.isclose(factor[1], 1 / 6):
            continue
        parts: list[Node] = []
        bound, x = maker(factor[0]), ""
        if bound is not None and bound.op == "Mul":  # x * Clip(..) / 6
            for a, b in _pairs(bound):
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
            _replace(graph, node, parts, Node(kind, node.name, [x], node.outputs, attrs))
            maker = _alone(graph)
    hard_swish(graph)


def _factor(graph: Graph, node: Node) -> tuple[str, float] | None:
    """The value and the number that a Mul or Div multiplies it with."""
    if node.op == "Div" and (number := _scalar(graph, node.inputs[1])):
        return node.inputs[0], 1 / number
    if node.op == "Mul":
        for x, other in _pairs(node):
            number = _scalar(graph, other)
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
    for x, other in _pairs(line):
        if _scalar(graph, other) == 3.0:
            return x, [clip, line]
    return None


@pattern
def mish(graph: Graph) -> None:
    """x * Tanh(Softplus(x))."""
    maker = _alone(graph)
    for node in list(graph.nodes):
        for x, gate in _pairs(node) if node.op == "Mul" else ():
            tanh = maker(gate)
            plus = maker(tanh.inputs[0]) if tanh is not None and tanh.op == "Tanh" else None
            if tanh and plus is not None and plus.op == "Softplus" and plus.inputs[0] == x:
                _replace(graph, node, [tanh, plus], Node("Mish", node.name, [x], node.outputs))
                break


# --- convolutions


@pattern
def conv_batch_norm(graph: Graph) -> None:
    """A BatchNormalization behind a convolution goes into its weights."""
    maker = _alone(graph)
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
        names[0] = _new_constant(graph, names[0], weight)
        names[1] = _new_constant(graph, names[1], (bias - mean) * factor + beta)
        new = Node(conv.op, conv.name, [conv.inputs[0], *names], node.outputs, conv.attrs)
        _replace(graph, node, [conv], new)


def _new_constant(graph: Graph, name: str, value: Array) -> str:
    """A constant beside the old one, whose name it keeps behind "::"."""
    fresh, n = f"{name}::folded", 1
    while fresh in graph.constants:
        n += 1
        fresh = f"{name}::folded{n}"
    graph.constants[fresh] = value.astype(np.float32)
    return fresh


@pattern
def matmul_add(graph: Graph) -> None:
    """MatMul by a constant and Add of a row: one InnerProduct."""
    maker = _alone(graph)
    for node in list(graph.nodes):
        for x, other in _pairs(node) if node.op == "Add" else ():
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
            _replace(graph, node, [product], Node("MatMul", product.name, inputs, node.outputs))
            break


@pattern
def pad_conv(graph: Graph) -> None:
    """A Pad with zeros in front of a convolution becomes its pads."""
    maker = _alone(graph)
    for node in list(graph.nodes):
        if node.op not in ("Conv", "AveragePool"):
            continue
        pad = maker(node.inputs[0])
        if pad is None or pad.op != "Pad" or pad.attrs.get("mode", "constant") != "constant":
            continue
        if node.op == "AveragePool" and not _counts_pads(node):
            continue
        pads, value = graph.ints(pad, "pads", 1), graph.number(pad, "value", 2, 0.0)
        rank = len(graph.shape(pad.inputs[0]))
        if pads is None or value != 0 or graph.ints(pad, "axes", 3) is not None:
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
        _replace(graph, node, [pad], Node(node.op, node.name, inputs, node.outputs, attrs))


def _counts_pads(node: Node) -> bool:
    """Whether zeros around an average may become its pads: no pads yet, floor, whole windows."""
    own = node.attrs.get("pads", [])
    return not any(own) and not node.attrs.get("ceil_mode", 0)


# --- moves


@pattern
def reshape_transpose_reshape(graph: Graph) -> None:
    """Channel shuffle, DepthToSpace and SpaceToDepth as exporters write them."""
    maker = _alone(graph)
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
            _replace(graph, node, [turn, first], new)


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
    maker = _alone(graph)
    for node in list(graph.nodes):
        before = maker(node.inputs[0]) if node.op == "Slice" else None
        if before is None or before.op != "Slice":
            continue
        first, second = (_ranges(graph, n) for n in (before, node))
        if first is None or second is None or set(first) & set(second):
            continue
        _replace(graph, node, [before], _slice(node, before.inputs[0], {**first, **second}))
        maker = _alone(graph)


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
    maker = _alone(graph)
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
        _replace(graph, node, slices, new)


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
    _replace(graph, first, [node for node in nodes if node is not first], new)


@pattern
def both_directions(graph: Graph) -> None:
    """Transpose and Reshape that put the directions of a recurrent layer side by side."""
    maker = _alone(graph)
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
        maker = _alone(graph)


@pattern
def flat_product(graph: Graph) -> None:
    """A Transpose that a Reshape and a product by constants follow goes into their weights."""
    maker = _alone(graph)
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
        name = _new_constant(graph, node.inputs[1], matrix if last else matrix.T)
        flatten = Node("Flatten", flat.name, [turn.inputs[0]], flat.outputs, {"axis": 1})
        _replace(graph, flat, [turn], flatten)
        node.inputs = [node.inputs[0], name, *node.inputs[2:]]
        assert before
