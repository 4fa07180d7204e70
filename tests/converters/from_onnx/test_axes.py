"""Layers with an axis of their own: second bottoms, convolutions and products without Reshapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffeio.converters.from_onnx.caffe_net import CaffeLayer
from caffeio.converters.from_onnx.compile import Compiled
from caffeio.converters.from_onnx.targets import target_names
from caffeio.converters.from_onnx.verify import build_net
from caffeio.converters.from_onnx.write import prototxt_text
from tests.converters.from_onnx.helpers import compiled, graph_of, kinds, onnx
from tests.converters.from_onnx.test_models import by_opencv

pytest.importorskip("onnxruntime")
make: Any = onnx.helper.make_node
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def product(x: Any, small: Any, op: str = "Mul", target: str = "bvlc-1.0") -> Compiled:
    """`x` by a second input, which has been scaled."""
    nodes = [make("Neg", ["s"], ["n"]), make(op, ["x", "n"], ["y"])]
    return compiled(graph_of(nodes, {"x": x, "s": small}, ["y"]), target=target)


def last(net: Compiled) -> CaffeLayer:
    return net.layers[-1]


@pytest.mark.parametrize(
    ("x", "small", "axis"),
    [
        ((2, 3, 4, 5), (), 1),
        ((2, 3, 4, 5), (5,), 3),
        ((2, 3, 4, 5), (4, 5), 2),
        ((2, 3, 4, 5), (4, 1), 2),
        ((2, 3, 4, 5), (3, 1, 1), 1),
        ((2, 1, 4, 5), (1,), 1),
        ((1, 2, 1, 5), (1, 5), 2),
        ((1, 5, 4), (5, 1), 0),
        ((1, 1, 5, 3), (1, 5, 3), 1),
        (("N", 3, 4, 5), ("N", 3, 1, 1), 0),
        (("N", 3, 4, 5), ("N", 1, 1, 1), 0),
    ],
)
@pytest.mark.parametrize(("op", "kind"), [("Mul", "Scale"), ("Add", "Bias")])
def test_a_second_bottom_covers_axes(x: Any, small: Any, axis: int, op: str, kind: str) -> None:
    net = product(x, small, op)
    assert kinds(net)[:2] == ["Input", "Input"]
    assert kinds(net)[2] == "Power"
    assert kinds(net)[3:] in ([kind], ["Reshape", kind], ["Flatten", kind])
    param = last(net).param
    assert (param.scale_param if op == "Mul" else param.bias_param).axis == axis
    assert net.any_batch == ("N" in x)


def test_a_second_bottom_needs_no_reshape_where_a_shape_fits() -> None:
    """A Reshape that only adds axes of size 1 for ONNX's broadcasting goes."""
    shape = np.array([3, 1, 1])
    nodes = [make("Reshape", ["s", "shape"], ["r"]), make("Mul", ["x", "r"], ["y"])]
    inputs: Any = {"x": (2, 3, 4, 5), "s": (3,)}
    net = compiled(graph_of(nodes, inputs, ["y"], {"shape": shape}))
    assert kinds(net) == ["Input", "Input", "Scale"]
    inputs = {"x": (1, 1, 4, 5), "s": (1,)}
    net = compiled(graph_of(nodes, inputs, ["y"], {"shape": np.array([-1, 1, 1])}))
    assert kinds(net) == ["Input", "Input", "Scale"]
    inputs = {"x": (2, 3, 4, 5), "s": ()}
    shape = np.array([1, 1, 1, 1])
    net = compiled(graph_of(nodes, inputs, ["y"], {"shape": shape}))
    assert kinds(net) == ["Input", "Input", "Scale"]


def test_a_sum_behind_a_product_is_its_bias_where_the_target_reads_one() -> None:
    nodes = [
        make("Mul", ["x", "s"], ["p"]),
        make("Add", ["p", "k"], ["y"]),
    ]
    inputs = {"x": (2, 3, 4, 5), "s": (5,)}
    for k in (np.float32(0.5), numbers(5)):
        model = graph_of(nodes, inputs, ["y"], {"k": k})
        assert kinds(compiled(model)) == ["Input", "Input", "Scale"]
        scale = next(
            layer for layer in compiled(model, target="opencv").layers if len(layer.bottoms) == 2
        )
        assert not scale.param.scale_param.bias_term


@pytest.mark.parametrize("target", ["bvlc-1.0", "ncnn", "sophgo", "opencv"])
def test_factors_and_numbers_behind_them_are_one_scale(target: str) -> None:
    """Also where the target has no Bias."""
    nodes = [make("Sigmoid", ["x"], ["a"]), make("Mul", ["a", "k"], ["b"]),
             make("Add", ["b", "c"], ["y"])]  # fmt: skip
    constants = {"k": numbers(3, 1, 1), "c": numbers(3, 1, 1)}
    net = compiled(graph_of(nodes, {"x": (1, 3, 4, 5)}, ["y"], constants), target=target)
    assert kinds(net) == ["Input", "Sigmoid", "Scale"]
    assert len(last(net).blobs) == 2


@pytest.mark.parametrize(
    ("x", "small", "target", "found"),
    [
        ((2, 3, 4, 5), (4, 5), "opencv", [(2, (4, 5))]),
        ((2, 3, 4, 5), (5,), "opencv", [(3, (5,))]),
        ((2, 3, 4, 5), (2, 3, 1, 1), "opencv", [(0, (2, 3))]),
        ((2, 3, 4, 5), (1,), "opencv", []),
        ((1, 3, 4, 5), (1, 3, 1, 1), "ncnn", [(0, (1, 3))]),
        ((1, 3, 4, 5), (5,), "ncnn", []),
        ((1, 3, 4, 5), (4, 5), "sophgo", []),
        ((1, 3, 4, 5), (1, 3, 4, 1), "sophgo", [(0, (1, 3, 4))]),
        ((1, 3, 4), (1, 3, 1), "sophgo", [(0, (1, 3))]),
    ],
)
def test_a_second_bottom_that_the_target_reads(
    x: Any, small: Any, target: str, found: list[tuple[int, tuple[int, ...]]]
) -> None:
    """TPU-MLIR does not read the axis; ncnn takes one number a channel; OpenCV no lone number."""
    net = product(x, small, target=target)
    scales = [la for la in net.layers if la.type_name == "Scale" and len(la.bottoms) == 2]
    shapes = [(la.param.scale_param.axis, net_shape(net, la.bottoms[1])) for la in scales]
    assert shapes == found


def net_shape(net: Compiled, blob: str) -> tuple[int, ...]:
    return tuple(build_net(net).blob_shapes[blob])


def test_a_second_bottom_in_opencv(tmp_path: Path) -> None:
    """One input, so that the reader is fed as in the other tests."""
    nodes = [
        make("ReduceMean", ["x"], ["m"], axes=[0, 1, 2], keepdims=0),
        make("Mul", ["x", "m"], ["y"]),
    ]
    torch = pytest.importorskip("torch")
    net = compiled(graph_of(nodes, {"x": (1, 3, 4, 5)}, ["y"]), target="opencv")
    x = torch.from_numpy(numbers(1, 3, 4, 5))
    (theirs,) = by_opencv(net, tmp_path, x)
    wanted = x * x.mean((0, 1, 2))
    assert np.abs(theirs - wanted.numpy()).max() < 1e-6


def window(x: Any, nodes: list[Any], constants: dict[str, np.ndarray], target: str) -> Compiled:
    return compiled(graph_of(nodes, {"x": x}, ["y"], constants), target=target)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("target", ["bvlc-1.0", "ssd", "intel", "nvidia"])
def test_one_axis(op: str, target: str) -> None:
    attrs = {"strides": [2], "dilations": [2], "pads": [2, 2], "group": 2}
    nodes = [make(op, ["x", "w", "b"], ["y"], **attrs)]
    weight = numbers(6, 2, 3) if op == "Conv" else numbers(4, 3, 3)
    net = window(("N", 4, 9), nodes, {"w": weight, "b": numbers(6)}, target)
    assert kinds(net) == ["Input", "Convolution" if op == "Conv" else "Deconvolution"]
    p = last(net).param.convolution_param
    assert (list(p.kernel_size), list(p.stride), list(p.pad), list(p.dilation)) == (
        [3], [2], [2], [2],
    )  # fmt: skip
    assert p.engine == p.CAFFE
    assert net.any_batch


@pytest.mark.parametrize("target", sorted({*target_names()} - {"bvlc-1.0", "bvlc", "ssd"}))
def test_one_axis_is_a_map_where_the_target_knows_maps_only(target: str) -> None:
    nodes = [make("Conv", ["x", "w"], ["y"], pads=[2, 2], dilations=[2])]
    net = window((1, 4, 9), nodes, {"w": numbers(6, 4, 3)}, target)
    maps = net.target.rule("convolution_maps") is not None
    assert ("Reshape" in kinds(net)) == maps
    if maps:  # no two dilations: TPU-MLIR takes the first for the columns'
        conv = next(layer for layer in net.layers if layer.type_name == "Convolution")
        assert list(conv.param.convolution_param.dilation) == [2]


def test_one_axis_stays_a_map_beside_a_pooling() -> None:
    nodes = [
        make("Conv", ["x", "w"], ["c"], pads=[1, 1]),
        make("MaxPool", ["c"], ["p"], kernel_shape=[3], strides=[1]),
        make("Conv", ["p", "v"], ["y"]),
    ]
    net = window(("N", 4, 9), nodes, {"w": numbers(6, 4, 3), "v": numbers(2, 6, 3)}, "bvlc-1.0")
    assert kinds(net) == ["Input", "Reshape", "Convolution", "Pooling", "Convolution", "Reshape"]


def reshaped(node: Any, to: tuple[int, ...], back: tuple[int, ...]) -> tuple[list[Any], Any]:
    nodes = [make("Reshape", ["x", "to"], ["a"]), node, make("Reshape", ["c", "back"], ["y"])]
    return nodes, {"to": np.array(to), "back": np.array(back)}


@pytest.mark.parametrize(
    ("x", "to", "back", "axis"),
    [
        ((4, 6, 7), (1, 4, 6, 7), (6, 6, 7), 0),
        ((2, 3, 4, 6, 7), (6, 4, 6, 7), (2, 3, 6, 6, 7), 2),
        ((1, 4, 6, 7, 1), (1, 4, 6, 7), (1, 6, 6, 7), None),
        ((4, 2, 6, 7), (2, 4, 6, 7), (2, 6, 6, 7), None),
    ],
)
def test_the_axis_of_the_channels(x: Any, to: Any, back: Any, axis: int | None) -> None:
    nodes, constants = reshaped(make("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1]), to, back)
    net = window(x, nodes, {**constants, "w": numbers(6, 4, 3, 3)}, "bvlc-1.0")
    p = next(la for la in net.layers if la.type_name == "Convolution").param.convolution_param
    assert p.axis == (1 if axis is None else axis)
    assert ("Reshape" not in kinds(net)) == (axis is not None)
    maps = window(x, nodes, {**constants, "w": numbers(6, 4, 3, 3)}, "opencv")
    assert "Reshape" in kinds(maps)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("target", ["bvlc-1.0", "opencv", "nnie"])
def test_nothing_to_slide_over(group: int, target: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    node = make("Conv", ["a", "w", "b"], ["c"], group=group)
    nodes, constants = reshaped(node, (-1, 4, 1, 1), (-1, 2))
    weights = {"w": numbers(2, 4 // group, 1, 1), "b": numbers(2)}
    net = window((1, 4), nodes, {**constants, **weights}, target)
    if group == 1:
        assert kinds(net) == ["Input", "InnerProduct"]
    elif target == "bvlc-1.0":
        assert kinds(net) == ["Input", "Convolution"]
        assert last(net).blobs[0].shape == (2, 2)
        assert "kernel_size: 1" in prototxt_text(net, "x")
    else:
        assert kinds(net) == ["Input", "Reshape", "Convolution", "Flatten"]
    if target == "opencv":
        x = torch.from_numpy(numbers(1, 4))
        (theirs,) = by_opencv(net, tmp_path, x)
        with torch.no_grad():
            wanted = build_net(net)({net.inputs["x"]: x})[net.outputs["y"]]
        assert np.abs(theirs - wanted.numpy()).max() < 1e-6


def test_a_product_of_rows() -> None:
    nodes, constants = reshaped(make("Gemm", ["a", "w", "b"], ["c"]), (-1, 5), (-1, 4, 3))
    weights = {"w": numbers(5, 3), "b": numbers(3)}
    net = window(("N", 4, 5), nodes, {**constants, **weights}, "bvlc-1.0")
    assert kinds(net) == ["Input", "InnerProduct"]
    assert last(net).param.inner_product_param.axis == 2
    assert net.any_batch
    flat = window(("N", 4, 5), nodes, {**constants, **weights}, "ncnn")
    assert kinds(flat) == ["Input", "Reshape", "InnerProduct", "Reshape"]


@pytest.mark.parametrize(("axes", "shape"), [([3], [2, 3, 6]), ([2, 3], [2, 3])])
def test_a_mean_and_a_factor_are_one_reduction(axes: list[int], shape: list[int]) -> None:
    nodes = [
        make("ReduceMean", ["x"], ["m"], axes=axes, keepdims=1),
        make("Mul", ["m", "k"], ["p"]),
        make("Reshape", ["p", "shape"], ["y"]),
    ]
    constants = {"k": np.float32(-0.9), "shape": np.array(shape)}
    net = compiled(graph_of(nodes, {"x": (2, 3, 6, 1)}, ["y"], constants))
    assert kinds(net) == ["Input", "Reduction"]
    assert last(net).param.reduction_param.coeff == np.float32(-0.9)
