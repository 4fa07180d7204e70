"""A graph in float16: weights take half the room; what half cannot hold stays in float32.

Inputs and outputs stay float32. A layer stays float32 as a whole where a number of it is too large
for half (or a small one, such as an eps, would be 0), where it sums squares, looks rows up or sorts
boxes. Operators that only move numbers keep the type of what they move.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffeio.converters.onnx.build import Built
from caffeio.converters.onnx.infer import Dims, Type, infer
from caffeio.layers.onnx.graph import FLOAT, OnnxGraph, OnnxNode

HALF = 10  # onnx.TensorProto.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)
_PRECISE = frozenset(
    (
        "ReduceSumSquare",
        "ReduceSum",
        "ReduceL1",
        "LRN",
        "Pow",
        "Exp",
        "Log",
        "Cast",
        "Range",
        "NonMaxSuppression",
        "TopK",
        "ArgMax",
        "MaxRoiPool",
        "LSTM",
        "RNN",
        "Sqrt",
    )
)
_MOVES = frozenset(
    (
        "Reshape",
        "Flatten",
        "Transpose",
        "Split",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Concat",
        "Gather",
        "Expand",
        "Tile",
        "DepthToSpace",
        "Compress",
    )
)
_WIDE_INPUTS = {"Resize": (1, 2, 3)}  # inputs that are float32 whatever the type is


def to_half(built: Built, inputs: Mapping[str, Dims]) -> tuple[int, int]:
    """Make a graph that is written for `OPSET` one in float16; bytes of weights before and after.

    `inputs` are the shapes of its inputs, None for sizes that may be any.
    """
    before = sum(a.nbytes for a in built.graph.constants.values())
    types = infer(built.graph, inputs, built.elements)
    work = _Halves(built.graph, types)
    ends = set(built.outputs.values())
    for node in built.graph.nodes:
        work.convert(node, ends)
    built.graph.nodes = work.nodes
    work.name_constants()
    used = {name for node in work.nodes for name in node.inputs}
    built.graph.constants = {k: v for k, v in built.graph.constants.items() if k in used}
    for name in work.is_half:
        if name not in built.graph.constants:
            built.elements[name] = np.dtype(np.float16)
    return before, sum(a.nbytes for a in built.graph.constants.values())


class _Halves:
    """The nodes of a graph, converted one after the other."""

    def __init__(self, graph: OnnxGraph, types: Mapping[str, Type]) -> None:
        self.graph, self.types = graph, types
        self.nodes: list[OnnxNode] = []
        self.is_half: set[str] = set()
        self.wide: set[str] = set()  # layers that stay float32
        self.copies: dict[tuple[str, bool], str] = {}  # (value, half) -> the value in that type
        self.narrow: dict[str, str] = {}  # constants -> their copies in half
        for node in graph.nodes:
            if node.op_type in _PRECISE or not self._fits(node):
                self.wide.add(node.layer)

    def _fits(self, node: OnnxNode) -> bool:
        """Whether half holds the constants and the numbers of a node."""
        numbers = [v for v in node.attributes.values() if isinstance(v, float)]
        if any(v and not 1e-7 < abs(v) <= _LARGEST for v in numbers):
            return False
        for i, name in enumerate(node.inputs):
            array = self.graph.constants.get(name)
            if array is None or array.dtype != np.float32:
                continue
            if not float(np.abs(array).max(initial=0.0)) <= _LARGEST:
                return False
            alone = array.size == 1 or (node.op_type == "BatchNormalization" and i == 4)
            lost = alone and ((array.astype(np.float16) == 0) & (array != 0)).any()
            if lost:
                return False
        return True

    def is_float(self, name: str) -> bool:
        """Whether a value of the old graph is float32."""
        return name in self.types and self.types[name].element == FLOAT

    def convert(self, node: OnnxNode, ends: set[str]) -> None:
        """Add a node, in half unless its layer stays float32."""
        floats = [n for n in node.inputs if n and self.is_float(n)]
        half = node.layer not in self.wide and bool(floats)
        if half and node.op_type in _MOVES:
            moved = [n for n in floats if n not in self.graph.constants] or floats
            half = any(n in self.is_half for n in moved)
        node.inputs = [
            self.typed(node, name, half and i not in _WIDE_INPUTS.get(node.op_type, ()))
            for i, name in enumerate(node.inputs)
        ]
        self.nodes.append(node)
        for i, name in enumerate(node.outputs):
            if not half or not self.is_float(name):
                continue
            if name in ends:  # outputs stay float32
                node.outputs[i] = self.graph.fresh(f"{name}/half")
                self.copies[name, True] = node.outputs[i]
                self._cast(node.layer, node.outputs[i], name, FLOAT)
                self.is_half.add(node.outputs[i])
            else:
                self.is_half.add(name)

    def typed(self, node: OnnxNode, name: str, half: bool) -> str:
        """The value `name` as half or float32, cast if it is the other."""
        if not name or not self.is_float(name) or half == (name in self.is_half):
            return name
        if name in self.graph.constants:
            if name not in self.narrow:
                self.narrow[name] = self.graph.fresh(f"{name}/half")
                array = self.graph.constants[name].astype(np.float16)
                self.graph.constants[self.narrow[name]] = array
                self.graph.shapes[self.narrow[name]] = array.shape
            return self.narrow[name]
        if (name, half) not in self.copies:
            new = self.graph.fresh(f"{name}/{'half' if half else 'float'}")
            self._cast(node.layer, name, new, HALF if half else FLOAT)
            self.copies[name, half] = new
            self.is_half |= {new} if half else set()
        return self.copies[name, half]

    def _cast(self, layer: str, old: str, new: str, to: int) -> None:
        self.nodes.append(OnnxNode("Cast", [old], [new], {"to": to}, layer))

    def name_constants(self) -> None:
        """Let constants that are needed in half only keep their names."""
        used = {name for node in self.nodes for name in node.inputs}
        names = {new: old for old, new in self.narrow.items() if old not in used}
        for node in self.nodes:
            node.inputs = [names.get(name, name) for name in node.inputs]
        for new, old in names.items():
            self.graph.constants[old] = self.graph.constants.pop(new)
