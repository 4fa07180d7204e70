"""Nets as PyTorch's people handle modules: copied, pickled, saved, closed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffeio import Net, load_net, load_weights
from caffeio.errors import DataError, SnapshotError, UnsupportedError, WeightsError
from caffeio.net.save import SUFFIXES
from caffeio.profiles import BVLC, INTEL
from caffeio.proto.weights.pytorch import read as read_pt

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a"
  param { name: "w" } param { name: "b" } inner_product_param { num_output: 2
    weight_filler { type: "xavier" } } }
layer { name: "c" type: "InnerProduct" bottom: "conv" top: "c"
  param { name: "w" } param { name: "b" } inner_product_param { num_output: 2
    weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "c" top: "sum" }
layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "a" top: "loss" }
"""
RECURRENT = """
layer { name: "data" type: "Input" top: "data" top: "cont"
  input_param { shape { dim: 3 dim: 2 dim: 5 } shape { dim: 3 dim: 2 } } }
layer { name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "h"
  recurrent_param { num_output: 4 weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }
layer { name: "loss" type: "Reduction" bottom: "h" top: "loss" loss_weight: 1 }
"""


def inputs(net: Net) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {name: torch.randn(net.blob_shapes[name]) for name in net.inputs}


def trained(text: str) -> Net:
    """A net that has run forward and backward, with gradients and blobs of that."""
    net = load_net(text, phase="TRAIN", seed=3)
    net(inputs(net))
    net.loss.backward()
    return net


def copied(net: Net) -> Net:
    return copy.deepcopy(net)


def pickled(net: Net) -> Net:
    found: Net = pickle.loads(pickle.dumps(net))
    return found


@pytest.mark.parametrize("way", [copied, pickled])
@pytest.mark.parametrize("text", [NET, RECURRENT])
def test_a_copy_computes_the_same_and_is_another(way: Any, text: str) -> None:
    net = trained(text)
    twin = way(net)
    data = inputs(net)
    for name, blob in net.state_dict().items():
        assert torch.equal(twin.state_dict()[name], blob)
        assert twin.state_dict()[name].data_ptr() != blob.data_ptr()
    net.reset_state()
    twin.reset_state()
    outputs = net(data), twin(data)
    for name, value in outputs[0].items():
        assert torch.equal(value, outputs[1][name])
    before = [item.tensor.detach().clone() for item in net.learnable]
    with torch.no_grad():
        for item in twin.learnable:
            item.tensor.add_(1)
    assert all(torch.equal(a, item.tensor) for a, item in zip(before, net.learnable, strict=True))
    assert not torch.equal(twin(data)[net.outputs[0]], outputs[0][net.outputs[0]])


@pytest.mark.parametrize("way", [copied, pickled])
def test_a_copy_shares_within_itself(way: Any) -> None:
    twin = way(load_net(NET, phase="TRAIN"))
    assert twin.params["a"][0] is twin.params["c"][0]
    tensors = {id(p) for p in twin.parameters()}
    assert all(id(item.tensor) in tensors for item in twin.learnable)
    assert twin.profile is BVLC
    assert way(load_net(NET, profile="intel")).profile is INTEL


@pytest.mark.parametrize("way", [copied, pickled])
def test_a_copy_has_no_data_source(way: Any) -> None:
    text = """layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 } } }
      layer { name: "p" type: "Power" bottom: "d" top: "p" power_param { shift: 1 } }"""
    with load_net(text) as net:
        twin = way(net)
        with pytest.raises(DataError, match="'d' as inputs"):
            twin()
        assert twin({"d": torch.zeros(2)})["p"].tolist() == [1, 1]
        assert net()["p"].tolist() == [1, 1]


def test_state_dicts_are_torch_files(tmp_path: Path) -> None:
    net = load_net(NET, seed=1)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    other = load_net(NET, seed=2)
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_weights_come_back(tmp_path: Path, suffix: str) -> None:
    if suffix in (".h5", ".hdf5"):
        pytest.importorskip("h5py")
    net = load_net(NET, seed=1)
    path = tmp_path / f"w{suffix}"
    net.save(path)
    if suffix in (".pt", ".pth"):
        assert set(torch.load(path, weights_only=True)) == set(net.state_dict())
        other = load_net(NET, seed=2)
        other.load_state_dict(torch.load(path, weights_only=True), strict=True)
    elif suffix in (".caffemodel", ".h5", ".hdf5"):
        other = load_net(NET, path, seed=2)
    else:
        from caffeio.converters.weightfiles import read_weights

        other = load_net(NET, seed=2)
        other.copy_trained_layers_from(read_weights(path, suffix[1:]))
    for name, blob in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), blob.numpy())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saved_caffemodels_have_types_and_the_dialect_of_their_file(tmp_path: Path) -> None:
    net = load_net(NET)
    net.save(tmp_path / "w.caffemodel")
    found = {entry.name: entry.type for entry in load_weights(tmp_path / "w.caffemodel").layers}
    assert found["conv"] == "Convolution"
    net.save(tmp_path / "w.pt")
    assert set(read_pt(tmp_path / "w.pt")) == {"conv", "norm", "scale", "a", "c"}
    intel = load_net(NET.replace('type: "BatchNorm"', 'type: "BatchNorm" engine: "MKLDNN"', 1))
    assert intel.dialect != "bvlc"


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    net = load_net(NET)
    with pytest.raises(UnsupportedError, match=r"'.txt' tells no format.*\.safetensors"):
        net.save(tmp_path / "w.txt")
    with pytest.raises(SnapshotError):
        net.save(tmp_path / "none" / "w.caffemodel")
    twice = load_net(NET.replace('name: "c" type: "I', 'name: "a" type: "I'))
    with pytest.raises(WeightsError, match="2 layers are called 'a'"):
        twice.save(tmp_path / "w.pt")
    assert not list(tmp_path.iterdir())
