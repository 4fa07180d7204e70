"""Losses do not pass gradients to labels: refused by the first backward, as in Caffe."""

from __future__ import annotations

import pytest
import torch

from caffeio import load_net
from caffeio.errors import NetError
from caffeio.net import Net

HEAD = """
layer { name: "in" type: "Input" top: "x" top: "label"
        input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
        inner_product_param { num_output: 4 } }
"""
LEARNED = """
layer { name: "made" type: "InnerProduct" bottom: "x" top: "made"
        inner_product_param { num_output: 1 } }
"""


def loss(label: str, flags: str = "") -> str:
    return (
        f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "{label}" '
        f'top: "loss" {flags} }}'
    )


def run(text: str, phase: str) -> Net:
    net = load_net(text, phase=phase)
    with torch.no_grad():
        for blob in net.params.get("made", ()):
            blob.zero_()
    net({"x": torch.ones(2, 3), "label": torch.zeros(2)})
    return net


@pytest.mark.parametrize(
    "text",
    [
        HEAD + loss("label", "propagate_down: true propagate_down: true"),
        HEAD + LEARNED + loss("made"),
    ],
)
def test_refused(text):
    message = r"layer 'loss': SoftmaxWithLoss cannot backpropagate to label inputs: bottom 1"
    for phase in ("TRAIN", "TEST"):
        net = run(text, phase)
        with pytest.raises(NetError, match=message) as caught:
            net.loss.backward()
        assert str(caught.value).startswith("<text>:")


@pytest.mark.parametrize(
    "text",
    [
        HEAD + loss("label"),
        HEAD + loss("label", "propagate_down: true propagate_down: false"),
        HEAD + LEARNED + loss("made", "propagate_down: true propagate_down: false"),
        HEAD + LEARNED + loss("made", "loss_weight: 0"),
    ],
)
def test_allowed(text):
    net = run(text, "TRAIN")
    if net.loss.requires_grad:
        net.loss.backward()
