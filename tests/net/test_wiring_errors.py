from __future__ import annotations

import pytest

from caffeio.errors import NetError
from caffeio.net import load_net

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 } } }
layer { name: "ip0" type: "Power" bottom: "data" top: "mid" include { stage: "one" } }
layer { name: "r" type: "ReLU" bottom: "mid" top: "mid" }
"""


def test_a_layer_that_is_left_out_is_named() -> None:
    with pytest.raises(NetError) as caught:
        load_net(NET, phase="TEST")
    assert caught.value.message == (
        "unknown bottom blob 'mid' (layer 'r', bottom index 0): layer 'ip0' makes it, but takes no "
        'part here (phase TEST, level 0, stages: none): its rule is include { stage: "one" }; '
        "-stage is for the training net, a test net gets its stages by test_state"
    )


def test_a_layer_is_not_told_to_move_above_itself() -> None:
    with pytest.raises(NetError, match="no layer makes it"):
        load_net('layer { name: "r" type: "ReLU" bottom: "mid" top: "mid" }')


def test_a_layer_further_down() -> None:
    text = NET.replace('include { stage: "one" }', "")
    first, power, relu = text.strip().splitlines()
    with pytest.raises(NetError, match="layer 'ip0' makes it, but only further down"):
        load_net("\n".join((first, relu.replace('top: "mid"', 'top: "r"'), power)))
