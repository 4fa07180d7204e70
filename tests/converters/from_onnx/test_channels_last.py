"""Graphs with channels last, as TensorFlow's exporters write them: Transposes that cancel go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffeio.converters.from_onnx.compile import Compiled
from tests.converters.from_onnx.helpers import compiled, graph_of, kinds, onnx

pytest.importorskip("onnxruntime")
FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def between(nodes: list[Any], constants: dict[str, np.ndarray], ends: str = "z") -> Compiled:
    """A convolution, nodes on its map with channels last (y -> z), and another convolution."""
    make = onnx.helper.make_node
    graph = [
        make("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        make("Transpose", ["c"], ["y"], perm=LAST),
        *nodes,
        make("Transpose", [ends], ["t"], perm=FIRST),
        make("Relu", ["t"], ["out"]),
    ]
    constants = {"w": numbers(4, 3, 3, 3), **constants}
    return compiled(graph_of(graph, {"x": ["N", 3, 5, 6]}, ["out"], constants), target="bvlc-1.0")


def one(op: str, inputs: tuple[str, ...] = ("y",), **attrs: Any) -> list[Any]:
    return [onnx.helper.make_node(op, list(inputs), ["z"], **attrs)]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (one("LeakyRelu"), {}),
        (one("Add", ("y", "k")), {"k": numbers(4)}),
        (one("Mul", ("k", "y")), {"k": numbers(1, 1, 1, 4)}),
        (one("Sub", ("y", "k")), {"k": numbers(5, 6, 1)}),
        (one("PRelu", ("y", "k")), {"k": numbers(1, 1, 4)}),
        (one("Clip", ("y", "lo", "hi")), {"lo": np.float32(0), "hi": np.float32(1)}),
        (one("Concat", ("y", "y"), axis=3), {}),
        (one("Concat", ("y", "y"), axis=-2), {}),
        (one("Softmax", axis=-1), {}),
        (one("Pad", ("y", "p")), {"p": np.array([0, 1, 0, 0, 0, 0, 2, 0])}),
        (one("ReduceMean", axes=[1, 2], keepdims=1), {}),
        (one("MatMul", ("y", "k")), {"k": numbers(4, 7)}),
        (
            [onnx.helper.make_node("MatMul", ["y", "k"], ["p"]), *one("Add", ("p", "b"))],
            {"k": numbers(4, 7), "b": numbers(7)},
        ),
        (one("Transpose", perm=[0, 2, 1, 3]), {}),
    ],
)
def test_transposes_move_behind(nodes: list[Any], constants: dict[str, np.ndarray]) -> None:
    op = nodes[0].op_type
    made = kinds(between(nodes, constants))
    moved = {"Slice", "Reshape", "Permute"} & set(made)
    assert not moved or op in ("Transpose", "Concat"), made
    assert made[1] == "Convolution"


def test_what_stays_beside_the_map() -> None:
    """A reduction that drops its axes leaves nothing to transpose; so does a flat product."""
    make = onnx.helper.make_node
    nodes = [
        make("Transpose", ["x"], ["t"], perm=FIRST),
        make("Conv", ["t", "w"], ["c"]),
        make("Transpose", ["c"], ["y"], perm=LAST),
        make("Relu", ["y"], ["r"]),
        make("ReduceMean", ["r"], ["m"], axes=[1, 2], keepdims=0),
        make("Reshape", ["r", "flat"], ["f"]),
        make("MatMul", ["f", "k"], ["p"]),
    ]
    constants = {"w": numbers(4, 3, 3, 3), "flat": np.array([-1, 48]), "k": numbers(48, 2)}
    net = compiled(graph_of(nodes, {"x": ["N", 5, 6, 3]}, ["m", "p"], constants), target="ssd")
    assert kinds(net).count("Permute") == 1  # the input's own
    assert {"Pooling", "InnerProduct"} <= set(kinds(net))


def test_a_lone_transpose_stays_where_it_is() -> None:
    make = onnx.helper.make_node
    nodes = [make("Transpose", ["x"], ["t"], perm=FIRST), make("Relu", ["t"], ["y"])]
    net = compiled(graph_of(nodes, {"x": [1, 5, 6, 3]}, ["y"]), target="ssd")
    assert kinds(net) == ["Input", "Permute", "ReLU"]


def test_a_number_with_more_axes_than_the_map() -> None:
    """What it is added to has more axes than the Transpose before: that stays there."""
    make = onnx.helper.make_node
    nodes = [
        make("Transpose", ["x"], ["y"], perm=LAST),
        make("Relu", ["y"], ["r"]),
        make("Transpose", ["r"], ["t"], perm=FIRST),
        make("Add", ["y", "k"], ["a"]),
        make("Reshape", ["a", "flat"], ["f"]),
    ]
    constants = {"k": np.ones((1, 1, 1, 1, 1), np.float32), "flat": np.array([1, 90])}
    compiled(graph_of(nodes, {"x": [1, 3, 5, 6]}, ["t", "f"], constants), target="ssd")


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [9, 11, 12, 13])
def test_a_softmax_over_channels_before_opset_13(opset: int, op: str) -> None:
    """It took all axes from its own on then, so that exporters put Transposes around it."""
    make = onnx.helper.make_node
    nodes = [
        make("Transpose", ["x"], ["t"], perm=LAST),
        make(op, ["t"], ["s"], axis=3),
        make("Transpose", ["s"], ["y"], perm=FIRST),
    ]
    found = compiled(graph_of(nodes, {"x": ["N", 3, 5, 6]}, ["y"], opset=opset))
    assert kinds(found) == ["Input", "Softmax", "Log"][: 2 + (op == "LogSoftmax")]
    nodes[1] = make(op, ["t"], ["s"], axis=2)
    found = compiled(graph_of(nodes, {"x": ["N", 3, 5, 6]}, ["y"], opset=opset), target="ssd")
    assert kinds(found).count("Permute") == (2 if opset < 13 else 0)
