"""The tables: well-formed, with sources, obeyed by what is written for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from caffeio.converters.from_onnx.compile import compile_model
from caffeio.converters.from_onnx.rewriting import form_of
from caffeio.converters.from_onnx.rules import complaints
from caffeio.converters.from_onnx.targets import (
    RULES,
    STATES,
    Target,
    TargetRow,
    get_target,
    target_names,
)
from caffeio.converters.from_onnx.write import prototxt_text, unverified
from caffeio.converters.rewrites.floor import floor_pooling
from caffeio.errors import CaffeIOError
from caffeio.proto import caffe_pb2 as pb
from tests.converters.from_onnx.helpers import Of, compiled, export, graph_of, kinds, onnx
from tests.converters.from_onnx.test_operators import FUNCTIONS, X

pytest.importorskip("onnxruntime")
WANTED = {"bvlc-1.0", "bvlc", "ssd", "intel", "nvidia", "nnie", "sophgo", "rockchip", "ncnn"}


def test_all_targets_are_there_and_every_row_has_a_source() -> None:
    assert set(target_names()) >= WANTED
    for name in target_names():
        target = get_target(name)
        assert target.title
        assert target.has("Convolution")
        assert target.has("Input")
        for row in target.rows:
            assert row.state in STATES
            assert len(row.source) > 8
        assert not set(target.wrong) & set(target.layers)
        for kind in {name.partition(" ")[0] for name in target.only}:
            assert target.has(kind)  # else no row of its fields is asked
            list(complaints(target, pb.LayerParameter(type=kind), [], []))  # all of them are fields
    assert set().union(*(get_target(name).rules for name in target_names())) == set(RULES)


def test_an_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(CaffeIOError, match=r"unknown target 'bvlc2'; known are bvlc, bvlc-1.0"):
        get_target("bvlc2")


@pytest.mark.parametrize("name", sorted(WANTED | {"opencv"}))
def test_what_is_written_is_what_the_target_takes(name: str) -> None:
    target = get_target(name)
    for key in ("hardswish", "squeeze_excite", "max_pool_floor", "channel_shuffle", "nearest_2"):
        net = compiled(export(Of(lambda m, x, key=key: FUNCTIONS[key][0](x)), X), target=name)
        for layer in net.layers:
            assert not list(complaints(target, layer.param, [], []))


def test_own_layers_of_a_target_are_used() -> None:
    relu6 = export(Of(lambda m, x: F.relu6(x)), X)
    assert kinds(compiled(relu6, target="bvlc")) == ["Input", "Clip"]
    assert kinds(compiled(relu6, target="ncnn")) == ["Input", "ReLU6"]
    silu = export(Of(lambda m, x: F.silu(x)), X)
    assert kinds(compiled(silu, target="intel")) == ["Input", "Swish"]
    turned = export(Of(lambda m, x: x.permute(0, 2, 3, 1)), X)
    assert kinds(compiled(turned, target="ssd")) == ["Input", "Permute"]
    big = Of(lambda m, x: F.interpolate(x, (17, 20), mode="bilinear", align_corners=True))
    assert kinds(compiled(export(big, X), target="sophgo")) == ["Input", "Interp"]
    assert "Interp" not in kinds(compiled(export(big, X), target="ncnn"))
    half = Of(lambda m, x: F.interpolate(x, (17, 20), mode="bilinear"))
    assert "Interp" not in kinds(compiled(export(half, X), target="sophgo"))
    pool = compiled(export(nn.MaxPool2d(2), X), target="bvlc")
    assert kinds(pool) == ["Input", "Pooling"]
    assert "round_mode: FLOOR" in prototxt_text(pool, "x")


def test_factors_and_a_bias_are_one_scale_where_there_is_no_bias_layer() -> None:
    factors, bias = torch.rand(8, 1, 1) + 0.5, torch.randn(8, 1, 1)
    model = export(Of(lambda m, x: F.relu(x) * factors + bias), X)
    assert kinds(compiled(model, target="ncnn")) == ["Input", "ReLU", "Scale"]


def test_another_form_where_a_target_computes_the_layer_otherwise() -> None:
    padded = export(nn.AvgPool2d(3, 2, 1), X)
    assert kinds(compiled(padded, target="bvlc")) == ["Input", "Pooling"]
    assert kinds(compiled(padded, target="ncnn"))[:2] == ["Input", "Convolution"]
    total = export(Of(lambda m, x: F.relu(x).sum((1, 2, 3))), X)
    assert kinds(compiled(total, target="bvlc")) == ["Input", "ReLU", "Reduction"]
    assert "Reduction" not in kinds(compiled(total, target="sophgo"))
    mean = export(Of(lambda m, x: x.flatten(1).mean(1)), X)
    assert "Reduction" in kinds(compiled(mean, target="sophgo"))  # of the last axis


@pytest.mark.parametrize("field", ["round_mode", "ceil_mode"])
def test_either_field_that_rounds_down_is_enough(field: str) -> None:
    param = pb.LayerParameter(type="Pooling")
    param.pooling_param.ceil_mode = False
    layers = {"Pooling": TargetRow("layer", "Pooling", "", "read", "a test")}
    row = TargetRow("field", f"PoolingParameter.{field}", "", "read", "a test")
    assert form_of(Target("own", layers=layers), param) is floor_pooling
    assert form_of(Target("own", layers=layers, fields={row.name: row}), param) is None


def test_hearsay_is_told() -> None:
    net = compile_model(export(nn.Sequential(nn.Conv2d(8, 4, 3), nn.Tanh()), X), target="nnie")
    [line] = unverified(net)
    assert "not verified with nnie itself" in line
    assert "TanH" in line
    assert "Convolution" not in line
    assert f"# {line}" in prototxt_text(net, "x")
    assert not unverified(compile_model(export(nn.Conv2d(8, 4, 3), X)))


def test_a_rule_refuses() -> None:
    with pytest.raises(CaffeIOError, match="is read as one by stored statistics"):
        compile_model(export(nn.InstanceNorm2d(8), X), target="ncnn")
    with pytest.raises(CaffeIOError, match="more than 4 axes"):
        compile_model(export(Of(lambda m, x: torch.stack([x, 2 * x], 2)), X), target="ncnn")


def test_reshapes_in_a_row_are_one() -> None:
    """A blob between them may have more axes than the target takes."""
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"]),
        onnx.helper.make_node("Unsqueeze", ["r", "two"], ["u"]),
        onnx.helper.make_node("Squeeze", ["u", "two"], ["s"]),
        onnx.helper.make_node("Sigmoid", ["s"], ["y"]),
    ]
    model = graph_of(nodes, {"x": ["N", 4, 5, 6]}, ["y"], {"two": np.array([2])})
    net = compiled(model, target="nnie")
    assert kinds(net) == ["Input", "ReLU", "Sigmoid"]
    assert not net.notes


def test_inputs_that_the_target_wants_otherwise_are_noted() -> None:
    nodes = [onnx.helper.make_node("Add", ["a", "b"], ["y"])]
    net = compile_model(graph_of(nodes, {"a": [2, 3], "b": [2, 3]}, ["y"]), target="nnie")
    assert net.notes == [
        "nnie wants a batch of 1: --input-shape fixes it",
        "nnie wants one input, and the model has 2",
    ]


@pytest.mark.parametrize(
    ("op", "sizes"), [("Mul", [(4, 1)]), ("Add", [(4, 1)]), ("BatchNormalization", [(4,)] * 4)]
)
def test_factors_of_lines_are_those_of_maps_where_a_scale_takes_no_lines(
    op: str, sizes: list[tuple[int, ...]]
) -> None:
    """TPU-MLIR's Scale has 2 or 4 axes."""
    constants = {f"k{i}": torch.rand(size).numpy() + 0.5 for i, size in enumerate(sizes)}
    node = onnx.helper.make_node(op, ["x", *constants], ["y"])
    model = graph_of([node], {"x": ["N", 4, 6]}, ["y"], constants)
    net = compiled(model, target="sophgo")
    assert kinds(net)[-3:] == ["Reshape", "Scale", "Reshape"]
    assert net.any_batch
    assert "Reshape" not in kinds(compiled(model))
