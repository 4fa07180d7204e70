"""A graph written for `OPSET` as one for another opset: the forms that operators had there.

Nothing is relabelled: each node is held against the schema that ONNX has for that opset, and where
that differs (axes that were attributes, sizes that were no inputs, operators that came later), it
is written in the form of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from caffeio.converters.onnx.infer import Dims, Type, infer
from caffeio.errors import UnsupportedError
from caffeio.layers.onnx.graph import OPSET, OnnxGraph, OnnxNode

LEAST, MOST = 9, 24
OWN = ("DetectionOutput",)  # operators of OpenCV, which are in no opset
Form = Callable[["Rewriter", OnnxNode], None]
_AXIS = ("axis", "axes")


class Rewriter:
    """The new nodes of a graph; `types` are those of the values that were there before."""

    def __init__(self, graph: OnnxGraph, types: Mapping[str, Type], opset: int) -> None:
        self.graph, self.types, self.opset = graph, types, opset
        self.nodes: list[OnnxNode] = []

    def add(
        self,
        like: OnnxNode,
        op_type: str,
        inputs: Sequence[str],
        *,
        last: bool = False,
        **given: Any,
    ) -> str:
        """Add a node of the layer of `like`, with its outputs if it is the `last`; its output."""
        names = list(like.outputs) if last else [self.graph.fresh(f"{like.layer}/{op_type}")]
        kept = {key: value for key, value in given.items() if value is not None}
        node = OnnxNode(op_type, list(inputs), names, kept, like.layer)
        if last:
            self.put(node)
        else:
            self.rewrite(node)
        return names[0]

    def put(self, node: OnnxNode) -> None:
        """Add a node as it is."""
        self.nodes.append(node)

    def rewrite(self, node: OnnxNode) -> None:
        """Add a node in the form of the opset."""
        for op_type, least, most, form in _FORMS:
            if op_type == node.op_type and least <= self.opset <= most:
                form(self, node)
                return
        self.put(node)

    def const(self, like: OnnxNode, value: np.ndarray, hint: str) -> str:
        """Add a constant; returns its name."""
        array = value.astype(np.int64) if value.dtype.kind in "iu" else value
        name = self.graph.fresh(f"{like.layer}.{hint}")
        self.graph.constants[name] = array
        self.graph.shapes[name] = array.shape
        return name

    def value(self, node: OnnxNode, index: int) -> np.ndarray | None:
        """The constant that input `index` is; None if it is left out. Raises UnsupportedError."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return None
        if name not in self.graph.constants:
            raise self.refusal(node, f"input {index} of {node.op_type} must be known beforehand")
        return self.graph.constants[name]

    def dims(self, node: OnnxNode, name: str) -> Dims:
        """The sizes of a value, whose number at least is known. Raises UnsupportedError."""
        found = self.types[name].dims if name in self.types else None
        if found is None:
            raise self.refusal(node, f"the number of axes of {name!r} is not known")
        return found

    def refusal(self, node: OnnxNode, reason: str) -> UnsupportedError:
        """The error for a node that the opset cannot say."""
        return UnsupportedError(
            f"layer {node.layer!r} cannot be written for opset {self.opset}: {reason}"
        )


def to_opset(
    graph: OnnxGraph,
    inputs: Mapping[str, Dims],
    opset: int,
    elements: Mapping[str, Any] | None = None,
) -> None:
    """Write the nodes of `graph` in the forms of `opset`, from 9 to 24.

    Raises UnsupportedError that names the layer for what that opset cannot say.
    """
    if not LEAST <= opset <= MOST:
        raise UnsupportedError(f"opset {opset} is not written: give one from {LEAST} to {MOST}")
    formed = {op_type for op_type, least, most, _ in _FORMS if least <= opset <= most}
    _check_nodes(
        [node for node in graph.nodes if node.op_type not in formed], opset, known_only=True
    )
    if opset != OPSET:
        out = Rewriter(graph, infer(graph, inputs, elements), opset)
        for node in graph.nodes:
            out.rewrite(_positive(out, node) if opset < 13 else node)
        graph.nodes = out.nodes
    _check_nodes(graph.nodes, opset)
    used = {name for node in graph.nodes for name in node.inputs}
    graph.constants = {k: v for k, v in graph.constants.items() if k in used}


def _check_nodes(nodes: Sequence[OnnxNode], opset: int, *, known_only: bool = False) -> None:
    """Hold every node against its schema of the opset; `known_only`: only that there is one."""
    defs = import_module("onnx").defs
    for node in nodes:
        if node.op_type in OWN:
            continue
        where = f"layer {node.layer!r} cannot be written for opset {opset}: "
        try:
            schema = defs.get_schema(node.op_type, opset, "")
        except defs.SchemaError:
            schema = None
        if schema is None or schema.deprecated:
            known = [s for s in defs.get_all_schemas_with_history()
                     if s.name == node.op_type and s.domain == "" and not s.deprecated]  # fmt: skip
            first = min((s.since_version for s in known), default=0)
            words = f"it needs {node.op_type}" + (f", which is there from opset {first} on"
                                               if first > opset else "")  # fmt: skip
            raise UnsupportedError(where + words)
        if known_only:
            continue
        odd = sorted(set(node.attributes) - set(schema.attributes))
        if odd:
            raise UnsupportedError(f"{where}{node.op_type} has no attribute {odd[0]!r} there")
        if not schema.min_input <= len(node.inputs) <= schema.max_input:
            raise UnsupportedError(
                f"{where}{node.op_type} takes no {len(node.inputs)} inputs there"
            )


def _positive(p: Rewriter, node: OnnxNode) -> OnnxNode:
    """Axes that count from behind are newer than the operators."""
    given = {k: v for k, v in node.attributes.items() if k in _AXIS}
    flat = [n for v in given.values() for n in (v if isinstance(v, (tuple, list)) else [v])]
    if all(n >= 0 for n in flat):
        return node
    ndim = len(p.dims(node, node.inputs[0]))
    changed = {
        key: [n % ndim for n in v] if isinstance(v, (tuple, list)) else v % ndim
        for key, v in given.items()
    }
    return OnnxNode(node.op_type, node.inputs, node.outputs, {**node.attributes, **changed},
                    node.layer)  # fmt: skip


def _as_attributes(*names: str) -> Form:
    """A form in which the inputs from 1 on are attributes of these names."""

    def form(p: Rewriter, node: OnnxNode) -> None:
        given = dict(node.attributes)
        for index, name in enumerate(names, 1):
            array = p.value(node, index)
            if array is not None:
                given[name] = array.tolist()
        p.add(node, node.op_type, node.inputs[:1], last=True, **given)

    return form


def _slice(p: Rewriter, node: OnnxNode) -> None:
    """Slice had no steps: what is mirrored is gathered."""
    steps = p.value(node, 4)
    if steps is None or (steps == 1).all():
        _as_attributes("starts", "ends", "axes")(p, OnnxNode("Slice", node.inputs[:4], node.outputs,
                                                             {}, node.layer))  # fmt: skip
        return
    axes = p.value(node, 3)
    assert axes is not None
    axis, size = int(axes[0]), p.dims(node, node.inputs[0])[int(axes[0])]
    if steps.tolist() != [-1] or size is None:
        raise p.refusal(node, "Slice has no steps there")
    order = p.const(node, np.arange(size)[::-1].copy(), "mirrored")
    p.add(node, "Gather", [node.inputs[0], order], last=True, axis=axis)


def _axes_as_input(p: Rewriter, node: OnnxNode) -> None:
    given = dict(node.attributes)
    axes = given.pop("axes", None)
    more = [] if axes is None else [p.const(node, np.asarray(axes, np.int64), "axes")]
    p.add(node, node.op_type, [node.inputs[0], *more], last=True, **given)


def _padded(p: Rewriter, node: OnnxNode) -> None:
    pads, value = p.value(node, 1), p.value(node, 2)
    assert pads is not None
    number = None if value is None else float(value)
    p.add(node, "Pad", node.inputs[:1], last=True, pads=pads.tolist(), value=number)


def _limits(p: Rewriter, node: OnnxNode) -> None:
    low, high = p.value(node, 1), p.value(node, 2)
    limits = {"min": low, "max": high}
    given = {key: float(v) for key, v in limits.items() if v is not None}
    p.add(node, "Clip", node.inputs[:1], last=True, **given)


def _count(p: Rewriter, node: OnnxNode) -> None:
    k = p.value(node, 1)
    assert k is not None
    p.add(node, "TopK", node.inputs[:1], last=True, k=int(k.reshape(-1)[0]), **node.attributes)


def _gemm(p: Rewriter, node: OnnxNode) -> None:
    """Gemm needs its C."""
    inputs = list(node.inputs)
    if len(inputs) == 2:
        dtype = p.graph.constants[inputs[1]].dtype if inputs[1] in p.graph.constants else np.float32
        inputs.append(p.const(node, np.zeros(1, dtype), "zero"))
    p.add(node, "Gemm", inputs, last=True, **node.attributes)


def _shape(p: Rewriter, node: OnnxNode) -> None:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    if not start and end is None:
        p.put(node)
        return
    whole = p.add(node, "Shape", node.inputs)
    ndim = len(p.dims(node, node.inputs[0]))
    bounds = ((start, "start"), (ndim if end is None else end, "end"), (0, "axis"))
    parts = [p.const(node, np.array([n], np.int64), hint) for n, hint in bounds]
    p.rewrite(OnnxNode("Slice", [whole, *parts], node.outputs, {}, node.layer))


def _softmax(p: Rewriter, node: OnnxNode) -> None:
    """Below 13 Softmax took all axes from `axis` on as one: the axis goes to the end for it."""
    dims, axis = p.dims(node, node.inputs[0]), node.attributes["axis"]
    if all(n == 1 for n in dims[axis + 1 :]):
        p.put(node)
        return
    order = [i for i in range(len(dims)) if i != axis] + [axis]
    moved = p.add(node, "Transpose", node.inputs, perm=order)
    found = OnnxNode("Softmax", [moved], [p.graph.fresh(f"{node.layer}/Softmax")],
                     {"axis": len(dims) - 1}, node.layer)  # fmt: skip
    p.put(found)
    back = [order.index(i) for i in range(len(dims))]
    p.add(node, "Transpose", found.outputs, last=True, perm=back)


def _mod(p: Rewriter, node: OnnxNode) -> None:
    """x - (x / y) y of whole numbers, none of them negative."""
    x, y = node.inputs
    times = p.add(node, "Mul", [p.add(node, "Div", [x, y]), y])
    p.add(node, "Sub", [x, times], last=True)


def _windows(p: Rewriter, node: OnnxNode) -> None:
    """MaxPool without ceil_mode: pads behind that give the same windows."""
    given = dict(node.attributes)
    if given.pop("ceil_mode", 0):
        sizes = p.dims(node, node.inputs[0])[2:]
        kernel, stride = given["kernel_shape"], given["strides"]
        behind = []
        for n, k, s in zip(sizes, kernel, stride, strict=True):
            if n is None:
                raise p.refusal(node, "MaxPool rounds sizes down there, and they are not fixed")
            behind.append(max(0, -(-(n - k) // s) * s + k - n))
        given["pads"] = (*[0] * len(behind), *behind)
    p.add(node, node.op_type, node.inputs, last=True, **given)


def _blocks(p: Rewriter, node: OnnxNode) -> None:
    """DepthToSpace in Caffe's order of channels, which came with opset 11."""
    if node.attributes.get("mode") != "CRD":
        p.put(node)
        return
    r, (_, c, h, w) = node.attributes["blocksize"], p.dims(node, node.inputs[0])
    if c is None or h is None or w is None:
        raise p.refusal(node, "sizes that are not fixed need DepthToSpace of opset 11")
    split = p.const(node, np.array([0, c // r**2, r, r, h, w]), "shape")
    moved = p.add(node, "Transpose", [p.add(node, "Reshape", [node.inputs[0], split])],
                  perm=[0, 1, 4, 2, 5, 3])  # fmt: skip
    whole = p.const(node, np.array([0, c // r**2, h * r, w * r]), "shape")
    p.add(node, "Reshape", [moved, whole], last=True)


def _scatter(p: Rewriter, node: OnnxNode) -> None:
    p.add(node, "Scatter", node.inputs, last=True, **node.attributes)


def _resize(p: Rewriter, node: OnnxNode) -> None:
    """Below 13 `roi` and `scales` cannot be left out; below 11 there is one kind only."""
    x = node.inputs[0]
    scales = p.value(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None
    if p.opset >= 11:
        empty = p.const(node, np.zeros(0, np.float32), "roi")
        inputs = [x, empty, node.inputs[2] or empty, *node.inputs[3:]]
        p.add(node, "Resize", inputs, last=True, **node.attributes)
    elif node.attributes["mode"] == "nearest" and scales is not None:
        op_type = "Resize" if p.opset == 10 else "Upsample"
        p.add(node, op_type, [x, node.inputs[2]], last=True, mode="nearest")
    else:
        _bilinear(p, node)


def _bilinear(p: Rewriter, node: OnnxNode) -> None:
    """Bilinear between fixed sizes, corners in place: a matrix for each axis."""
    x = node.inputs[0]
    old, new = p.dims(node, x)[2:], p.dims(node, node.outputs[0])[2:]
    if node.attributes.get("coordinate_transformation_mode") != "align_corners" or None in (
        *old,
        *new,
    ):
        raise p.refusal(node, "this Resize came with opset 11")
    (h, w), (high, wide) = old, new
    rows = p.const(node, _corners(int(h or 0), int(high or 0)), "rows")
    columns = p.const(node, _corners(int(w or 0), int(wide or 0)).T.copy(), "columns")
    wider = p.add(node, "MatMul", [x, columns])
    p.add(node, "MatMul", [rows, wider], last=True)


def _corners(old: int, new: int) -> np.ndarray:
    """The matrix (new, old) of bilinear interpolation whose ends stay in place."""
    out = np.zeros((new, old), np.float32)
    for i in range(new):
        at = np.float32(i) * (np.float32(old - 1) / np.float32(new - 1)) if new > 1 else 0.0
        low = min(int(at), old - 1)
        part = np.float32(at - low)
        out[i, low] += 1 - part
        out[i, min(low + 1, old - 1)] += part
    return out


# operator, first and last opset at which another form is needed, the form
_FORMS: tuple[tuple[str, int, int, Form], ...] = (
    ("Squeeze", 1, 12, _as_attributes("axes")),
    ("Unsqueeze", 1, 12, _as_attributes("axes")),
    ("ReduceSum", 1, 12, _as_attributes("axes")),
    ("Split", 1, 12, _as_attributes("split")),
    ("Slice", 1, 9, _slice),
    ("Pad", 1, 10, _padded),
    ("Clip", 1, 10, _limits),
    ("TopK", 1, 9, _count),
    ("Gemm", 1, 10, _gemm),
    ("Shape", 1, 14, _shape),
    ("Softmax", 1, 12, _softmax),
    ("Mod", 1, 9, _mod),
    ("MaxPool", 1, 9, _windows),
    ("DepthToSpace", 1, 10, _blocks),
    ("ScatterElements", 1, 10, _scatter),
    ("Resize", 1, 12, _resize),
    ("ReduceMean", 18, MOST, _axes_as_input),
    ("ReduceMax", 18, MOST, _axes_as_input),
    ("ReduceL1", 18, MOST, _axes_as_input),
    ("ReduceSumSquare", 18, MOST, _axes_as_input),
)
