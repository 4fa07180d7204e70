"""What cannot be done is told at once, with places, shapes, reasons and a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from caffeio.converters.from_onnx.compile import compile_model
from caffeio.converters.from_onnx.load import load_model
from caffeio.converters.from_onnx.verify import verify
from caffeio.errors import CaffeIOError, UnsupportedError
from tests.converters.from_onnx.helpers import Of, compiled, export, graph_of, kinds, onnx
from tests.converters.from_onnx.test_operators import X

pytest.importorskip("onnxruntime")


def node(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> Any:
    return onnx.helper.make_node(op, inputs, outputs, name=f"the_{op}", **attrs)


def refusal(model: Any, **options: Any) -> str:
    with pytest.raises(UnsupportedError) as caught:
        compile_model(model, **options)
    return str(caught.value)


def test_every_operator_is_listed_with_place_shapes_reason_and_remedy() -> None:
    nodes = [
        node("Erf", ["x"], ["e"]),
        node("Relu", ["e"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["r", "t"], ["m"]),
        node("TopK", ["m", "k"], ["top", "at"]),
    ]
    model = graph_of(nodes, {"x": [1, 2, 3, 4]}, ["top"], {"k": np.array([2])})
    said = refusal(model, where="model.onnx")
    assert said.startswith(
        "model.onnx: 3 of 5 operators cannot be done by bvlc-1.0 (BVLC's Caffe 1.0"
    )
    assert (
        "node 0 'the_Erf' (Erf (1, 2, 3, 4) -> (1, 2, 3, 4)): Caffe has no error function" in said
    )
    assert "node 3 'the_MatMul' (MatMul (1, 2, 3, 4), (1, 2, 4, 3) -> (1, 2, 3, 3))" in said
    assert "node 4 'the_TopK'" in said
    assert said.count("what could be done") == 2
    assert "--output-blob" in said


def test_a_cut_makes_it_possible() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Sigmoid", ["r"], ["s"]),
        node("Erf", ["s"], ["e"]),
    ]
    model = graph_of(nodes, {"x": [1, 2, 3, 4]}, ["e"])
    assert kinds(compiled(model, outputs=["s"])) == ["Input", "ReLU", "Sigmoid"]
    assert kinds(compiled(model, outputs=["the_Relu"])) == ["Input", "ReLU"]  # a node's name, too
    assert "no value and no node of that name" in refusal(model, outputs=["nothing"])


def test_an_input_that_is_cut_off_goes() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Add", ["r", "y"], ["z"])]
    model = graph_of(nodes, {"x": [1, 2], "y": [1, 2]}, ["z"])
    assert list(compiled(model, outputs=["r"]).inputs) == ["x"]


def test_vendors_operators_are_listed_though_nothing_can_run_them() -> None:
    foreign = onnx.helper.make_node("Magic", ["x"], ["m"], name="spell", domain="com.vendor")
    erf = node("GridSample", ["m", "m"], ["e"])
    model = graph_of([foreign, erf], {"x": [1, 2, 3, 4]}, ["e"])
    model.opset_import.add(domain="com.vendor", version=1)
    said = refusal(model)
    assert "2 of 2 operators" in said
    assert "'spell' (com.vendor::Magic)" in said
    assert "GridSample" in said


def test_shapes_that_the_model_does_not_tell() -> None:
    model = graph_of([node("Relu", ["x"], ["y"])], {"x": ["N", 3, "H", "W"]}, ["y"])
    assert "--input-shape x=1,3,?,?" in refusal(model)
    net = compile_model(model, input_shapes={"x": (2, 3, 5, 7)})
    assert list(net.layers[0].param.input_param.shape[0].dim) == [2, 3, 5, 7]
    assert "the model fixes axis 1 at 3" in refusal(model, input_shapes={"x": (1, 4, 5, 7)})
    assert "has 4 axes, not 2" in refusal(model, input_shapes={"x": (1, 3)})
    assert "the model's inputs are x" in refusal(model, input_shapes={"data": (1, 3, 5, 7)})


def test_an_unknown_batch_is_1() -> None:
    model = graph_of([node("Relu", ["x"], ["y"])], {"x": ["N", 3, 4, 5]}, ["y"])
    assert list(compile_model(model).layers[0].param.input_param.shape[0].dim) == [1, 3, 4, 5]


def test_outputs_that_need_no_input() -> None:
    model = graph_of(
        [node("Abs", ["c"], ["y"]), node("Relu", ["x"], ["z"])],
        {"x": [1, 2]},
        ["y", "z"],
        {"c": np.ones(3, np.float32)},
    )
    assert "output 'y' depends on no input" in refusal(model)
    compiled(model, outputs=["z"])


def test_old_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CaffeIOError, match="there is no such file"):
        load_model(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage")
    with pytest.raises(CaffeIOError, match=r"bad\.onnx: is no valid ONNX model"):
        load_model(tmp_path / "bad.onnx")
    old = graph_of([node("Relu", ["x"], ["y"])], {"x": [1, 2]}, ["y"], opset=6)
    old.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, [1, 2]))
    onnx.save(old, tmp_path / "old.onnx")
    with pytest.raises(UnsupportedError, match="opset 6; those from 7 on are read"):
        load_model(tmp_path / "old.onnx")


def test_an_output_without_a_shape(tmp_path: Path) -> None:
    """onnx's checker asks for one; runtimes and we do not."""
    model = graph_of([node("Relu", ["x"], ["y"])], {"x": [1, 2]}, ["y"])
    model.graph.output[0].type.tensor_type.elem_type = 1
    onnx.save(model, tmp_path / "m.onnx")
    assert kinds(compiled(load_model(tmp_path / "m.onnx"))) == ["Input", "ReLU"]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="--input-shape x=N,C,H,W"):
        compile_model(load_model(tmp_path / "m.onnx"))


def test_external_data(tmp_path: Path) -> None:
    model = export(torch.nn.Conv2d(8, 4, 3), X)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert (tmp_path / "m.data").stat().st_size > 1000
    compiled(load_model(tmp_path / "m.onnx"))
    (tmp_path / "m.data").unlink()
    with pytest.raises(CaffeIOError, match=r"m\.data|weights"):
        load_model(tmp_path / "m.onnx")


def test_half_precision_becomes_single() -> None:
    model = export(torch.nn.Conv2d(8, 4, 3).half(), X.half())
    assert compiled(model, near=1e-5).layers[1].blobs[0].dtype == np.float32


def test_a_condition_that_is_known() -> None:
    """An If whose condition depends on shapes alone is its branch."""
    h = onnx.helper
    then = h.make_graph([node("Relu", ["x"], ["t"])], "then", [], [onnx.ValueInfoProto(name="t")])
    other = h.make_graph([node("Erf", ["x"], ["f"])], "else", [], [onnx.ValueInfoProto(name="f")])
    nodes = [
        node("Size", ["x"], ["n"]),
        node("Greater", ["n", "two"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        node("Sigmoid", ["y"], ["z"]),
    ]
    model = graph_of(nodes, {"x": [1, 8]}, ["z"], {"two": np.array(2)})
    assert kinds(compiled(model)) == ["Input", "ReLU", "Sigmoid"]


def test_quiet_numbers_are_printed_with_nine_digits() -> None:
    from caffeio.converters.from_onnx.write import prototxt_text

    net = compile_model(export(Of(lambda m, x: F.hardsigmoid(x)), X), target="bvlc-1.0")
    assert "scale: 0.166666672" in prototxt_text(net, "x")


def test_models_that_are_too_large_for_memory_go_by_way_of_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What protobuf cannot serialize is given to onnxruntime as files."""
    from caffeio.converters.onnx import runtime

    saved: list[str] = []
    before = runtime.OnnxRunner._on_disk

    def on_disk(model: Any, folder: Path) -> str:
        saved.append(before(model, folder))
        return saved[-1]

    monkeypatch.setattr(runtime, "LARGE", 1000)
    monkeypatch.setattr(runtime.OnnxRunner, "_on_disk", staticmethod(on_disk))
    compiled(export(torch.nn.Conv2d(8, 16, 3), X))
    assert len(saved) >= 4  # shapes and numbers, with two batches


@pytest.mark.parametrize(
    ("op", "given", "said"),
    [
        ("CumSum", {"axis": np.array(1)}, "it sums up an axis of 60000 (at most 4096)"),
        ("ReduceProd", {}, "it needs more than 512 pieces of axis 1"),
    ],
)
def test_no_layer_is_made_that_no_memory_holds(op: str, given: dict[str, Any], said: str) -> None:
    attrs = {} if given else {"axes": [1]}
    nodes = [node(op, ["x", *given], ["y"], **attrs)]
    assert said in refusal(graph_of(nodes, {"x": [1, 60000]}, ["y"], given))


def test_rows_that_the_example_has_none_of_are_refused() -> None:
    """A detector that finds nothing in the example: what it joins is empty."""
    nodes = [
        node("Greater", ["x", "most"], ["found"]),
        node("NonZero", ["found"], ["places"]),
        node("Concat", ["places", "places"], ["y"], axis=1),
    ]
    said = refusal(graph_of(nodes, {"x": [1, 6]}, ["y"], {"most": np.float32(1e9)}))
    assert "NonZero" in said
    assert "all of its inputs are empty" in said


def test_values_without_numbers() -> None:
    """An empty part of a Concat is left out; an empty output says so."""
    nodes = [
        node("Slice", ["x", "one", "one", "one"], ["nothing"]),
        node("Concat", ["nothing", "x"], ["y"], axis=1),
    ]
    given = {"one": np.array([1])}
    assert kinds(compiled(graph_of(nodes, {"x": [1, 3, 2]}, ["y"], given))) == ["Input", "Power"]
    said = refusal(graph_of(nodes[:1], {"x": [1, 3, 2]}, ["nothing"], given))
    assert "output 'nothing' is empty, (1, 0, 2)" in said


@pytest.mark.parametrize("op", ["Reshape", "Expand", "Unsqueeze", "Squeeze"])
def test_shapes_that_are_computed(op: str) -> None:
    """An input may hold another shape than the example's."""
    model = graph_of([node(op, ["x", "s"], ["y"])], {"x": [1], "s": [1]}, ["y"])
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    what = "axes are" if "squeeze" in op.lower() else "shape is"
    assert f"its {what} computed" in refusal(model)


def test_numbers_whose_count_is_computed() -> None:
    """There are none of them in the example, and in both runs of the comparison."""
    nodes = [
        node("Range", ["s", "end", "step"], ["r"]),
        node("Cast", ["r"], ["f"], to=1),
        node("Concat", ["f", "x"], ["y"], axis=0),
    ]
    given = {"end": np.array(0), "step": np.array(1)}
    model = graph_of(nodes, {"s": [], "x": [4]}, ["y"], given)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert "(Range" in refusal(model)


@pytest.mark.parametrize(
    ("kind", "said"), [("STRING", "holds STRING"), ("COMPLEX64", "holds COMPLEX64")]
)
def test_inputs_that_are_no_numbers(kind: str, said: str) -> None:
    model = graph_of([node("Identity", ["x"], ["y"])], {"x": [1, 4]}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind)
    assert f"input 'x' {said}: Caffe's blobs are floats" in refusal(model)


def test_an_opset_of_the_future(tmp_path: Path) -> None:
    model = graph_of([node("Relu", ["x"], ["y"])], {"x": [1, 2]}, ["y"], opset=99)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CaffeIOError, match="opset 99, and the installed onnx"):
        load_model(tmp_path / "m.onnx")


def test_names_of_one_output_and_of_nodes_that_stand_twice() -> None:
    nodes = [node("Relu", ["x"], ["a/b"]), node("Relu", ["a/b"], ["a:b"])]
    model = graph_of(nodes, {"x": [1, 2]}, ["a:b", "a:b"])
    net = compiled(model)
    assert list(net.outputs) == ["a:b"]


def test_sparse_weights() -> None:
    h = onnx.helper
    values = h.make_tensor("w", 1, [3], [0.5, -1.0, 2.0])
    for places in (h.make_tensor("i", 7, [3], [0, 4, 5]),
                   h.make_tensor("i", 7, [3, 2], [0, 0, 2, 0, 2, 1])):  # fmt: skip
        model = graph_of([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 3]}, ["y"])
        sparse = h.make_sparse_tensor(values, places, [3, 2])
        model.graph.sparse_initializer.append(sparse)
        net = compiled(model)
        assert net.layers[1].blobs[0].tolist() == [[0.5, 0, -1], [0, 0, 2]]
        constant = h.make_node("Constant", [], ["w"], sparse_value=sparse)
        del model.graph.sparse_initializer[:]
        model.graph.node.insert(0, constant)
        compiled(model)


def test_all_targets_that_can_do_it_are_named() -> None:
    model = graph_of([node("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=[2, 3])],
                     {"x": [1, 2, 8, 8], "r": [4, 5]}, ["y"])  # fmt: skip
    assert refusal(model).endswith("with --target intel, ncnn, nnie, rockchip")
    net = compile_model(model, target="nnie")
    assert kinds(net) == ["Input", "Input", "ROIPooling"]
    report = verify(net)
    assert report.worst == 0
    assert report.outputs[0].runs[0][2] > 0  # regions of the map, not nothing
