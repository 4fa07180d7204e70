"""What the builder refuses of a net is told without building it, in the same words."""

from __future__ import annotations

import pytest

from caffeio import load_net
from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.proto.files import read_net

INPUT = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
IP = "inner_product_param { num_output: 4 }"


def ip(name: str, more: str = "", param: str = IP) -> str:
    tops = f'bottom: "x" top: "{name}"'
    return f'layer {{ name: "{name}" type: "InnerProduct" {tops} {more} {param} }}\n'


WRONG = {
    "in place": 'layer { name: "a" type: "InnerProduct" bottom: "x" top: "x" ' + IP + " }",
    "too many bottoms": 'layer { name: "a" type: "ReLU" bottom: "x" bottom: "x" top: "y" }',
    "no top": 'layer { name: "a" type: "ReLU" bottom: "x" }',
    "tops of a loss": 'layer { name: "a" type: "EuclideanLoss" bottom: "x" top: "l" top: "m" }',
    "unequal": 'layer { name: "a" type: "Convolution" bottom: "x" top: "y" top: "z" }',
    "loss weights": ip("a", "loss_weight: 1 loss_weight: 2"),
    "loss weights of an automatic top":
        'layer { name: "a" type: "EuclideanLoss" bottom: "x" bottom: "x" loss_weight: 1 '
        "loss_weight: 1 }",
    "params": ip("a", "param {} param {} param {}"),
    "params of a ReLU": 'layer { name: "a" type: "ReLU" bottom: "x" top: "y" param {} }',
    "statistics": 'layer { name: "a" type: "BatchNorm" bottom: "x" top: "y" param { lr_mult: 1 } }',
    "shared shapes": ip("a", 'param { name: "w" }')
        + ip("b", 'param { name: "w" }', "inner_product_param { num_output: 5 }"),
    "shared counts": ip("a", 'param { name: "w" }')
        + ip("b", 'param { name: "w" share_mode: PERMISSIVE }',
             "inner_product_param { num_output: 5 }"),
    "shared rates": ip("a", 'param { name: "w" lr_mult: 1 }')
        + ip("b", 'param { name: "w" lr_mult: 2 }'),
    "inherited rates": ip("a", 'param { name: "w" }') + ip("b", 'param { name: "w" decay_mult: 1 }')
        + ip("c", 'param { name: "w" decay_mult: 0 }'),
}  # fmt: skip
RIGHT = {
    "in place": 'layer { name: "a" type: "ReLU" bottom: "x" top: "x" }',
    "permissive": ip("a", 'param { name: "w" }', "inner_product_param { num_output: 4 }")
        + ip("b", 'param { name: "w" share_mode: PERMISSIVE }',
             "inner_product_param { num_output: 4 transpose: true }"),
    "weights": 'layer { name: "a" type: "EuclideanLoss" bottom: "x" bottom: "x" loss_weight: 3 }',
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_the_same_words(text):
    with pytest.raises(CaffeIOError) as error:
        load_net(INPUT + text, device="meta")
    shapes = infer_net(build_graph(read_net(INPUT + text).message))
    assert error.value.message in [message for _, message in shapes.problems]


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_left_alone(text):
    load_net(INPUT + text, device="meta")
    assert infer_net(build_graph(read_net(INPUT + text).message)).problems == []


def test_sizes_that_are_not_known_may_fit():
    """Behind data that are not here a layer has no size that could differ."""
    data = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "none" } }\n'
    text = data + ip("a", 'param { name: "w" }') + ip("b", 'param { name: "w" }')
    shapes = infer_net(build_graph(read_net(text).message))
    assert shapes.problems == [] and not shapes.parameters_known
    assert infer_net(build_graph(read_net(data + WRONG["in place"]).message)).refusals


def test_layers_that_cannot_be_set_up_hide_parameters():
    python = """layer { name: "p" type: "Python" bottom: "x" top: "y"
                        python_param { module: "mine" layer: "Mine" } }"""
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'
    ahead = infer_net(build_graph(read_net(INPUT + relu).message))
    assert ahead.parameters_known
    text = INPUT + python + ip("a").replace('"x"', '"y"')
    assert not infer_net(build_graph(read_net(text).message)).parameters_known
