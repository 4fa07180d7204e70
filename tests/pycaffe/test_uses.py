"""What public scripts do with pycaffe, on small nets: the patterns of well-known projects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import caffeio.pycaffe as caffe
from caffeio.net import load_net
from tests.harness import assert_close

CONVS = """
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 9 dim: 9 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 2 weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
"""  # noqa: E501
IMAGE = np.random.default_rng(4).normal(size=(2, 9, 9)).astype(np.float32)


@pytest.fixture
def net(net_file):
    caffe.set_random_seed(1)
    return caffe.Net(net_file(CONVS), caffe.TEST)


def gradient(net, image, losses):
    """The gradient of a sum of losses of blobs, by autograd on caffeio.Net."""
    other = load_net(CONVS)
    with torch.no_grad():
        for name, blobs in net.params.items():
            for mine, blob in zip(other.params[name], blobs, strict=True):
                mine.copy_(torch.from_numpy(blob.data))
    data = torch.from_numpy(image[None].copy()).requires_grad_()
    other({"data": data})
    sum(loss(other.blobs[name]) for name, loss in losses.items()).backward()
    return data.grad[0]


def test_deepdream(net):
    """Ascent of the norm of a layer: forward(end=), the data as the diff, backward(start=)."""
    for side in (9, 13):
        image = np.resize(IMAGE, (2, side, side))
        data, wanted = net.blobs["data"], net.blobs["conv2"]
        data.reshape(1, 2, side, side)
        data.data[0] = image
        for _ in range(2):
            before = data.data[0].copy()
            net.forward(end="conv2")
            net.forward(start="relu2", end="relu2")
            wanted.diff[:] = wanted.data
            net.backward(start="relu2")
            grad = data.diff[0]
            want = gradient(net, before, {"conv2": lambda x: x.square().sum() / 2})
            assert_close(grad, want, f"gradient at {side}")
            data.data[:] += 0.1 / np.abs(grad).mean() * grad


def test_style_transfer(net):
    """Losses of several layers: each is added to the diff that came from above, in place."""
    layers = ["pool1", "conv2"]
    net.blobs["data"].data[0] = IMAGE
    net.forward()
    grams = {}
    for layer in layers:
        features = net.blobs[layer].data[0].copy()
        features.shape = (features.shape[0], -1)
        grams[layer] = (features @ features.T, features)
    net.blobs["conv2"].diff[:] = 0
    for i, layer in enumerate(reversed(layers)):
        below = None if i == len(layers) - 1 else layers[-i - 2]
        grad = net.blobs[layer].diff[0]
        gram, features = grams[layer]
        grad += (4 * gram @ features).reshape(grad.shape)
        net.backward(start={"conv2": "relu2"}.get(layer, layer), end=below and "conv2")

    def style(x):
        flat = x[0].flatten(1)
        return (flat @ flat.T).square().sum()

    want = gradient(net, IMAGE, dict.fromkeys(layers, style))
    assert_close(net.blobs["data"].diff[0], want, "gradient of both losses")


def test_net_surgery(net, net_file):
    """Weights of one net go into another of other shapes, flat; bilinear kernels are written."""
    full = caffe.Net(net_file(CONVS.replace('"conv2"', '"full"'), "full.prototxt"), caffe.TEST)
    for i in range(2):
        full.params["full"][i].data.flat = net.params["conv2"][i].data.flat
        full.params["conv1"][i].data[...] = net.params["conv1"][i].data
    assert_close(
        full.forward(data=IMAGE[None])["full"], net.forward(data=IMAGE[None])["conv2"], "outputs"
    )
    kernel = full.params["conv1"][0].data
    kernel[range(2), range(2), :, :] = 1
    assert (full.params["conv1"][0].data[1, 1] == 1).all()


def test_batch_norm_is_merged_into_the_convolution(net_file):
    text = CONVS.replace('layer { name: "relu1"', """
layer { name: "conv1/bn" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "conv1/scale" type: "Scale" bottom: "conv1" top: "conv1"
  scale_param { bias_term: true } }
layer { name: "relu1\"""")  # fmt: skip
    rng = np.random.default_rng(0)
    net, plain = (
        caffe.Net(net_file(t, n), caffe.TEST) for t, n in ((text, "bn"), (CONVS, "plain"))
    )
    for name, blobs in net.params.items():
        for blob in blobs:
            blob.data[...] = rng.uniform(0.5, 1.5, blob.data.shape)
        if type(plain.params.get(name)) is caffe._caffe.BlobVec:
            for i, blob in enumerate(blobs):
                plain.params[name][i].data[...] = blob.data
    mean, variance, factor = (blob.data for blob in net.params["conv1/bn"])
    scale, shift = (blob.data for blob in net.params["conv1/scale"])
    weight, bias = (blob.data for blob in net.params["conv1"])
    gain = scale / np.sqrt(variance / factor + 1e-5)
    plain.params["conv1"][0].data[...] = weight * gain[:, None, None, None]
    plain.params["conv1"][1].data[...] = (bias - mean / factor) * gain + shift
    x = IMAGE[None]
    assert_close(plain.forward(data=x)["conv2"], net.forward(data=x)["conv2"], "merged", 1e-5)


def test_every_tensor_is_dumped_by_layer(net):
    """tpu-mlir's way: reshape, write, forward, walk over layer_dict and top_names."""
    net.blobs["data"].reshape(2, 2, 9, 9)
    net.blobs["data"].data[...] = IMAGE
    out = net.forward()
    found = {
        top: net.blobs[top].data.copy()
        for name, layer in net.layer_dict.items()
        if layer.type != "Split"
        for top in net.top_names[name]
    }
    assert list(found) == ["data", "conv1", "pool1", "conv2"]
    assert np.array_equal(found["conv2"], out["conv2"])


def test_boxes_are_scaled_for_a_snapshot_and_put_back(net, tmp_path):
    """py-faster-rcnn's snapshot: params are changed, saved, restored."""
    original = net.params["conv2"][0].data.copy()
    net.params["conv2"][0].data[...] = net.params["conv2"][0].data * 3
    net.save(str(tmp_path / "scaled.caffemodel"))
    net.params["conv2"][0].data[...] = original
    net.copy_from(str(tmp_path / "scaled.caffemodel"))
    assert_close(net.params["conv2"][0].data, 3 * original, "scaled")
