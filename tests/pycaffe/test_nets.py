"""caffe.Net: blobs are the memory that layers use, and ranges of layers run on what lies there."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import caffeio.pycaffe as caffe
from caffeio.net import load_net
from tests.harness import assert_close

NET = """
name: "small" force_backward: true
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "tanh" type: "TanH" bottom: "ip" top: "tanh" }
"""
X = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)


@pytest.fixture
def net(net_file):
    caffe.set_random_seed(3)
    return caffe.Net(net_file(NET), caffe.TEST)


def reference(net, x):
    """The same net, run by caffeio.Net and autograd."""
    other = load_net(NET, phase="TEST")
    with torch.no_grad():
        for name, blobs in net.params.items():
            for mine, blob in zip(other.params[name], blobs, strict=True):
                mine.copy_(torch.from_numpy(blob.data))
    data = torch.from_numpy(x.copy()).requires_grad_()
    return other, data, other({"data": data})["tanh"]


def test_forward_and_backward_are_those_of_the_module(net):
    other, data, out = reference(net, X)
    grad = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    out.backward(gradient=torch.from_numpy(grad))
    assert_close(net.forward(data=X)["tanh"], out.detach(), "tanh")
    assert_close(net.backward(tanh=grad)["data"], data.grad, "diff of data")
    for i in range(2):
        assert_close(net.params["conv"][i].diff, other.params["conv"][i].grad, f"conv {i}")


def test_arrays_follow_the_net_as_long_as_they_are_held(net):
    held = net.forward(data=X)["tanh"]
    first = held.copy()
    again = net.forward(data=2 * X)["tanh"]
    assert np.array_equal(held, again)
    assert not np.array_equal(held, first)
    conv = net.blobs["conv"].data
    net.forward(data=X)
    assert np.array_equal(conv, net.blobs["conv"].data)
    assert conv.min() == 0  # of the ReLU in place
    assert np.array_equal(held, first)


def test_params_are_what_forward_uses(net):
    weights = net.params["ip"][0].data
    weights[...] = 0
    net.params["ip"][1].data[...] = 0.5
    assert np.allclose(net.forward(data=X)["tanh"], np.tanh(0.5))
    net.params["ip"][1].data.flat = 0
    assert not net.forward()["tanh"].any()


def test_data_cannot_be_replaced(net):
    with pytest.raises(AttributeError):
        net.blobs["data"].data = X


def test_forward_from_a_layer_reads_what_lies_in_its_bottom(net):
    net.forward(data=X)
    net.blobs["conv"].data[...] = 1
    out = net.forward(start="ip", end="ip")
    assert list(out) == ["ip"]
    weights, bias = (blob.data for blob in net.params["ip"])
    assert_close(out["ip"], np.tile(weights.sum(1) + bias, (2, 1)), "ip")
    with pytest.raises(ValueError, match="nothing"):
        net.forward(start="nothing")


def test_backward_in_segments_is_backward_at_once(net):
    net.forward(data=X)
    net.blobs["tanh"].diff[...] = 1
    whole = net.backward()["data"].copy()
    net.blobs["tanh"].diff[...] = 1
    diff = net.backward(start="tanh", end="ip")["conv"]
    net.backward(start="relu")
    assert_close(net.blobs["data"].diff, whole, "in two parts")
    net.blobs["tanh"].diff[...] = 1
    diff = net.backward(start="tanh", end="ip")["conv"]
    diff *= 2  # in place, through the view
    assert_close(net.backward(start="relu")["data"], 2 * whole, "doubled in between")


def test_param_diffs_add_up_until_they_are_cleared(net):
    net.forward(data=X)
    net.blobs["tanh"].diff[...] = 1
    net.backward()
    once = net.params["conv"][0].diff.copy()
    net.backward()
    held = net.params["conv"][0].diff
    assert_close(held, 2 * once, "twice")
    net.clear_param_diffs()
    assert not held.any()
    net.backward()
    assert_close(held, once, "after clearing")


def test_reshape_is_lazy(net):
    net.blobs["data"].reshape(5, 3, 6, 6)
    assert net.blobs["tanh"].shape == (2, 5)
    net.reshape()
    assert net.blobs["tanh"].shape == (5, 5)
    assert net.blobs["conv"].shape == (5, 4, 4, 4)
    net.blobs["data"].reshape(1, 3, 6, 6)
    assert net.forward(data=X[:1])["tanh"].shape == (1, 5)
    with pytest.raises(RuntimeError, match="conv"):
        net.blobs["data"].reshape(1, 2, 6, 6)
        net.forward()


def test_memory_outlives_the_net(net):
    params = [blob.data for blobs in net.params.values() for blob in blobs]
    blobs = list(net.blobs.values())
    sums = [float(p.sum()) for p in params]
    del net
    gc.collect()
    assert [float(p.sum()) for p in params] == sums
    assert all(blob.data.size == blob.count for blob in blobs)


def test_names(net):
    assert list(net.blobs) == ["data", "conv", "ip", "tanh"]
    assert net.blobs is net.blobs
    assert net.inputs == ["data"]
    assert net.outputs == ["tanh"]
    assert net.top_names["relu"] == net.bottom_names["relu"] == ["conv"]
    assert list(net.layer_dict) == list(net._layer_names)
    assert net.layer_dict["conv"].type == "Convolution"
    assert type(net.params["conv"]) is caffe._caffe.BlobVec
    assert [net._blob_names[i] for i in net._top_ids(1)] == ["conv"]


def test_wrong_inputs(net):
    with pytest.raises(Exception, match="do not match net inputs"):
        net.forward(other=X)
    with pytest.raises(Exception, match="not batch sized"):
        net.forward(data=X[:1])
    with pytest.raises(Exception, match="do not match net outputs"):
        net.backward(other=X)


def test_forward_all_fills_the_last_batch(net):
    rows = np.concatenate([X, 3 * X, X[:1]])
    out = net.forward_all(blobs=["conv"], data=rows)
    assert out["tanh"].shape == (5, 5)
    assert_close(out["tanh"][4], out["tanh"][0], "the same row")
    outs, diffs = net.forward_backward_all(data=rows, tanh=np.ones((5, 5)))
    assert_close(outs["tanh"], out["tanh"], "outputs")
    assert diffs["data"].shape == rows.shape
    assert_close(diffs["data"][4], diffs["data"][0], "diff of the same row")


@pytest.mark.parametrize("kind", ["caffemodel", "h5"])
def test_saved_weights_come_back(net, net_file, tmp_path, kind):
    path = str(tmp_path / f"weights.{kind}")
    net.params["conv"][0].diff[...] = 7
    (net.save if kind == "caffemodel" else net.save_hdf5)(path)
    want = net.forward(data=X)["tanh"]
    for other in (
        caffe.Net(net_file(NET), path, caffe.TEST),
        caffe.Net(net_file(NET), caffe.TEST, weights=path),
    ):
        assert_close(other.forward(data=X)["tanh"], want, "tanh")
        assert not other.params["conv"][0].diff.any()


def test_shared_params_are_one_memory(net, net_file):
    other = caffe.Net(net_file(NET), caffe.TRAIN)
    other.share_with(net)
    net.params["conv"][0].data[...] = 0.25
    assert (other.params["conv"][0].data == 0.25).all()
    assert_close(other.forward(data=X)["tanh"], net.forward(data=X)["tanh"], "tanh")


def test_missing_files(net_file, tmp_path):
    with pytest.raises(RuntimeError, match="Could not open file"):
        caffe.Net(str(tmp_path / "no.prototxt"), caffe.TEST)
    with pytest.raises(RuntimeError, match=r"Could not open file .*no\.caffemodel"):
        caffe.Net(net_file(NET), str(tmp_path / "no.caffemodel"), caffe.TEST)
    with pytest.raises(RuntimeError, match="unknown layer type"):
        caffe.Net(net_file('layer { name: "x" type: "Nothing" top: "x" }'), caffe.TEST)


def test_subclasses_may_set_what_they_like(net_file):
    class Mine(caffe.Net):
        def __init__(self, file):
            caffe.Net.__init__(self, file, caffe.TEST)
            self.scale = 2

        def run(self):
            return self.forward(data=self.scale * X)

    assert Mine(net_file(NET)).run()["tanh"].shape == (2, 5)


def test_hooks_get_the_layers_number(net):
    seen = []
    net.before_forward(lambda i: seen.append(("before", i)))
    net.after_backward(lambda i: seen.append(("back", i)))
    net.forward(end="conv")
    net.backward(start="conv")
    assert seen == [("before", 0), ("before", 1), ("back", 1), ("back", 0)]


def test_splits_are_layers_and_share_memory(net_file):
    net = caffe.Net(net_file("""
        force_backward: true
        layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 } } }
        layer { name: "x" type: "Power" bottom: "a" top: "x" power_param { scale: 3 } }
        layer { name: "y" type: "Power" bottom: "a" top: "y" power_param { scale: 5 } }
    """), caffe.TEST)  # fmt: skip
    assert net.layer_dict["a_in_0_split"].type == "Split"
    net.blobs["a"].data[...] = [1, 2]
    assert net.forward()["x"].tolist() == [3, 6]
    assert net.blobs["a_in_0_split_1"].data.tolist() == [1, 2]
    net.blobs["a_in_0_split_1"].data[...] = 4
    assert net.blobs["a"].data.tolist() == [4, 4]
    assert net.backward(x=[1, 1], y=[1, 10])["a"].tolist() == [8, 53]


def test_a_layer_without_backward_refuses(net_file):
    net = caffe.Net(net_file("""
        force_backward: true
        layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "x" type: "ArgMax" bottom: "a" top: "x" }
    """), caffe.TEST)  # fmt: skip
    net.forward()
    with pytest.raises(RuntimeError, match="has no backward pass"):
        net.backward()


def test_memory_data_reads_the_scripts_arrays(net_file):
    net = caffe.Net(net_file("""
        layer { name: "in" type: "MemoryData" top: "data" top: "label"
          memory_data_param { batch_size: 2 channels: 1 height: 1 width: 2 } }
    """), caffe.TEST)  # fmt: skip
    data = np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    net.forward()
    net.forward()
    data[2] = 9
    assert net.blobs["data"].data.ravel().tolist() == [9, 9, 6, 7]
    assert net.blobs["label"].data.ravel().tolist() == [2, 3]
    with pytest.raises(RuntimeError, match="float32"):
        net.set_input_arrays(data.astype(float), np.zeros(4, np.float32))


def test_dummy_data_keeps_what_a_script_writes_over_constants(net_file):
    net = caffe.Net(net_file("""
        layer { name: "in" type: "DummyData" top: "a" top: "b"
          dummy_data_param { shape { dim: 2 } data_filler { type: "constant" value: 5 }
            data_filler { type: "gaussian" } } }
    """), caffe.TEST)  # fmt: skip
    assert net.blobs["a"].data.tolist() == [5, 5]  # before any forward
    net.blobs["a"].data[0] = 1
    first = net.forward()["b"].copy()
    assert net.blobs["a"].data.tolist() == [1, 5]
    assert not np.array_equal(net.forward()["b"], first)


def test_a_layer_object_runs_on_any_blobs(net):
    net.forward(data=X)
    layer, bottom, top = net.layers[1], net.blobs["data"], net.blobs["conv"]
    layer.forward([bottom], [top])
    assert top.data.min() < 0  # the ReLU has not run again
    layer.reshape([bottom], [top])
    assert len(layer.blobs) == 2


def test_a_parameter_layers_top_is_its_blob(net_file):
    net = caffe.Net(net_file("""
        layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 } } }
        layer { name: "loss" type: "Reduction" bottom: "p" top: "loss" loss_weight: 1 }
    """), caffe.TRAIN)  # fmt: skip
    net.params["p"][0].data[...] = [1, 2, 3]
    assert net.forward()["loss"] == 6
    net.backward()
    assert net.params["p"][0].diff.tolist() == [1, 1, 1]
