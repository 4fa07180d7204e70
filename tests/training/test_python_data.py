"""Data layers written in Python: setup and reshape build them, forward gives the batches."""

from __future__ import annotations

import sys

import pytest

from caffeio.net import load_net
from caffeio.training import Trainer

LAYER = """
import caffe


class Counter(caffe.Layer):
    calls = []

    def setup(self, bottom, top):
        self.at = 0

    def reshape(self, bottom, top):
        top[0].reshape(4, 2, 3, 3)
        top[1].reshape(4)

    def forward(self, bottom, top):
        Counter.calls.append(self.at)
        top[0].data[...] = self.at + 1
        top[1].data[...] = self.at % 2
        self.at += 1

    def backward(self, top, propagate_down, bottom):
        pass
"""
NET = """
layer { name: "data" type: "Python" top: "data" top: "label"
  python_param { module: "NAME" layer: "Counter" } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" relu_param { negative_slope: 0.1 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("number", range(2))
def test_a_net_of_a_python_layer_and_an_inner_product_trains(tmp_path, monkeypatch, number):
    """Two runs: nothing of the first may be left in the second."""
    monkeypatch.chdir(tmp_path)
    name = f"counting_layer_{number}"
    (tmp_path / f"{name}.py").write_text(LAYER)
    (tmp_path / "net.prototxt").write_text(NET.replace("NAME", name))
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    with Trainer("solver.prototxt", allow_python=True) as trainer:
        calls = sys.modules[name].Counter.calls
        assert calls == []  # nothing was read when the net was built
        before = trainer.net.params["ip"][0].detach().clone()
        trainer.step(3)
        assert calls == [0, 1, 2]
        assert not before.equal(trainer.net.params["ip"][0].detach())


def test_a_module_that_reads_goes_before_a_stand_in_that_knows_shapes_alone(tmp_path, monkeypatch):
    """FCN's own voc_layers: a net with it builds without; where it may run it gives the data."""
    monkeypatch.chdir(tmp_path)
    text = NET.replace("NAME", "voc_layers").replace("Counter", "VOCSegDataLayer")
    text = text[: text.index('layer { name: "ip"')]
    (tmp_path / "net.prototxt").write_text(text)
    assert load_net("net.prototxt", phase="TRAIN").layers[0].is_source
    assert load_net("net.prototxt", phase="TRAIN", allow_python=True).layers[0].is_source
    (tmp_path / "voc_layers.py").write_text(LAYER.replace("Counter", "VOCSegDataLayer"))
    assert load_net("net.prototxt", phase="TRAIN").layers[0].is_source
    try:
        net = load_net("net.prototxt", phase="TRAIN", allow_python=True)
        net()
        assert net.blobs["data"].unique().tolist() == [1]
    finally:
        sys.modules.pop("voc_layers", None)
