"""Losses do not pass gradients to labels: refused when a TRAIN net is built."""

from __future__ import annotations

import pytest

from caffeio import load_net
from caffeio.errors import NetError

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


@pytest.mark.parametrize(
    "text",
    [
        HEAD + loss("label", "propagate_down: true propagate_down: true"),
        HEAD + LEARNED + loss("made"),
    ],
)
def test_refused(text):
    message = r"layer 'loss': SoftmaxWithLoss cannot backpropagate to label inputs: bottom 1"
    with pytest.raises(NetError, match=message) as caught:
        load_net(text, phase="TRAIN", device="meta")
    assert str(caught.value).startswith("<text>:")
    load_net(text, phase="TEST", device="meta")  # nothing goes back there


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
    load_net(text, phase="TRAIN", device="meta")
