"""Layers of the script's own modules: real objects in net.layers, on the net's own blobs."""

from __future__ import annotations

import sys
from textwrap import dedent

import numpy as np
import pytest

import caffeio.pycaffe as caffe
from caffeio.pycaffe.install_module import uninstall

LAYERS = '''
import caffe
import numpy as np


class Rows(caffe.Layer):
    """Shapes its top by what it is about to read, as FCN's data layers do."""

    def setup(self, bottom, top):
        self.rows = []
        self.log = []

    def set_rows(self, rows):
        self.rows = list(rows)

    def reshape(self, bottom, top):
        self.log.append("reshape")
        top[0].reshape(len(self.rows[0]) if self.rows else 1, 2)

    def forward(self, bottom, top):
        self.log.append("forward")
        top[0].data[...] = self.rows.pop(0)

    def backward(self, top, propagate_down, bottom):
        pass


class Gain(caffe.Layer):
    """y = gain * x with a blob of its own."""

    def setup(self, bottom, top):
        self.options = eval(self.param_str)
        assert self.param_str == self.param_str_
        self.blobs.add_blob(1)
        self.kept = self.blobs[0].data
        self.kept[...] = self.options["gain"]

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.asked = list(propagate_down)
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data * top[0].diff


class Phase(caffe.Layer):
    def setup(self, bottom, top):
        self.text = str(self.phase)

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase

    def backward(self, top, propagate_down, bottom):
        pass


class Broken(caffe.Layer):
    def setup(self, bottom, top):
        raise KeyError("mine")


class RoIDataLayer(Rows):
    def setup(self, bottom, top):
        Rows.setup(self, bottom, top)
'''
INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'


def python(name, bottom="", top="y", module="user_layers", param="{}"):
    bottoms = f'bottom: "{bottom}"' if bottom else ""
    return (
        f'layer {{ name: "{name}" type: "Python" {bottoms} top: "{top}" '
        f"python_param {{ module: '{module}' layer: '{name}' param_str: '{param}' }} }}"
    )


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "user_layers.py").write_text(dedent(LAYERS))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("user_layers", "roi_data_layer", "roi_data_layer.layer"):
        sys.modules.pop(name, None)
    uninstall()


def test_forward_is_not_called_before_it_is_asked_for(net_file):
    net = caffe.Net(net_file(python("Rows")), caffe.TRAIN)
    layer = net.layers[0]
    assert layer.log == ["reshape"]
    layer.set_rows([np.ones((3, 2)), np.full((1, 2), 7)])
    assert net.forward()["y"].shape == (3, 2)
    assert net.forward()["y"].tolist() == [[7, 7]]
    assert layer.log[1:] == ["reshape", "forward"] * 2


def test_blobs_are_params_in_both_directions(net_file):
    text = "force_backward: true\n" + INPUT + python("Gain", "x", param='{"gain": 3}')
    net = caffe.Net(net_file(text), caffe.TRAIN)
    layer = net.layer_dict["Gain"]
    assert net.params["Gain"][0] is layer.blobs[0]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(net.forward(x=x)["y"], 3 * x)
    net.params["Gain"][0].data[...] = 2
    assert layer.kept == 2
    assert np.array_equal(net.forward()["y"], 2 * x)
    net.backward(y=np.ones((2, 3)))
    net.backward()
    assert layer.asked == [True]
    assert net.params["Gain"][0].diff == 2 * x.sum()
    assert (net.blobs["x"].diff == 2).all()


def test_a_gain_is_learned_and_saved(net_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net_file("""
        layer { name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param {
          shape { dim: 1 dim: 1 } data_filler { value: 2 } data_filler { value: 8 } } }
    """ + python("Gain", "x", param='{"gain": 1}') + """
        layer { name: "l" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "l" }
    """)  # fmt: skip
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "s"'
    )
    solver = caffe.SGDSolver("solver.prototxt")
    solver.step(40)
    gain = solver.net.layers[1].blobs[0].data
    assert gain == pytest.approx(4, abs=1e-3)
    solver.snapshot()
    other = caffe.Net("net.prototxt", "s_iter_40.caffemodel", caffe.TEST)
    assert other.layers[1].kept == gain


@pytest.mark.parametrize(("phase", "text"), [(caffe.TRAIN, "TRAIN"), (caffe.TEST, "TEST")])
def test_the_phase_is_a_number_and_a_name(net_file, phase, text):
    net = caffe.Net(net_file(python("Phase")), phase)
    assert net.forward()["y"] == phase
    assert net.blobs["y"].shape == ()
    assert net.layers[0].text == text


def test_errors_of_a_layer_come_out_as_they_are(net_file):
    with pytest.raises(KeyError, match="mine"):
        caffe.Net(net_file(python("Broken")), caffe.TEST)
    net = caffe.Net(net_file(python("Rows")), caffe.TEST)
    with pytest.raises(IndexError, match="pop from empty list"):
        net.forward()


def test_missing_modules_and_classes_are_named(net_file):
    with pytest.raises(RuntimeError, match="'no_such_module'"):
        caffe.Net(net_file(python("Rows", module="no_such_module")), caffe.TEST)
    with pytest.raises(RuntimeError, match="has no class 'Nothing'"):
        caffe.Net(net_file(python("Nothing")), caffe.TEST)


def test_the_scripts_own_module_goes_before_a_built_in_stand_in(net_file, tmp_path):
    text = python("RoIDataLayer", module="roi_data_layer.layer", top="data")
    built_in = caffe.Net(net_file(text), caffe.TRAIN)
    assert not hasattr(built_in.layers[0], "set_rows")
    package = tmp_path / "roi_data_layer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layer.py").write_text("from user_layers import RoIDataLayer\n")
    net = caffe.Net(net_file(text), caffe.TRAIN)
    net.layers[0].set_rows([np.ones((4, 2))])
    assert net.forward()["data"].shape == (4, 2)
