"""Whole nets against real Caffe: structure, all blobs, all gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffeio import load_net, load_weights
from caffeio.errors import CaffeIOError, DataError, NetError, WeightsError
from caffeio.net.net import Net
from tests.harness import assert_close, golden
from tests.paths import GOLDEN

TOLERANCE = 5e-5  # tests/golden/README.md: nets
CASES = [p for p in sorted((GOLDEN / "nets").glob("*/*.json")) if p.name != "states.json"]


def ids(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def check_structure(net: Net, meta: dict[str, Any]) -> None:
    mine = [[s.node.name, s.node.type, list(s.bottoms), list(s.tops)] for s in net.steps]
    assert mine == [[e["name"], e["type"], e["bottoms"], e["tops"]] for e in meta["layers"]]
    assert net.inputs == meta["inputs"]
    assert net.outputs == meta["outputs"]
    for blob in meta["blobs"]:
        assert list(net.blob_shapes[blob["name"]]) == blob["shape"], blob["name"]


def first_values(net: Net) -> dict[str, torch.Tensor]:
    """Each blob as its first writer made it: Caffe's in-place chains end there in backward."""
    first: dict[str, torch.Tensor] = {}
    for entry in net.trace:
        for name, value in zip(entry.step.tops, entry.tops, strict=True):
            first.setdefault(name, value)
    return first


def grad(tensor: torch.Tensor) -> np.ndarray:
    value = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
    return value.numpy()


def check_gradients(net: Net, arrays: dict[str, np.ndarray]) -> None:
    diffs = {k: v for k, v in arrays.items() if k.startswith(("diff/", "param_diff/"))}
    largest = max(float(np.abs(v).max()) for v in diffs.values() if v.size)
    first = first_values(net)
    for key, theirs in diffs.items():
        if key.startswith("diff/"):
            mine = grad(first[key[5:]])
        else:
            layer, index = key[11:].rsplit("/", 1)
            mine = grad(net.params[layer][int(index)])
        assert mine.shape == theirs.shape, key
        limit = TOLERANCE * np.abs(theirs).max() + 1e-6 * largest
        assert np.abs(mine - theirs).max() <= limit, key


@pytest.mark.parametrize("meta_path", CASES, ids=ids)
@pytest.mark.parametrize("weights", ["weights.caffemodel", "weights.caffemodel.h5"])
def test_golden_net(meta_path: Path, weights: str) -> None:
    folder = meta_path.parent
    if not (folder / weights).exists():
        pytest.skip("Caffe wrote no such file for this case")
    meta = json.loads(meta_path.read_text(encoding="utf-8"))
    arrays = golden(folder / f"golden{meta_path.stem[4:]}.prototxt")
    net = load_net(
        folder / "net.prototxt", folder / weights,
        phase=meta["phase"], level=meta["level"], stages=meta["stages"],
    )  # fmt: skip
    check_structure(net, meta)
    for key in arrays:
        if key.startswith("param/"):
            layer, index = key[6:].rsplit("/", 1)
            assert_close(net.params[layer][int(index)], arrays[key], key, 0)
    net.keep_trace = True
    net({name: torch.tensor(arrays["in/" + name], requires_grad=True) for name in net.inputs})
    assert_close(net.loss, arrays["loss"], "loss", TOLERANCE)
    for key in arrays:
        if key.startswith("blob/"):
            assert_close(net.blobs[key[5:]], arrays[key], key, TOLERANCE)
        elif key.startswith("param_after/"):
            layer, index = key[12:].rsplit("/", 1)
            assert_close(net.params[layer][int(index)], arrays[key], key, TOLERANCE)
    if any(key.startswith("diff/") for key in arrays):
        for entry in net.trace:
            for tensor in entry.tops:
                if tensor.requires_grad:
                    tensor.retain_grad()
        net.loss.backward()
        check_gradients(net, arrays)


STATES = [
    pytest.param(path, state, id=f"{path.parent.name}-{i}")
    for path in sorted((GOLDEN / "nets").glob("*/states.json"))
    for i, state in enumerate(json.loads(path.read_text()))
]


@pytest.mark.parametrize(("path", "state"), STATES)
def test_states(path: Path, state: dict[str, Any]) -> None:
    net = load_net(
        path.parent / "net.prototxt", phase=state["phase"], level=state["level"],
        stages=state["stages"], device="meta",
    )  # fmt: skip
    check_structure(net, state)


NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "y" param { name: "w" }
        inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "y" top: "y" }
layer { name: "b" type: "InnerProduct" bottom: "y" top: "z" param { name: "w" }
        inner_product_param { num_output: 3 bias_term: false } }
"""


def test_sharing_is_one_tensor_and_one_learnable() -> None:
    net = load_net(NET)
    assert net.params["a"][0] is net.params["b"][0]
    assert [(p.layer, p.name) for p in net.learnable] == [("a", "w")]
    net.double()
    assert net.learnable[0].tensor is net.params["b"][0]
    assert net.params["a"][0].dtype == torch.float64


def permissive(text: str) -> str:
    """NET with a 4 x 6 weight that layer b reads as 6 x 4."""
    text = text.replace("dim: 2 dim: 3", "dim: 2 dim: 6")
    text = text.replace("num_output: 3", "num_output: 4", 1)
    text = text.replace("num_output: 3", "num_output: 6")
    head, name, tail = text.rpartition('param { name: "w" }')
    return head + name.replace(" }", " share_mode: PERMISSIVE }") + tail


def test_permissive_sharing_views_the_owner() -> None:
    net = load_net(permissive(NET))
    assert net.params["a"][0].shape == (4, 6)
    assert net.params["b"][0].shape == (6, 4)
    assert net.params["b"][0].data_ptr() == net.params["a"][0].data_ptr()
    net({"x": torch.ones(2, 6)})["z"].sum().backward()
    assert net.params["a"][0].grad is not None
    with pytest.raises(NetError, match="shape mismatch"):
        load_net(permissive(NET).replace(" share_mode: PERMISSIVE", ""))


def test_permissive_sharers_are_shared_with_a_test_net() -> None:
    """The owner's shape is not the sharer's: what counts is the layer's own."""
    text = permissive(NET)
    train, test = load_net(text, phase="TRAIN"), load_net(text)
    test.share_trained_layers_with(train)
    data = {"x": torch.rand(2, 6)}
    assert torch.equal(test(data)["z"], train(data)["z"])
    assert test.params["b"][0].data_ptr() == train.params["a"][0].data_ptr()
    assert test.learnable[0].tensor is train.learnable[0].tensor
    with pytest.raises(NetError, match="shape mismatch: 4 6 in the train net"):
        load_net(NET).share_trained_layers_with(train)


def test_params_are_writable_in_place() -> None:
    net = load_net(NET)
    with torch.no_grad():
        net.params["a"][0].copy_(torch.eye(3))
    out = net({"x": torch.tensor([[1.0, -2.0, 3.0], [0.0, 1.0, 0.0]])})
    assert out["z"].tolist() == [[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]]


def test_missing_input_is_named() -> None:
    with pytest.raises(DataError, match="no value is given for input x"):
        load_net(NET)({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('type: "ReLU" bottom: "y"', 'type: "ReLU" bottom: "yy"'), "unknown bottom blob 'yy'"),
        (('bottom: "y" top: "y"', 'bottom: "y" top: "x"'), "more than one layer"),
        (('bottom: "y" top: "y"', 'bottom: "y" bottom: "x" top: "y"'), "takes 1 bottom"),
        (('param { name: "w" }', 'param { name: "w" } param {}'), "too many params"),
        (('top: "z"', 'top: "z" loss_weight: 1 loss_weight: 2'), "loss_weight must be left out"),
        (('type: "ReLU"', 'type: "Rellu"'), "did you mean"),
        (('top: "z"', 'top: "z" propagate_down: true propagate_down: true'), "propagate_down"),
    ],
)  # fmt: skip
def test_wiring_errors_name_place_and_layer(change: tuple[str, str], message: str) -> None:
    with pytest.raises(NetError, match=message) as error:
        load_net(NET.replace(*change))
    assert "<text>:" in str(error.value)


def test_weights_of_another_net_change_nothing() -> None:
    folder = GOLDEN / "nets" / "residual_inplace"
    net = load_net(folder / "net.prototxt", phase="TEST", seed=1)
    before = [[b.copy() for b in blobs] for blobs in net.blob_arrays()]
    text = (folder / "net.prototxt").read_text().replace("num_output: 4", "num_output: 6")
    other = load_net(text, phase="TEST")
    weights = load_weights(folder / "weights.caffemodel")
    with pytest.raises(WeightsError, match="rename the layer"):
        other.copy_trained_layers_from(weights)
    for a, b in zip(before, net.blob_arrays(), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_phase_must_be_a_phase() -> None:
    with pytest.raises(CaffeIOError, match="TRAIN or TEST"):
        load_net(NET, phase="train")


def test_propagate_down_false_stops_the_gradient() -> None:
    net = load_net(
        NET.replace('bottom: "y" top: "z"', 'bottom: "y" top: "z" propagate_down: false')
    )
    x = torch.ones(2, 3, requires_grad=True)
    out = net({"x": x})["z"].sum()
    out.backward()
    assert x.grad is None
    assert net.params["a"][0].grad is not None  # shared: layer b still learns


def test_blobs_are_freed_when_not_kept() -> None:
    net = load_net(NET)
    net.fuse()
    net.keep_blobs = False
    net({"x": torch.ones(2, 3)})
    assert set(net.blobs) == {"z"}


def test_compile_fullgraph() -> None:
    folder = GOLDEN / "nets" / "residual_inplace"
    net = load_net(folder / "net.prototxt", phase="TEST", seed=1)
    net.keep_blobs = False
    net.fuse()
    data = {name: torch.rand(net.blob_shapes[name]) for name in net.inputs}
    if "label" in data:
        data["label"] = torch.zeros(net.blob_shapes["label"])
    eager = {k: v.clone() for k, v in net(data).items()}
    compiled = torch.compile(net, fullgraph=True, backend="eager")(data)
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value)


def test_mkldnn_profile_takes_scales_into_batch_norm(tmp_path: Path) -> None:
    folder = GOLDEN / "nets" / "residual_inplace"
    plain = load_net(folder / "net.prototxt", folder / "weights.caffemodel", phase="TEST")
    merged = load_net(
        folder / "net.prototxt", folder / "weights.caffemodel", phase="TEST",
        profile="intel-mkldnn",
    )  # fmt: skip
    assert "Scale" not in merged.layer_types
    norms = [s for s in merged.steps if s.node.type == "BatchNorm"]
    assert all(len(s.layer.blobs) == 5 for s in norms)
    specs = {p.index: (p.lr_mult, p.decay_mult) for p in merged.learnable
             if p.layer == norms[0].node.name}  # fmt: skip
    assert specs[3] == specs[4] == (1, 1)
    assert specs[0][0] == 0
    data = {name: torch.rand(plain.blob_shapes[name]) for name in plain.inputs}
    if "label" in data:
        data["label"].zero_()
    for name, value in plain(data).items():
        torch.testing.assert_close(merged(data)[name], value)
    from caffeio import load_weights
    from caffeio.proto.weights.load import write_caffemodel

    path = tmp_path / "merged.caffemodel"
    write_caffemodel(path, merged.to_proto(), merged.blob_arrays(), dialect="sara")
    again = load_net(folder / "net.prototxt", phase="TEST")
    again.copy_trained_layers_from(load_weights(path))  # five blobs: split again
    for name, value in plain(data).items():
        torch.testing.assert_close(again(data)[name], value)


def test_hdf5_lacks_shared_blobs_one_by_one(tmp_path: Path) -> None:
    """Weight shared by name, bias of its own: Caffe's HDF5 file has dataset 1 only."""
    text = NET.replace("bias_term: false", "bias_term: true")
    first = load_net(text)
    from caffeio import load_weights
    from caffeio.proto.weights.load import write_caffemodel_h5

    (weight, bias), (_, other) = first.blob_arrays()[1], first.blob_arrays()[3]
    other[:] = 7
    path = tmp_path / "w.caffemodel.h5"
    write_caffemodel_h5(path, first.to_proto(), [[], [weight, bias], [], [None, other]])
    again = load_net(text)
    again.copy_trained_layers_from(load_weights(path))
    assert torch.equal(again.params["a"][0], first.params["a"][0])
    assert again.params["b"][1].tolist() == [7, 7, 7]
    alone = load_net(text.replace('param { name: "w" }', ""))
    with pytest.raises(WeightsError, match="number of blobs"):
        alone.copy_trained_layers_from(load_weights(path))


@pytest.mark.parametrize("tops", ["", 'top: "y" top: "z"'])
@pytest.mark.parametrize("profile", ["bvlc", "intel-mkldnn"])
def test_a_scale_without_its_one_top_is_refused(tops: str, profile: str) -> None:
    """Also where BatchNorm takes it in."""
    text = (
        'input: "x" input_shape { dim: 2 dim: 3 } '
        'layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" } '
        f'layer {{ name: "s" type: "Scale" bottom: "y" {tops} }}'
    )
    with pytest.raises(NetError, match="Scale produces 1 top"):
        load_net(text, profile=profile)
