"""Normalisations as our own exporter and others write them."""

from __future__ import annotations

from collections.abc import Callable

from caffeio.converters.from_onnx.graph import Graph, Node
from caffeio.converters.from_onnx.patterns.base import alone, pairs, pattern, replace, scalar

Maker = Callable[[str], Node | None]


def _shared(graph: Graph, count: int) -> Maker:
    """As `alone`, for values that `count` nodes read."""
    readers, makers = graph.readers(), graph.makers()

    def maker(name: str) -> Node | None:
        if len(readers.get(name, [])) != count or name in graph.outputs:
            return None
        return makers.get(name)

    return maker


def _centred(graph: Graph, node: Node | None) -> tuple[str, Node, list[int]] | None:
    """x, the ReduceMean and its axes, if the node is x - mean(x)."""
    if node is None or node.op != "Sub":
        return None
    mean = alone(graph)(node.inputs[1])
    if mean is None or mean.op != "ReduceMean" or mean.inputs[0] != node.inputs[0]:
        return None
    axes = graph.ints(mean, "axes", 1)
    if not axes or not mean.attrs.get("keepdims", 1):
        return None
    rank = len(graph.shape(node.inputs[0]))
    return node.inputs[0], mean, sorted(axis % rank for axis in axes)


def _is_square(graph: Graph, node: Node, name: str) -> bool:
    """Whether a node is the square of the value `name`."""
    if node.op == "Pow":
        return node.inputs[0] == name and scalar(graph, node.inputs[1]) == 2
    return node.op == "Mul" and node.inputs == [name] * 2


@pattern
def mvn(graph: Graph) -> None:
    """(x - mean) / (sqrt(mean of squares) + eps) over maps: MVN; x - mean alone as well."""
    for node in list(graph.nodes):
        if node.op != "Div":
            continue
        maker, twice = alone(graph), _shared(graph, 2)
        centred = graph.makers().get(node.inputs[0])
        below, eps, parts = maker(node.inputs[1]), 0.0, []
        if below is not None and below.op == "Add" and below.inputs:
            number = scalar(graph, below.inputs[1])
            if number is None:
                continue
            eps, parts = number, [below]
            below = maker(below.inputs[0])
        mean = maker(below.inputs[0]) if below is not None and below.op == "Sqrt" else None
        square = maker(mean.inputs[0]) if mean is not None and mean.op == "ReduceMean" else None
        found = _centred(graph, centred)
        if below is None or mean is None or square is None or found is None or centred is None:
            continue
        if not _is_square(graph, square, centred.outputs[0]) or not mean.attrs.get("keepdims", 1):
            continue
        x, first, axes = found
        over = graph.ints(mean, "axes", 1) or []
        rank = len(graph.shape(x))
        if sorted(a % rank for a in over) != axes or twice(centred.outputs[0]) is None:
            continue
        if rank == 4 and axes in ([2, 3], [1, 2, 3]):
            attrs = {"axes": axes, "eps": eps}
            new = Node("Mvn", node.name, [x], node.outputs, attrs)
            replace(graph, node, [first, centred, square, mean, below, *parts], new)
    _mean_only(graph)


def _mean_only(graph: Graph) -> None:
    for node in list(graph.nodes):
        found = _centred(graph, node)
        if found is None or len(graph.shape(found[0])) != 4 or found[2] not in ([2, 3], [1, 2, 3]):
            continue
        attrs = {"axes": found[2], "variance": 0, "eps": 1e-9}
        replace(graph, node, [found[1]], Node("Mvn", node.name, [found[0]], node.outputs, attrs))


@pattern
def batch_statistics(graph: Graph) -> None:
    """A BatchNormalization by the mean and the variance of its own input."""
    for node in list(graph.nodes):
        if node.op != "BatchNormalization":
            continue
        makers = graph.makers()
        flat = [makers.get(name) for name in node.inputs[3:5]]
        if not all(part is not None and part.op == "Reshape" for part in flat):
            continue
        mean, variance = (makers.get(part.inputs[0]) for part in flat if part is not None)
        if mean is None or variance is None:
            continue
        if (mean.op, variance.op) != ("ReduceMean", "ReduceMean"):
            continue
        x = node.inputs[0]
        square = makers.get(variance.inputs[0])
        centred = (
            makers.get(square.inputs[0]) if square is not None and square.op == "Mul" else None
        )
        fits = (
            centred is not None
            and square is not None
            and centred.op == "Sub"
            and centred.inputs == [x, mean.outputs[0]]
            and square.inputs == [centred.outputs[0]] * 2
            and mean.inputs[0] == x
        )
        rank = len(graph.shape(x))
        rest = [axis for axis in range(rank) if axis != 1]
        for reduced in (mean, variance):
            axes = graph.ints(reduced, "axes", 1) or []
            fits = fits and sorted(axis % rank for axis in axes) == rest
        if fits:
            node.op = "BatchStatistics"
            node.inputs = node.inputs[:3]


@pattern
def lrn_within(graph: Graph) -> None:
    """x * (1 + alpha * average of x^2) ^ -beta: LRN within a channel."""
    maker = alone(graph)
    for node in list(graph.nodes):
        for x, other in pairs(node) if node.op == "Mul" else ():
            power = maker(other)
            base = maker(power.inputs[0]) if power is not None and power.op == "Pow" else None
            if power is None or base is None:
                continue
            parts: list[Node] = [power, base]
            alpha: float | None = 1.0
            scaled = maker(base.inputs[0]) if base.op == "Add" else None
            if scaled is not None and scaled.op == "Mul":
                alpha = scalar(graph, scaled.inputs[1])
                parts.append(scaled)
                scaled = maker(scaled.inputs[0])
            square = maker(scaled.inputs[0]) if scaled and scaled.op == "AveragePool" else None
            beta = scalar(graph, power.inputs[1])
            one = scalar(graph, base.inputs[1]) if base.op == "Add" else None
            if scaled is None or square is None or square.inputs != [x, x] or one != 1.0:
                continue
            size = [int(n) for n in scaled.attrs["kernel_shape"]]
            fits = (
                square.op == "Mul"
                and len(set(size)) == 1
                and len(size) == 2
                and list(scaled.attrs.get("pads", [])) == [size[0] // 2] * 4
                and list(scaled.attrs.get("strides", [1, 1])) == [1, 1]
                and scaled.attrs.get("count_include_pad", 0) == 1
            )
            if fits and alpha is not None and beta is not None:
                attrs = {"size": size[0], "alpha": alpha, "beta": -beta}
                new = Node("LrnWithin", node.name, [x], node.outputs, attrs)
                replace(graph, node, [*parts, scaled, square], new)
                maker = alone(graph)
                break


_VIEWS = ("Reshape", "Squeeze", "Unsqueeze")


@pattern
def lrn_across(graph: Graph) -> None:
    """x / (k + alpha * average of the squares of its neighbours) ^ beta: LRN across channels."""
    for node in list(graph.nodes):
        found = _neighbours(graph, node) if node.op == "Div" else None
        if found is None:
            continue
        attrs, parts = found
        new = Node("LRN", node.name, [node.inputs[0]], node.outputs, attrs)
        replace(graph, node, parts, new)


def _neighbours(graph: Graph, node: Node) -> tuple[dict[str, float], list[Node]] | None:
    """The attributes of ONNX's LRN, and the nodes that say it."""
    maker, parts, numbers = alone(graph), [], []
    name = node.inputs[1]
    for op in ("Pow", "Add", "Mul"):
        part = maker(name)
        number = scalar(graph, part.inputs[1]) if part is not None and part.op == op else None
        if part is None or number is None:
            return None
        parts.append(part)
        numbers.append(number)
        name = part.inputs[0]
    views = _views(maker, name)
    pool = maker(views[-1].inputs[0] if views else name)
    if pool is None or pool.op != "AveragePool":
        return None
    behind = maker(pool.inputs[0])
    pad = behind if behind is not None and behind.op == "Pad" else None
    inner = _views(maker, (pad or pool).inputs[0])
    square = maker(inner[-1].inputs[0] if inner else (pad or pool).inputs[0])
    shape, map_shape = graph.shape(node.inputs[0]), graph.shape((pad or pool).inputs[0])
    size = _size_of_window(graph, pool, pad)
    fits = (
        size is not None
        and square is not None
        and square.op == "Mul"
        and square.inputs == [node.inputs[0]] * 2
        and map_shape[:3] == (shape[0], 1, shape[1])
        and graph.shape(name) == shape
    )
    if not fits or square is None or size is None:
        return None
    attrs = {"size": size, "alpha": numbers[2], "beta": numbers[0], "bias": numbers[1]}
    return attrs, [*parts, *views, pool, *([pad] if pad else []), *inner, square]


def _views(maker: Maker, name: str) -> list[Node]:
    """The nodes in front of a value that only change its shape, the nearest one first."""
    out: list[Node] = []
    while (part := maker(name)) is not None and part.op in _VIEWS:
        out.append(part)
        name = part.inputs[0]
    return out


def _size_of_window(graph: Graph, pool: Node, pad: Node | None) -> int | None:
    """The odd number of neighbours along the third axis, if all are counted, zeros included."""
    size, *rest = (int(n) for n in pool.attrs["kernel_shape"])
    axes = len(rest) + 1
    pads = [int(n) for n in pool.attrs.get("pads", [0] * 2 * axes)]
    if pad is not None:
        more, value = graph.ints(pad, "pads", 1), graph.number(pad, "value", 2, 0.0)
        zero = pad.attrs.get("mode", "constant") == "constant" and value == 0 and not pad.input(3)
        if (
            not zero
            or more is None
            or any(pads)
            or any(more[i] for i in (0, 1, axes + 2, axes + 3))
        ):
            return None
        pads = [*more[2 : axes + 2], *more[axes + 4 :]]
    wanted = [size // 2, *[0] * (axes - 1)] * 2
    ones = all(int(n) == 1 for n in (*rest, *pool.attrs.get("strides", [1])))
    counted = pad is not None or pool.attrs.get("count_include_pad", 0) == 1
    whole = not pool.attrs.get("ceil_mode", 0) and counted and ones and size % 2 == 1
    return size if whole and pads == wanted else None
