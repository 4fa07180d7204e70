"""caffe.Classifier and caffe.Detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffeio import pycaffe as caffe
from tests.paths import GOLDEN

NET = """
force_backward: false
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {
  num_output: 5 weight_filler { type: "gaussian" std: 0.2 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
IMAGE = GOLDEN / "pycaffe" / "images" / "rgb.png"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.save(str(tmp_path / "net.caffemodel"))
    return str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")


def probabilities(net: Any, images: np.ndarray) -> np.ndarray:
    """What NumPy computes of (N, 3, 6, 6)."""
    weight, bias = (blob.data for blob in net.params["ip"])
    scores = images.reshape(len(images), -1) @ weight.T + bias
    grown = np.exp(scores - scores.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def test_center(files: tuple[str, str]) -> None:
    net = caffe.Classifier(
        *files, image_dims=(8, 9), mean=np.array([1.0, 2.0, 3.0]), raw_scale=255,
        channel_swap=(2, 1, 0), input_scale=0.5,
    )  # fmt: skip
    assert isinstance(net, caffe.Net) and net.crop_dims.tolist() == [6, 6]
    images = [caffe.io.load_image(IMAGE) for _ in range(5)]  # a batch and a bit
    images[1] = images[1][::-1]
    found = net.predict(images, oversample=False)
    assert found.shape == (5, 5)
    want = []
    for image in images:
        crop = caffe.io.resize_image(image, (8, 9))[1:7, 1:7]
        planes = crop.transpose(2, 0, 1)[::-1] * 255
        want.append((planes - np.array([1, 2, 3])[:, None, None]) * 0.5)
    np.testing.assert_allclose(found, probabilities(net, np.array(want)), rtol=1e-4, atol=1e-6)


def test_oversample(files: tuple[str, str]) -> None:
    net = caffe.Classifier(*files, image_dims=(8, 9))
    images = [caffe.io.load_image(IMAGE), caffe.io.load_image(IMAGE)[:, ::-1]]
    crops = caffe.io.oversample([caffe.io.resize_image(i, (8, 9)) for i in images], (6, 6))
    want = probabilities(net, crops.transpose(0, 3, 1, 2)).reshape(2, 10, 5).mean(1)
    found = net.predict(images)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
    whole = caffe.Classifier(*files)
    assert list(whole.image_dims) == [6, 6]


def test_windows(files: tuple[str, str]) -> None:
    net = caffe.Detector(*files, mean=np.array([0.1, 0.2, 0.3]))
    windows = [np.array([0, 0, 6, 6]), np.array([6.0, 3.0, 18.0, 20.0])]
    found = net.detect_windows([(str(IMAGE), windows), (str(IMAGE), windows[:1])])
    assert [entry["filename"] for entry in found] == [str(IMAGE)] * 3
    assert found[1]["window"] is windows[1]
    image = caffe.io.load_image(IMAGE)
    crops = [image[0:6, 0:6], caffe.io.resize_image(image[6:18, 3:20], (6, 6)), image[0:6, 0:6]]
    planes = np.array(crops).transpose(0, 3, 1, 2) - np.array([0.1, 0.2, 0.3])[:, None, None]
    predictions = np.array([entry["prediction"] for entry in found])
    np.testing.assert_allclose(predictions, probabilities(net, planes), rtol=1e-4, atol=1e-6)


def test_context(files: tuple[str, str]) -> None:
    mean = np.arange(108, dtype=np.float32).reshape(3, 6, 6)
    net = caffe.Detector(*files, mean=mean, raw_scale=255, channel_swap=(2, 1, 0), context_pad=1)
    assert net.crop_dims.tolist() == [6, 6, 3]
    np.testing.assert_allclose(net.crop_mean, mean[::-1].transpose(1, 2, 0) / 255)
    image = caffe.io.load_image(IMAGE)
    inside = net.crop(image, np.array([4, 4, 9, 9]))
    # 6 pixels of the window become 4 of the input: 9 are cut out, from 2.5 and to 11.5, to even
    want = caffe.io.resize_image(image[2:12, 2:12], (6, 6))
    np.testing.assert_allclose(inside, want, atol=1e-6)
    corner = net.crop(image, np.array([0, 0, 5, 5]))
    np.testing.assert_allclose(corner[0], net.crop_mean[0])  # beyond the image
    np.testing.assert_allclose(corner[:, 0], net.crop_mean[:, 0])
    assert not np.allclose(corner[1:, 1:], net.crop_mean[1:, 1:])
    plain = caffe.Detector(*files, context_pad=1)
    assert plain.crop_mean.shape == (6, 6, 3) and not plain.crop_mean.any()


def test_selective_search_needs_its_module(files: tuple[str, str]) -> None:
    with pytest.raises(ModuleNotFoundError, match="selective_search_ijcv_with_python"):
        caffe.Detector(*files).detect_selective_search(["x.png"])
