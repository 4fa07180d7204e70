"""Rows that are selected by score: a tie is no difference, and a difference is no tie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from caffeio.converters.from_onnx.caffe_net import CaffeLayer
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.selection import with_bottoms
from caffeio.converters.from_onnx.verify import check, verify
from caffeio.converters.onnx.build import build
from caffeio.converters.onnx.export import to_model
from caffeio.errors import CaffeIOError
from caffeio.net.net import Net

pytest.importorskip("onnxruntime")
NEAR = 1e-5
DETECTOR = """
name: "d" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2
  dim: 4 dim: 4 } } }
layer { name: "loc" type: "Convolution" bottom: "data" top: "loc" convolution_param {
  num_output: 8 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm" permute_param {
  order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "data" top: "conf" convolution_param {
  num_output: 4 kernel_size: 1 weight_filler { type: "constant" value: 0 } } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm" permute_param {
  order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_two" type: "Reshape" bottom: "conf_perm" top: "conf_two" reshape_param {
  shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "conf_soft" type: "Softmax" bottom: "conf_two" top: "conf_soft" softmax_param {
  axis: 2 } }
layer { name: "conf_flat" type: "Flatten" bottom: "conf_soft" top: "conf_flat" }
layer { name: "prior" type: "PriorBox" bottom: "loc" bottom: "data" top: "prior"
  prior_box_param { min_size: 1 max_size: 2 variance: 0.1 step: 1 } }
layer { name: "found" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_flat"
  bottom: "prior" top: "found" detection_output_param { num_classes: 2 code_type: CENTER_SIZE
  keep_top_k: 9 confidence_threshold: 0.1 nms_param { nms_threshold: 0.4 top_k: 30 } } }
"""


@pytest.fixture
def net(tmp_path: Path) -> Net:
    (tmp_path / "net.prototxt").write_text(DETECTOR)
    found, _ = load_deploy_net(tmp_path / "net.prototxt", None, DeployOptions(untrained=True))
    return found


@pytest.fixture
def tied(net: Net) -> Compiled:
    """A detector all of whose scores are 0.5."""
    return compile_model(to_model(build(net), net), target="ssd")


def layer(back: Compiled, name: str) -> CaffeLayer:
    [found] = [one for one in back.layers if one.param.name == name]
    return found


def raise_score(back: Compiled, by: float) -> None:
    """Let the second box of every place have a higher score in the Caffe net only."""
    conf = layer(back, "conf")
    bias = np.array(conf.blobs[1]) if len(conf.blobs) > 1 else np.zeros(4, np.float32)
    bias[3] += by
    conf.blobs[1:] = [bias]
    conf.param.convolution_param.bias_term = True


def test_what_rows_are_selected_from_is_compared_as_well(tied: Compiled) -> None:
    report = verify(tied)
    assert report.worst <= NEAR
    assert len(report.inner) == 3
    assert not [note for note in report.notes if "rows" in note]
    assert [row.what for row in report.checked().rows] == ["output", *["selected from"] * 3]
    assert len(report.lines()) == 5


def test_rounding_that_breaks_a_tie_otherwise_is_no_difference(tied: Compiled) -> None:
    raise_score(tied, 1e-6)
    report = verify(tied)
    check(report, "net")
    assert report.worst <= NEAR
    notes = [note for note in report.notes if "orders or selects other rows" in note]
    assert notes
    assert "'found' (normal inputs)" in notes[0]
    assert "DetectionOutput selects from onnxruntime's numbers" in notes[0]


def test_scores_that_differ_are_refused(tied: Compiled) -> None:
    raise_score(tied, 1e-2)
    with pytest.raises(CaffeIOError, match="differ") as caught:
        check(verify(tied), "net")
    assert "'found'" not in caught.value.message  # the scores are named, which are the cause
    assert "conf" in caught.value.message


def test_boxes_that_differ_are_refused(tied: Compiled) -> None:
    layer(tied, "loc").blobs[0] = layer(tied, "loc").blobs[0] * np.float32(1.01)
    with pytest.raises(CaffeIOError, match="'loc"):
        check(verify(tied), "net")


@pytest.mark.parametrize(
    "change",
    [
        {"keep_top_k": 8}, {"confidence_threshold": 0.6}, {"background_label_id": 1},
        {"variance_encoded_in_target": True}, {"nms_param": {"nms_threshold": 0.9, "top_k": 30}},
    ],
    ids=str,
)  # fmt: skip
def test_another_selection_is_refused(tied: Compiled, change: dict[str, object]) -> None:
    """A tie excuses no wrong field of the layer."""
    raise_score(tied, 1e-6)
    param = layer(tied, "found").param.detection_output_param
    for name in change:
        param.ClearField(name)
    param.MergeFrom(type(param)(**change))
    with pytest.raises(CaffeIOError, match="'found' by"):
        check(verify(tied), "net")


def test_a_model_that_tells_no_layer_shows_no_bottoms(net: Net) -> None:
    back = compile_model(to_model(build(net), net), target="ssd")
    assert len(with_bottoms(back.model).graph.output) == 4
    del back.model.proto.metadata_props[:]
    assert len(with_bottoms(back.model).graph.output) == 1
    raise_score(back, 1e-6)
    with pytest.raises(CaffeIOError, match="'found' by"):
        check(verify(back), "net")
