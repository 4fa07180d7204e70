"""onnx's own test cases of operators: equal or refused; what they found, in small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.converters.from_onnx.compared import Compared
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.inputs import lookups, sample
from caffeio.converters.from_onnx.model import model_of
from caffeio.converters.from_onnx.verify import build_net, verify
from caffeio.converters.onnx import runtime
from caffeio.converters.onnx.told import Told
from caffeio.errors import UnsupportedError
from tests.converters.from_onnx import node_cases
from tests.converters.from_onnx.helpers import compiled, graph_of, kinds, onnx
from tests.converters.from_onnx.node_cases import FORMS, cases, outcome, table
from tests.paths import nightly

pytest.importorskip("onnxruntime")
# What onnx says and onnxruntime does not: it is onnxruntime that we agree with.
RUNTIMES_OWN = ("align_corners", "uint", "gather_negative", "starts_on_pad", "_bfloat16", "float16",
                "fp16", "argm")  # fmt: skip


def against_onnx(net: Compiled, names: list[str], arrays: list[Any], expected: list[Any]) -> None:
    """The net gives what onnx itself expects of its example."""
    feeds = {
        net.inputs[name]: torch.from_numpy(np.array(array, np.float32))
        for name, array in zip(names, arrays, strict=True)
        if name in net.inputs
    }
    ours = build_net(net)
    if any(tuple(x.shape) != tuple(ours.blob_shapes[n]) for n, x in feeds.items()):
        return
    with torch.no_grad():
        ours(feeds)
    for blob, wanted in zip(net.outputs.values(), expected, strict=True):
        mine = ours.blobs[blob].detach().numpy()
        assert mine.shape == np.shape(wanted)
        np.testing.assert_allclose(mine, np.asarray(wanted, np.float32), rtol=1e-4, atol=1e-5)


def check_expected(name: str, net: Compiled) -> None:
    """What onnx expects of the case's example, where onnxruntime agrees with onnx."""
    case = cases()[name]
    arrays, expected = case.data_sets[0]
    plain = all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in (*arrays, *expected))
    if plain and not any(word in name for word in RUNTIMES_OWN):
        against_onnx(net, [i.name for i in case.model.graph.input], arrays, expected)


def known(names: Sequence[str], forms: str, folder: Path) -> None:
    """These cases are equal in the forms of the table, and refused in the others."""
    told, found = table(), {}
    for name in names:
        found[name] = ""
        for form in forms:
            net = outcome(name, form, folder)
            if net is not None:
                found[name] += form
                check_expected(name, net)
    wanted = {name: "".join(f for f in told.get(name, "") if f in forms) for name in names}
    lost = {name: wanted[name] for name in names if set(wanted[name]) - set(found[name])}
    assert not lost, f"refused now, or off: {lost}"
    more = {name: found[name] for name in names if set(found[name]) - set(wanted[name])}
    assert not more, f"not in the table (python {node_cases.__name__.replace('.', '/')}.py): {more}"


@nightly
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", range(8))
def test_equal_or_refused(start: int, form: str, tmp_path: Path) -> None:
    """Every case as it is (weights and axes are inputs), and with one input only."""
    known(sorted(cases())[start::8], form, tmp_path)


def test_some_cases(tmp_path: Path) -> None:
    """By day one of those that are equal, of every third operator."""
    first: dict[str, str] = {}
    for name in sorted(set(table()) & set(cases())):
        first.setdefault(cases()[name].model.graph.node[-1].op_type, name)
    lost = {}
    for name in sorted(first.values())[::3]:
        form = table()[name][0]
        net = outcome(name, form, tmp_path)
        if net is None:
            lost[name] = form
        else:
            check_expected(name, net)
    assert not lost


def node(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> Any:
    return onnx.helper.make_node(op, inputs, outputs, **attrs)


def run(net: Compiled, x: Any) -> np.ndarray:
    ours = build_net(net)
    with torch.no_grad():
        [found] = ours({next(iter(net.inputs.values())): torch.tensor(x)}).values()
    return np.asarray(found)


def test_of_equal_values_the_last_is_taken_and_said() -> None:
    x = np.array([[1, 3, 3, 2]], np.float32)
    for last in (0, 1):
        model = graph_of([node("ArgMax", ["x"], ["y"], axis=1, select_last_index=last)],
                         {"x": [1, 4]}, ["y"])  # fmt: skip
        net = compiled(model)
        assert run(net, x).tolist() == [[2]]
        assert bool(net.notes) is (last == 0)


@pytest.mark.parametrize("order", [1, 2])
def test_a_norm_of_nothing(order: int) -> None:
    """0 over a norm of 0 is 0, not nan."""
    model = graph_of([node("LpNormalization", ["x"], ["y"], axis=1, p=order)],
                     {"x": [2, 3]}, ["y"], opset=21)  # fmt: skip
    found = run(compiled(model), np.array([[0, 0, 0], [1e-12, 0, 0]], np.float32))
    np.testing.assert_allclose(found, [[0, 0, 0], [1, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_in_both_orders(mode: str) -> None:
    """The newest opset has a mode; its example is onnx's own text."""
    proto = node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    if mode == "CRD":
        if onnx.defs.onnx_opset_version() < 28:
            pytest.skip("needs onnx 1.23")
        proto = node("SpaceToDepth", ["x"], ["y"], blocksize=2, mode=mode)
    model = graph_of([proto], {"x": [1, 2, 4, 4]}, ["y"], opset=28 if mode == "CRD" else 13)
    try:
        net = compile_model(model)
    except UnsupportedError as error:
        pytest.skip(error.message)  # the runtime is too old
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    cut = x.reshape(1, 2, 2, 2, 2, 2).transpose(
        (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    )
    np.testing.assert_array_equal(run(net, x), cut.reshape(1, 8, 2, 2))


@pytest.mark.parametrize("op", ["Sum", "Max", "Min", "Mean"])
def test_an_operator_of_several_with_one_input(op: str) -> None:
    model = graph_of([node(op, ["x"], ["y"]), node("Relu", ["y"], ["z"])], {"x": [1, 2]}, ["z"])
    assert kinds(compiled(model)) == ["Input", "ReLU"]


@pytest.mark.parametrize("other", [-1.5, -np.inf])
@pytest.mark.parametrize("swapped", [False, True])
def test_where_a_constant_chooses(other: float, swapped: bool) -> None:
    """A mask of attention: minus infinity before a Softmax."""
    names = ["c", "x", "k"] if not swapped else ["d", "k", "x"]
    mask = np.array([[True, True, False, True]])
    nodes = [node("Where", names, ["w"]), node("Softmax", ["w"], ["y"], axis=-1)]
    model = graph_of(nodes, {"x": [2, 4]}, ["y"],
                     {"c": mask, "d": ~mask, "k": np.float32(other)})  # fmt: skip
    net = compiled(model)
    assert kinds(net) == ["Input", "Scale", "Softmax"]
    assert net.any_batch


def test_cast_like_and_scalars() -> None:
    nodes = [node("CastLike", ["k", "x"], ["c"]), node("CastLike", ["x", "c"], ["d"]),
             node("Mul", ["d", "c"], ["y"])]  # fmt: skip
    model = graph_of(nodes, {"x": []}, ["y"], {"k": np.array(3)})
    assert kinds(compiled(model)) == ["Input", "Power"]


@pytest.mark.parametrize("target", ["bvlc-1.0", "opencv"])
def test_every_output_is_an_output_of_the_net(target: str) -> None:
    """Also one that another layer reads, and one that is an input."""
    nodes = [node("Relu", ["x"], ["a"]), node("Sigmoid", ["a"], ["b"])]
    net = compiled(graph_of(nodes, {"x": [1, 2]}, ["x", "a", "b"]), target=target)
    ours = build_net(net)
    x = torch.tensor([[-1.0, 2.0]])
    with torch.no_grad():
        found = ours({net.inputs["x"]: x})
    wanted = {"x": x, "a": x.relu(), "b": x.relu().sigmoid()}
    for name, blob in net.outputs.items():
        got = found[blob] if target == "bvlc-1.0" else ours.blobs[blob]
        assert torch.allclose(got, wanted[name])
    if target == "bvlc-1.0":
        assert set(found) == set(net.outputs.values())


def test_an_input_that_nothing_reads_is_no_output() -> None:
    model = graph_of([node("Relu", ["x"], ["y"])], {"x": [1, 2], "z": [3]}, ["y"])
    net = compiled(model)
    assert kinds(net) == ["Input", "Input", "ReLU", "Silence"]
    assert build_net(net).outputs == ["y"]


def test_what_onnxruntime_lacks_is_run_by_onnx_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any, model: Any) -> Any:
        self.lacks = "Relu(99)"
        return runtime._reference(model)

    monkeypatch.setattr(runtime.OnnxRunner, "_load", load)
    report = verify(compile_model(graph_of([node("Relu", ["x"], ["y"])], {"x": [1, 2]}, ["y"])))
    assert (
        "compared with onnx's reference evaluator (onnxruntime has no Relu(99))"
        in (report.lines()[0])
    )


def test_a_number_beside_the_region_is_refused() -> None:
    crop = "tf_crop_and_resize"
    region = np.array([0, 0, -0.5, 0, 1, 1, 1.5, 1], np.float32)
    sizes = np.array([1, 1, 3, 3])
    for mode, number in ((crop, 0.0), (crop, 10.0), ("half_pixel", 10.0)):
        nodes = [node("Resize", ["x", "roi", "", "s"], ["y"], mode="linear",
                      coordinate_transformation_mode=mode, extrapolation_value=number)]  # fmt: skip
        model = graph_of(nodes, {"x": [1, 1, 4, 4]}, ["y"], {"roi": region, "s": sizes})
        if mode == crop and number:
            with pytest.raises(UnsupportedError, match="where the region leaves the map"):
                compile_model(model)
        else:
            compiled(model)


@pytest.mark.parametrize("target", ["bvlc-1.0", "bvlc"])
@pytest.mark.parametrize(("low", "high"), [(0.5, -0.25), (None, 0.25), (-0.25, None)])
def test_bounds_the_wrong_way_round_or_one_only(
    target: str, low: float | None, high: float | None
) -> None:
    """The upper bound wins in ONNX, the lower one in Caffe's Clip."""
    given = {n: np.float32(v) for n, v in (("lo", low), ("hi", high)) if v is not None}
    names = ["x", *(n if n in given else "" for n in ("lo", "hi"))]
    model = graph_of([node("Clip", names, ["y"])], {"x": [3, 4]}, ["y"], given)
    net = compiled(model, target=target)
    assert kinds(net) == ["Input", "Clip"] or target != "bvlc"


@pytest.mark.parametrize("first", ["Max", "Min"])
@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.75), (0.75, -0.5)])
def test_two_bounds_are_a_clip(first: str, low: float, high: float) -> None:
    given = {"Max": np.float32(low), "Min": np.float32(high)}
    last = "Min" if first == "Max" else "Max"
    nodes = [node(first, ["x", first], ["a"]), node(last, [last, "a"], ["y"])]
    net = compiled(graph_of(nodes, {"x": [3, 4]}, ["y"], given), target="bvlc")
    assert kinds(net) == ["Input", "Clip"]


def test_a_run_without_a_finite_number_leaves_it_to_the_others() -> None:
    """A Log of what only the large inputs make negative, under a sum; and one of nothing else."""
    for shift, worst in ((6.0, 0.0), (-1e9, float("inf"))):
        nodes = [node("Add", ["x", "k"], ["a"]), node("Log", ["a"], ["b"]),
                 node("ReduceSum", ["b"], ["y"], keepdims=0)]  # fmt: skip
        model = graph_of(nodes, {"x": [1, 500]}, ["y"], {"k": np.float32(shift)})
        report = verify(compile_model(model))
        assert report.outputs[0].worst == pytest.approx(worst, abs=1e-5)


def test_runs_without_a_number_compare_nothing() -> None:
    item, empty = Compared("y", (0, 7)), np.zeros((0, 7), np.float32)
    item.add("normal", empty, empty)
    assert item.worst == float("inf")
    item.add("ramp", np.ones((2, 7)), np.ones((2, 7)))
    assert item.worst == 0
    item.add("large", np.zeros((0, 6)), empty)
    assert item.worst == float("inf")


def test_indices_reach_all_rows_of_a_table_that_is_a_node() -> None:
    table = onnx.numpy_helper.from_array(np.eye(5, 3, dtype=np.float32))
    nodes = [node("Constant", [], ["t"], value=table), node("Gather", ["t", "i"], ["y"])]
    model = graph_of(nodes, {"i": [1, 4]}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert lookups(model_of(model)) == {"i": 5}
    assert "Embed" in kinds(compiled(model))


def test_the_first_run_tells_a_proposal_of_the_size_of_the_image() -> None:
    """By other numbers it finds no region, and onnxruntime may end the process."""
    nodes = [node("Add", ["x", "info"], ["rois"])]
    model = graph_of(nodes, {"x": [1, 3, 48, 3], "info": [1, 3]}, ["rois"])
    key, value = Told('type: "Proposal"', ["x", "x", "info"], ["rois"], []).entry()
    model.metadata_props.add(key=key, value=value)
    assert sample(model_of(model))["info"].tolist() == [[48, 3, 1]]
    assert sample(model_of(model))["x"].std() > 0.5
