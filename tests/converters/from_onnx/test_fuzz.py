"""Random graphs over the operators that have a converter: equal, or refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffeio.converters.from_onnx.compile import compile_model
from caffeio.converters.from_onnx.ops import load_operators
from caffeio.converters.from_onnx.targets import target_names
from caffeio.converters.from_onnx.verify import LIMIT, verify
from caffeio.converters.onnx.runtime import evaluate
from caffeio.errors import UnsupportedError
from tests.converters.from_onnx.helpers import graph_of, onnx
from tests.paths import NIGHT, nightly

pytest.importorskip("onnxruntime")
Shape = tuple[int, ...]
OPSET = 18


class Graph:
    """A random graph while it grows; shapes are those that the runtime tells."""

    def __init__(self, draw: Any, shape: Shape) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Shape] = {"x": shape}

    def const(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value)
        self.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attrs: Any) -> bool:
        """Add a node if the runtime takes it and its result is neither empty nor large."""
        arrays = [
            self.constants[n] if n in self.constants else np.ones(self.shapes[n], np.float32)
            for n in inputs
            if n
        ]
        try:
            found = evaluate(op, arrays, OPSET, **attrs)
        except UnsupportedError:
            return False
        if not 0 < found.size <= 4000 or found.ndim > 6 or not np.isfinite(found).all():
            return False
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            onnx.helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attrs)
        )
        self.shapes[names[0]] = found.shape
        return True

    @property
    def last(self) -> str:
        return next(reversed(self.shapes))


def _weights(g: Graph, *shape: int) -> str:
    return g.const(g.rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1)))


def grow(g: Graph) -> None:
    """One random operator on the last value (or on two)."""
    draw, x = g.draw, g.last
    shape = g.shapes[x]
    kind = draw(st.sampled_from(KINDS))
    GROWERS[kind](g, x, shape)


def _ints(g: Graph, low: int, high: int) -> int:
    return int(g.draw(st.integers(low, high)))


def _window(g: Graph, axes: int, *, transposed: bool = False) -> dict[str, Any]:
    kernel = [_ints(g, 1, 3) for _ in range(axes)]
    pads = [_ints(g, 0, 2) for _ in range(2 * axes)]
    return {"kernel_shape": kernel, "strides": [_ints(g, 1, 3) for _ in kernel], "pads": pads}


def conv(g: Graph, x: str, s: Shape) -> None:
    if len(s) not in (3, 4):
        return
    w = _window(g, len(s) - 2)
    group = g.draw(st.sampled_from([n for n in (1, 2, s[1]) if s[1] % n == 0]))
    out = group * _ints(g, 1, 3)
    bias = [g.const(g.rng.standard_normal(out))] if g.draw(st.booleans()) else []
    weight = _weights(g, out, s[1] // group, *w["kernel_shape"])
    if g.draw(st.integers(0, 3)) == 0:
        w.pop("pads")
        w["auto_pad"] = g.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        w["dilations"] = [_ints(g, 1, 2) for _ in w["kernel_shape"]]
    g.add("Conv", [x, weight, *bias], group=group, **w)


def deconv(g: Graph, x: str, s: Shape) -> None:
    if len(s) not in (3, 4):
        return
    w = _window(g, len(s) - 2)
    group = g.draw(st.sampled_from([1, s[1]]))
    w["output_padding"] = [_ints(g, 0, n - 1) for n in w["strides"]]
    w["dilations"] = [_ints(g, 1, 2) for _ in w["strides"]]
    g.add("ConvTranspose", [x, _weights(g, s[1], 2, *w["kernel_shape"])], group=group, **w)


def pool(g: Graph, x: str, s: Shape) -> None:
    if len(s) not in (3, 4):
        return
    w = _window(g, len(s) - 2)
    w["ceil_mode"] = _ints(g, 0, 1)
    if g.draw(st.booleans()):
        w["dilations"] = [_ints(g, 1, 2) for _ in w["kernel_shape"]]
        g.add("MaxPool", [x], **w)
    else:
        g.add("AveragePool", [x], count_include_pad=_ints(g, 0, 1), **w)


def pointwise(g: Graph, x: str, s: Shape) -> None:
    op = g.draw(st.sampled_from(POINTWISE))
    g.add(op, [x])


def clip(g: Graph, x: str, s: Shape) -> None:
    low, high = sorted(g.draw(st.tuples(st.floats(-2, 2), st.floats(-2, 2))))
    pick = _ints(g, 0, 2)
    ends = [
        g.const(np.float32(low)) if pick != 1 else "",
        g.const(np.float32(high)) if pick else "",
    ]
    if ends[1]:
        g.nodes.append(onnx.helper.make_node("Clip", [x, *ends], [f"k{len(g.nodes)}"]))
        g.shapes[g.nodes[-1].output[0]] = s
    else:
        g.add("Clip", [x, ends[0]])


def with_constant(g: Graph, x: str, s: Shape) -> None:
    keep = [g.draw(st.booleans()) for _ in s]
    shape = tuple(n if k else 1 for n, k in zip(s, keep, strict=True))
    value = g.rng.uniform(0.5, 2, shape) * g.rng.choice([-1, 1], shape)
    name = g.const(value[0] if shape[:1] == (1,) and g.draw(st.booleans()) else value)
    op = g.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    g.add(op, [x, name] if op == "Div" or g.draw(st.booleans()) else [name, x])


def with_value(g: Graph, x: str, s: Shape) -> None:
    other = g.draw(st.sampled_from(sorted(g.shapes)))
    op = g.draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
    g.add(op, [x, other] if g.draw(st.booleans()) else [other, x])


def gate(g: Graph, x: str, s: Shape) -> None:
    axes = sorted({_ints(g, 1, len(s) - 1) for _ in range(2)}) if len(s) > 1 else []
    if axes and g.add("ReduceMean", [x, g.const(np.array(axes))], keepdims=1):
        g.add(g.draw(st.sampled_from(["Mul", "Sub", "Add"])), [x, g.last])


def reduce(g: Graph, x: str, s: Shape) -> None:
    axes = sorted({_ints(g, -len(s), len(s) - 1) % len(s) for _ in range(2)}) if s else []
    op = g.draw(st.sampled_from(["Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "Prod"]))
    if axes:
        g.add(f"Reduce{op}", [x, g.const(np.array(axes))], keepdims=_ints(g, 0, 1))


def concat(g: Graph, x: str, s: Shape) -> None:
    axis = _ints(g, 0, len(s) - 1) if s else 0
    other = g.draw(st.sampled_from(sorted(g.shapes)))
    g.add("Concat", [x, other], axis=axis)


def slice_(g: Graph, x: str, s: Shape) -> None:
    if not s:
        return
    axis = _ints(g, 0, len(s) - 1)
    start, end, step = (
        _ints(g, 0, s[axis]),
        _ints(g, 0, s[axis]),
        g.draw(st.sampled_from([1, 1, 2, -1])),
    )
    values = [np.array([v]) for v in (start, end, axis, step)]
    g.add("Slice", [x, *map(g.const, values)])


def split(g: Graph, x: str, s: Shape) -> None:
    axis = _ints(g, 0, len(s) - 1) if s else 0
    if not s or s[axis] < 2:
        return
    cut = _ints(g, 1, s[axis] - 1)
    sizes = g.const(np.array([cut, s[axis] - cut]))
    names = [f"s{len(g.nodes)}_{i}" for i in range(2)]
    g.nodes.append(onnx.helper.make_node("Split", [x, sizes], names, axis=axis))
    for name, n in zip(names, (cut, s[axis] - cut), strict=True):
        g.shapes[name] = (*s[:axis], n, *s[axis + 1 :])


def pad(g: Graph, x: str, s: Shape) -> None:
    pads = np.array([_ints(g, 0, 2) if i >= 1 else 0 for i in range(len(s))] * 2)
    mode = g.draw(st.sampled_from(["constant", "reflect", "edge"]))
    g.add("Pad", [x, g.const(pads), g.const(np.float32(_ints(g, 0, 1)))], mode=mode)


def resize(g: Graph, x: str, s: Shape) -> None:
    if len(s) != 4:
        return
    factor = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])
    scales = np.array([1, 1, g.draw(factor), g.draw(factor)])
    attrs = g.draw(st.sampled_from(RESIZES))
    g.add("Resize", [x, g.const(np.zeros(0, np.float32)), g.const(scales)], **attrs)


def transpose(g: Graph, x: str, s: Shape) -> None:
    if not s:
        return
    g.add("Transpose", [x], perm=list(g.draw(st.permutations(range(len(s))))))


def reshape(g: Graph, x: str, s: Shape) -> None:
    flat = g.draw(st.sampled_from(["two", "merge", "split", "squeeze"]))
    if flat == "two" and len(s) > 1:
        g.add("Flatten", [x], axis=1)
    elif flat == "merge" and len(s) > 2:
        axis = _ints(g, 0, len(s) - 2)
        g.add("Reshape", [x, g.const(np.array([*s[:axis], s[axis] * s[axis + 1], *s[axis + 2 :]]))])
    elif flat == "split" and s and len(s) < 6:
        axis = _ints(g, 0, len(s) - 1)
        n = s[axis]
        factor = g.draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
        g.add("Reshape", [x, g.const(np.array([*s[:axis], factor, n // factor, *s[axis + 1 :]]))])
    elif 1 in s[1:]:
        axis = s.index(1, 1)
        g.add("Squeeze", [x, g.const(np.array([axis]))])


def dense(g: Graph, x: str, s: Shape) -> None:
    if len(s) < 2:
        return
    n = s[-1]
    if len(s) == 2 and g.draw(st.booleans()):
        trans = _ints(g, 0, 1)
        weight = _weights(g, *((3, n) if trans else (n, 3)))
        g.add(
            "Gemm",
            [x, weight, g.const(g.rng.standard_normal(3))],
            transB=trans,
            alpha=0.5,
            beta=2.0,
        )
    elif g.draw(st.booleans()):
        g.add("MatMul", [x, _weights(g, n, 4)])
    else:
        g.add("MatMul", [_weights(g, 3, s[-2]), x])


def norm(g: Graph, x: str, s: Shape) -> None:
    if len(s) < 3:
        return
    c = s[1]
    pair = [g.const(g.rng.uniform(0.5, 2, c)), g.const(g.rng.standard_normal(c))]
    op = g.draw(st.sampled_from(["Instance", "Layer", "Batch"]))
    if op == "Instance" and np.prod(s[2:]) == 1:
        return  # x - x: rounding is all that is left
    if op == "Instance":
        g.add("InstanceNormalization", [x, *pair], epsilon=0.1)
    elif op == "Layer":
        axis = _ints(g, 1, len(s) - 1)
        g.add(
            "LayerNormalization",
            [x, g.const(g.rng.uniform(0.5, 2, s[axis:]))],
            axis=axis,
            epsilon=0.1,
        )
    else:
        statistics = [g.const(g.rng.standard_normal(c)), g.const(g.rng.uniform(0.5, 2, c))]
        g.add("BatchNormalization", [x, *pair, *statistics])


def sums(g: Graph, x: str, s: Shape) -> None:
    """Sums of products with constants, and comparisons of two blobs."""
    kind = _ints(g, 0, 4)
    if kind == 0 and s:
        axis = g.const(np.array(_ints(g, 0, len(s) - 1)))
        g.add("CumSum", [x, axis], exclusive=_ints(g, 0, 1), reverse=_ints(g, 0, 1))
    elif kind == 1 and len(s) > 1:
        g.add("Trilu", [x, g.const(np.array(_ints(g, -2, 2)))], upper=_ints(g, 0, 1))
    elif kind == 2 and s:
        g.add("Pow", [g.const(np.array(g.draw(st.floats(0.5, 2)))), x])
    elif kind == 3 and g.add("Greater", [x, g.draw(st.sampled_from([*g.shapes]))]):
        g.add("Cast", [g.last], to=1)
    elif 1 < len(s) < 5:
        labels, new = "abcd"[: len(s)], g.draw(st.sampled_from(["", "x", "xy"]))
        size = dict(zip(labels + new, (*s, 2, 3), strict=False))
        shared = [c for c in labels[1:] if g.draw(st.booleans())]
        out = [c for c in (*labels, *new) if c not in shared or g.draw(st.integers(0, 3)) == 0]
        term = g.draw(st.permutations([*shared, *new]))
        weight = _weights(g, *(size[c] for c in term))
        out = g.draw(st.permutations(out))
        g.add("Einsum", [x, weight], equation=f"{labels},{''.join(term)}->{''.join(out)}")


def other(g: Graph, x: str, s: Shape) -> None:
    kind = _ints(g, 0, 6)
    if kind == 0 and s:
        g.add("Softmax", [x], axis=_ints(g, 0, len(s) - 1))
    elif kind == 1 and len(s) == 4:
        g.add("DepthToSpace", [x], blocksize=2, mode=g.draw(st.sampled_from(["DCR", "CRD"])))
    elif kind == 2 and len(s) == 4:
        g.add("SpaceToDepth", [x], blocksize=2)
    elif kind == 3 and s:
        axis = _ints(g, 0, len(s) - 1)
        g.add(
            "Gather",
            [x, g.const(np.array([_ints(g, 0, s[axis] - 1) for _ in range(3)]))],
            axis=axis,
        )
    elif kind == 4 and s:
        g.add("Tile", [x, g.const(np.array([1, *[_ints(g, 1, 2) for _ in s[1:]]]))])
    elif kind == 5 and len(s) > 2:
        g.add("LRN", [x], size=3, alpha=0.1)
    elif s:
        full = [n if n != 1 else _ints(g, 1, 3) for n in s]
        g.add("Expand", [x, g.const(np.array(full))])


POINTWISE = [
    "Relu", "Sigmoid", "Tanh", "Abs", "Softplus", "HardSigmoid", "HardSwish", "Elu", "Selu",
    "Celu", "Softsign", "LeakyRelu", "Neg", "Mish", "ThresholdedRelu",
]  # fmt: skip
RESIZES: list[dict[str, Any]] = [
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest"},
    {"mode": "linear"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    {"mode": "cubic"},
]
GROWERS = {
    f.__name__: f
    for f in (
        conv, deconv, pool, pointwise, clip, with_constant, with_value, gate, reduce, concat,
        slice_, split, pad, resize, transpose, reshape, dense, norm, sums, other,
    )
}  # fmt: skip
KINDS = [*GROWERS, "conv", "conv", "pointwise", "pointwise"]


@st.composite
def graphs(draw: Any) -> Any:
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(3, 7), st.integers(3, 7)),
            st.tuples(st.just(1), st.integers(1, 4), st.integers(3, 7)),
        )
    )
    g = Graph(draw, shape)
    for _ in range(draw(st.integers(1, 6))):
        grow(g)
    read = {name for node in g.nodes for name in node.input}
    ends = [name for name in g.shapes if name not in read and name != "x"]
    return graph_of(g.nodes, {"x": shape}, ends, g.constants, OPSET) if ends else None


def hold(model: Any, target: str) -> None:
    try:
        net = compile_model(model, target=target)
    except UnsupportedError as error:
        known = ("node", "depends on no input", "cannot load the model")
        assert any(words in error.message for words in known), error
        return
    report = verify(net)
    largest = max(scale for item in report.outputs for _, _, scale in item.runs)
    if largest < 1e-4:  # x - x, or the mean of what has none: rounding is all there is
        return
    assert report.worst <= LIMIT, f"{report}\n{onnx.printer.to_text(model.graph)}"


@settings(max_examples=60 if NIGHT else 30, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.sampled_from(target_names()))
def test_equal_or_refused(model: Any, target: str) -> None:
    if model is not None:
        hold(model, target)


@pytest.mark.slow
@nightly
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.sampled_from(["bvlc-1.0", "ssd"]))
def test_equal_or_refused_many(model: Any, target: str) -> None:
    if model is not None:
        hold(model, target)


def test_the_table_of_operators_is_known_to_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    own = {
        "Parts", "Focus", "ChannelShuffle", "Mvn", "LrnWithin", "BatchStatistics", "Relu6",
        "UnitNorm", "caffe::layer",
        "RMSNormalization", "Swish",  # ONNX's own from opset 23 and 24 on
    }  # fmt: skip
    assert set(load_operators()) - own <= known
