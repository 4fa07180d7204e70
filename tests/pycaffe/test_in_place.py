"""In place, layers go back through what later layers wrote: numbers of real Caffe."""

from __future__ import annotations

import numpy as np
import pytest

import caffeio.pycaffe as caffe
from tests.harness import assert_close

A = np.array([1, -2, -0.5, 0.25, 2, 0.75, -1, -0.125], np.float32).reshape(4, 2)
W = np.array([0.3, -1, 0.7, 0.2, -0.4, 0.9, 1.1, -0.6], np.float32).reshape(4, 2)
HEAD = """
force_backward: true
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "x" type: "Power" bottom: "a" top: "x" power_param { scale: 0.8 } }
"""
SCALE = """layer { name: "s" type: "Scale" bottom: "x" top: "x" scale_param {
  filler { value: VALUE } bias_term: BIAS bias_filler { value: 0.5 } } }"""
RELU = 'layer { name: "f" type: "ReLU" bottom: "x" top: "x" }'
SIGMOID = 'layer { name: "f" type: "Sigmoid" bottom: "x" top: "x" }'
POWER = 'layer { name: "f" type: "Power" bottom: "x" top: "x" power_param { FIELDS } }'
CASES = {
    "relu, scale": (
        RELU + SCALE.replace("VALUE", "-2").replace("BIAS", "true"),
        [0, 1.6, -1.12, -0.32, 0, 0, -1.76, 0.96],
    ),
    "sigmoid, scale": (
        SIGMOID + SCALE.replace("VALUE", "3").replace("BIAS", "false"),
        [-1.594555, -0.599963, -0.412486, -0.51425, 3.584867, -3.920139, 0.17169, 0.872266],
    ),
    "power 1": (POWER.replace("FIELDS", ""), [0.8] * 8),
    "power 1, scale": (POWER.replace("FIELDS", "scale: 0.5 shift: 1"), [0.2] * 8),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_gradients_of_real_caffe(name, held, net_file):
    text, want = CASES[name]
    net = caffe.Net(net_file(HEAD + text), caffe.TRAIN)
    views = [blob.data for blob in net.blobs.values()] if held else []
    net.forward(a=A)
    got = net.backward(x=W)["a"]
    assert_close(got.ravel(), want, name, 2e-5)
    assert len(views) == 2 * held


def test_the_graph_of_a_chain_is_made_when_a_backward_comes(net_file):
    """A TEST net keeps nothing in forward: Scale's own input is computed once more."""
    text = HEAD.replace("force_backward: true", "") + RELU + SCALE.replace("BIAS", "true")
    text = (
        text.replace("VALUE", "-2")
        + 'layer { name: "l" type: "Reduction" bottom: "x" top: "l" loss_weight: 1 }'
    )
    grads = {}
    for phase in (caffe.TRAIN, caffe.TEST):
        net = caffe.Net(net_file(text), phase)
        net.forward(a=A)
        net.backward()
        grads[phase] = net.params["s"][0].diff.copy()
    assert_close(grads[caffe.TRAIN], np.maximum(0.8 * A, 0).sum(0), "scale")
    assert_close(grads[caffe.TEST], grads[caffe.TRAIN], "scale in TEST")


def test_eltwise_in_place_loses_its_first_bottom(net_file):
    net = caffe.Net(net_file("""
        layer { name: "a" type: "Input" top: "x" top: "b"
          input_param { shape { dim: 4 } } }
        layer { name: "e" type: "Eltwise" bottom: "x" bottom: "b" top: "x" }
    """), caffe.TEST)  # fmt: skip
    assert net.forward(x=[1, 2, 3, 4], b=[0.5, 6, 7, 8])["x"].tolist() == [0.5, 6, 7, 8]


def test_a_layer_in_place_behind_flatten_changes_what_flatten_reads(net_file):
    net = caffe.Net(net_file("""
        layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 2 } } }
        layer { name: "f" type: "Flatten" bottom: "a" top: "f" }
        layer { name: "r" type: "ReLU" bottom: "f" top: "f" }
    """), caffe.TEST)  # fmt: skip
    net.forward(a=[[1, -2], [-3, 4]])
    assert net.blobs["a"].data.tolist() == [[1, 0], [0, 4]]


def test_batch_norm_keeps_its_own_copy(net_file):
    """Its bottom may be written to between forward and backward."""
    text = HEAD + 'layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" }'
    want = caffe.Net(net_file(text), caffe.TRAIN)
    want.forward(a=A)
    expected = want.backward(y=W)["a"].copy()
    net = caffe.Net(net_file(text), caffe.TRAIN)
    net.forward(a=A)
    net.blobs["x"].data[...] = 7
    assert_close(net.backward(y=W)["a"], expected, "diff of a")
    held = net.blobs["x"].data
    net.forward(a=A)
    held[...] = 7
    assert_close(net.backward(y=W)["a"], expected, "diff of a, with a view held")
