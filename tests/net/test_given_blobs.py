"""Blobs in the net's text, as real Caffe takes them (its log of this net was the model)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from caffeio.proto.files import read_solver
from caffeio.proto.weights.load import load_weights
from caffeio.training.net_specs import train_spec

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '
SCALE = (
    'layer { name: "s" type: "Scale" bottom: "x" top: "s" scale_param { bias_term: true } '
    "blobs { shape { dim: 3 } data: 1 data: 2 data: 3 } } "
)
PRODUCT = (
    'layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" '
    "inner_product_param { num_output: 2 bias_term: false } blobs { num: 1 channels: 1 height: 2 "
    "width: 3 data: 1 data: 2 data: 3 data: 0.1 data: 0.2 data: 0.3 } } "
)


def test_values_and_shapes(tmp_path: Path) -> None:
    net = load_net(INPUT + SCALE + PRODUCT)
    out = net({"x": torch.ones(2, 3)})
    assert net.blobs["s"][0].tolist() == [2, 4, 6]  # the bias is made of the same text
    assert np.allclose(out["ip"].detach().numpy(), [[28, 2.8]] * 2)
    net.save(tmp_path / "w.caffemodel")
    entry = load_weights(tmp_path / "w.caffemodel")
    shapes = {layer.name: [tuple(b.shape) for b in layer.blobs] for layer in entry.layers}
    assert shapes["ip"] == [(1, 1, 2, 3)] and shapes["s"] == [(3,), (3,)]
    net.params["ip"][0].data.zero_()
    net.copy_trained_layers_from(entry)
    assert np.allclose(net({"x": torch.ones(2, 3)})["ip"].detach().numpy(), [[28, 2.8]] * 2)


def test_trains_in_the_given_shape() -> None:
    loss = 'layer { name: "l" type: "Reduction" bottom: "ip" top: "l" loss_weight: 1 }'
    net = load_net(INPUT + SCALE + PRODUCT + loss, phase="TRAIN")
    net({"x": torch.ones(2, 3)})
    net.loss.backward()
    (item,) = [p for p in net.learnable if p.layer == "ip"]
    assert item.tensor.shape == (1, 1, 2, 3)
    assert item.tensor.grad is not None
    assert item.tensor.grad.flatten().tolist() == [4, 8, 12] * 2


def test_nothing_is_drawn_for_them() -> None:
    after = (
        'layer { name: "after" type: "InnerProduct" bottom: "ip" top: "after" '
        'inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }'
    )
    alone = load_net(INPUT.replace("dim: 3", "dim: 2") + after.replace('"ip"', '"x"'), seed=5)
    behind = load_net(INPUT + SCALE + PRODUCT + after, seed=5)
    assert torch.equal(alone.params["after"][0], behind.params["after"][0])


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        ("data: 0.3", "", "blob 0 of shape 1 1 2 3 is given 5 values"),
        ("num: 1 channels: 1 height: 2", "num: 1 channels: 1 height: 1", "is given 6 values"),
        ("height: 2 width: 3", "height: 1 width: 6", None),  # as many numbers: taken
        ("bias_term: false }", "}", "has 2 blobs, and 1 are given"),
        (
            "shape { dim: 3 }",
            "num: 1 channels: 1 height: 1 width: 3",
            "must be of shape 3, not",
        ),
    ],
)
def test_refusals(wrong: str, right: str, says: str | None) -> None:
    text = INPUT + SCALE + PRODUCT
    assert wrong in text
    if says is None:
        load_net(text.replace(wrong, right))
        return
    with pytest.raises(CaffeIOError, match=says):
        load_net(text.replace(wrong, right))


def test_blobs_without_values(tmp_path: Path) -> None:
    bare = "blobs { shape { dim: 3 } } "
    text = INPUT + SCALE.replace("blobs { shape { dim: 3 } data: 1 data: 2 data: 3 } ", bare * 2)
    with pytest.raises(CaffeIOError, match="blob 0 of shape 3 is given 0 values"):
        load_net(text)
    inline = train_spec(read_solver(f"base_lr: 1\nmax_iter: 1\nnet_param {{ {text} }}"))
    with pytest.raises(CaffeIOError, match="blob 0 of shape 3 is given 0 values"):
        inline.build()
    binary = tmp_path / "net:1"  # a name that looks like a place in a text
    load_net(INPUT + SCALE).save(tmp_path / "net.caffemodel")
    (tmp_path / "net.caffemodel").rename(binary)
    net = load_net(binary, input_shapes={"x": (2, 3)})
    assert [tuple(blob.shape) for blob in net.params["s"]] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("kind", "insists"),
    [("Convolution", True), ("DepthwiseConvolution", True), ("ConvolutionDepthwise", False)],
)
def test_which_convolutions_insist_on_their_shape(kind: str, insists: bool) -> None:
    text = INPUT.replace("dim: 2 dim: 3", "dim: 1 dim: 3 dim: 5 dim: 5") + (
        f'layer {{ name: "c" type: "{kind}" bottom: "x" top: "c" convolution_param {{ group: 3 '
        "num_output: 3 kernel_size: 2 bias_term: false } blobs { shape { dim: 3 dim: 4 } "
        f"{' '.join(f'data: {i}' for i in range(12))} }} }}"
    )
    if insists:
        with pytest.raises(CaffeIOError, match="blob 0 must be of shape 3 1 2 2, not 3 4"):
            load_net(text)
    else:
        assert load_net(text).params["c"][0].flatten().tolist() == list(range(12))


def test_recurrent_layers_fill_blobs_of_their_own() -> None:
    layer = (
        'layer { name: "r" type: "RNN" bottom: "x" bottom: "c" top: "r" recurrent_param { '
        'num_output: 2 weight_filler { type: "constant" value: 0.5 } } '
        "blobs { shape { dim: 1 } data: 7 } }"
    )
    shape = "shape { dim: 2 dim: 3 }"
    text = INPUT.replace('top: "x"', 'top: "x" top: "c"').replace(
        shape, "shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 }"
    )
    assert load_net(text + layer).params["r"][0].unique().tolist() == [0.5]
