"""The keys of a net's state_dict are those of our own .pt files."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from caffeio.converters import pytorch
from caffeio.net import load_net
from caffeio.proto.weights.load import load_weights
from tests.paths import GOLDEN

FOLDER = GOLDEN / "nets" / "residual_inplace"


def test_our_own_file_loads_strictly(tmp_path: Path) -> None:
    weights = FOLDER / "weights.caffemodel"
    pytorch.write(tmp_path / "x.pt", load_weights(weights))
    theirs = load_net(FOLDER / "net.prototxt", weights)
    mine = load_net(FOLDER / "net.prototxt")
    mine.load_state_dict(torch.load(tmp_path / "x.pt"))
    assert {"conv1.weight", "bn_conv1.mean", "scale_conv1.weight"} <= set(mine.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value), key


def test_names_with_dots_twice_and_of_attributes() -> None:
    one = 'bottom: "x" inner_product_param { num_output: 2 }'
    net = load_net(f"""
        layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: 3 }} }} }}
        layer {{ name: "a.b" type: "InnerProduct" top: "p" {one} }}
        layer {{ name: "a" type: "InnerProduct" top: "q" {one} }}
        layer {{ name: "a" type: "InnerProduct" top: "r" {one} }}
        layer {{ name: "loss" type: "InnerProduct" top: "s" {one} }}""")
    layers = ("a.b", "a", "a#2", "loss")
    assert set(net.state_dict()) == {f"{n}.{blob}" for n in layers for blob in ("weight", "bias")}
    assert set(dict(net.named_parameters())) == set(net.state_dict())
    net({"x": torch.ones(1, 3)})
    assert net.loss.item() == 0
    twin = copy.deepcopy(
        load_net("""
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
        layer { name: "l" type: "InnerProduct" bottom: "x" top: "y"
                inner_product_param { num_output: 2 } }""")
    )
    assert list(twin.state_dict()) == ["l.weight", "l.bias"]
