"""Small nets on which caffeio once differed from real BVLC Caffe (tests/golden/real_caffe)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffeio.errors import CaffeIOError
from caffeio.net import load_net
from tests.fuzz.golden_nets import off_by
from tests.harness import assert_close, golden, part
from tests.paths import GOLDEN

REFUSALS = sorted((GOLDEN / "real_caffe").glob("refuse_*.prototxt"))
AT_SET_UP = {
    "im2col_kernel_too_large": "does not fit into the bottom",
    "pooling_pad_h_alone": "give both pad_h and pad_w",
    "pooling_stride_h_alone": "give both stride_h and stride_w",
    "pooling_kernel_size_twice": "is one value in this Caffe",
    "softmaxloss_three_bottoms": "takes 2 bottoms in this Caffe",
    "sparse_filler_above_1": "3 inputs of 2 cannot be kept",
    "dummydata_negative_dim": r"\(-1,\)|negative",
}
IN_FORWARD = {"euclidean_5d": "at most 4 axes"}
IN_BACKWARD = {
    "threshold_backward": "Threshold has no backward pass",
    "argmax_backward": "ArgMax has no backward pass",
    "embed_input_backward": "Embed cannot backpropagate",
    "force_backward_accuracy": "Accuracy has no backward pass",
}
CASES = sorted((GOLDEN / "real_caffe").glob("*.npz"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_as_in_real_caffe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    prototxt = path.with_suffix(".prototxt")
    arrays = golden(prototxt)
    net = load_net(prototxt, phase=str(arrays["phase"]), seed=int(arrays["random_seed"]))
    with torch.no_grad():
        for key, value in part(arrays, "param/").items():
            layer, index = key.split("/")
            if path.stem == "hdf5_seed":
                assert_close(net.params[layer][int(index)], value, key)
            net.params[layer][int(index)].copy_(torch.from_numpy(value))
    for number in range(int(arrays["passes"])):
        of_pass = part(arrays, f"pass{number}/") if number else arrays
        inputs = {name: torch.from_numpy(v) for name, v in part(of_pass, "in/").items()}
        for value in inputs.values():
            value.requires_grad_(net.graph.force_backward)
        net.zero_grad()
        net({name: value * 1 for name, value in inputs.items()})
        assert_close(net.loss, of_pass["loss"], "loss")
        for name, value in part(of_pass, "blob/").items():
            assert_close(net.blobs[name], value, name)
        if net.loss.requires_grad:
            net.loss.backward()
        diffs = part(of_pass, "diff/") if net.graph.force_backward else {}
        pairs = [(inputs[name].grad, value) for name, value in diffs.items()]
        for key, value in part(of_pass, "param_diff/").items():
            layer, index = key.split("/")
            pairs.append((net.params[layer][int(index)].grad, value))
        largest = max(np.abs(value).max() for _, value in pairs) if pairs else 0.0
        for grad, value in pairs:  # sums that cancel are noise
            ours = np.zeros_like(value) if grad is None else grad.numpy()
            assert off_by(ours, value, max(0.03 * largest, 1e-6)) <= 2e-5


@pytest.mark.parametrize("path", REFUSALS, ids=lambda path: path.stem)
def test_what_real_caffe_refuses_and_when(path: Path) -> None:
    case = path.stem.removeprefix("refuse_")
    # without a profile, kernel_size_twice means a Caffe that takes height and width
    options: dict[str, Any] = {"phase": "TRAIN", "seed": 1, "profile": "bvlc"}
    if case in AT_SET_UP:
        with pytest.raises(CaffeIOError, match=AT_SET_UP[case]):
            load_net(path, **options)
        return
    net = load_net(path, **options)
    inputs = {name: torch.ones(net.blob_shapes[name]) for name in net.inputs}
    if case in IN_FORWARD:
        with pytest.raises(CaffeIOError, match=IN_FORWARD[case]):
            net(inputs)
        return
    net(inputs)
    if case in IN_BACKWARD:
        with pytest.raises(CaffeIOError, match=IN_BACKWARD[case]):
            net.loss.backward()
    else:
        assert case == "argmax_1d_ACCEPTED"
