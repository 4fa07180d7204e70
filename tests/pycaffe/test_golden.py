"""Arrays that real pycaffe computed, through pycaffe's interface on live blobs."""

from __future__ import annotations

import numpy as np
import pytest

import caffeio.pycaffe as caffe
from tests.harness import assert_close, golden, part
from tests.paths import GOLDEN

CASES = [
    pytest.param(path, id=f"{path.parent.name}/{path.stem}")
    for path in sorted((GOLDEN / "layers").glob("*/*.prototxt"))
]


@pytest.mark.parametrize("prototxt", CASES)
def test_layer(prototxt, monkeypatch):
    monkeypatch.chdir(prototxt.parent)
    monkeypatch.syspath_prepend(prototxt.parent)
    arrays = golden(prototxt)
    if "random_seed" in arrays:
        caffe.set_random_seed(int(arrays["random_seed"]))
    phase = caffe.TRAIN if str(arrays["phase"]) == "TRAIN" else caffe.TEST
    net = caffe.Net(str(prototxt), phase)
    x = net._layer_names.index("x")
    if "memory/data" in arrays:
        held = [np.ascontiguousarray(arrays[f"memory/{key}"]) for key in ("data", "label")]
        net.set_input_arrays(*held)
    for number in range(int(arrays["passes"])):
        prefix = f"pass{number}/" if number else ""
        check_pass(net, x, {k: v for k, v in arrays.items() if k.startswith(prefix)}, prefix)


def check_pass(net, x, arrays, prefix):
    layer = net.layers[x]
    for name, value in part(arrays, f"{prefix}in/").items():
        net.blobs[name].data[...] = value
    for key, value in part(arrays, f"{prefix}param/").items():
        if not prefix:
            layer.blobs[int(key)].data[...] = value
        assert_close(layer.blobs[int(key)].data, value, f"param {key}")
    loss = net._forward(0, len(net.layers) - 1)
    for name, value in part(arrays, f"{prefix}out/").items():
        assert_close(net.blobs[name].data, value, f"top {name}")
    for key, value in part(arrays, f"{prefix}param_after/").items():
        assert_close(layer.blobs[int(key)].data, value, f"param {key} after")
    if f"{prefix}loss" in arrays:
        assert_close(loss, arrays[f"{prefix}loss"], "loss")
    diffs = part(arrays, f"{prefix}bottom_diff/")
    param_diffs = part(arrays, f"{prefix}param_diff/")
    if not diffs and not param_diffs:
        return
    net.clear_param_diffs()
    for name, value in part(arrays, f"{prefix}top_diff/").items():
        if net.blob_loss_weights[name]:
            assert_close(net.blobs[name].diff, value, f"loss weight of {name}")
        else:
            net.blobs[name].diff[...] = value
    net._backward(x, x)
    for name, value in diffs.items():
        assert_close(net.blobs[name].diff, value, f"diff of bottom {name}")
    for key, value in param_diffs.items():
        assert_close(layer.blobs[int(key)].diff, value, f"diff of param {key}")
