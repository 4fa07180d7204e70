"""Deploy nets: what only trains goes."""

from __future__ import annotations

import pytest

from caffeio.converters.deploy.deploy import deploy
from caffeio.converters.lint.model import is_loss as lint_is_loss
from caffeio.layers import known_types, lookup
from caffeio.layers.registry import is_loss_type
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net


@pytest.mark.parametrize("kind", known_types())
def test_all_agree_on_what_a_loss_is(kind: str) -> None:
    assert is_loss_type(kind) == lookup(kind, kind).is_loss
    assert lint_is_loss(pb.LayerParameter(type=kind)) == lookup(kind, kind).is_loss


@pytest.mark.parametrize("kind", ["Yolov3", "YoloSeg", "RegionLoss"])
def test_losses_of_detectors_and_their_labels_go(kind: str) -> None:
    net = read_net(f"""
        layer {{ name: "data" type: "Data" top: "data" top: "label"
          transform_param {{ crop_size: 8 }} }}
        layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
          convolution_param {{ num_output: 4 kernel_size: 3 }} blobs {{ shape {{ dim: 4 dim: 3
            dim: 3 dim: 3 }} }} }}
        layer {{ name: "loss" type: "{kind}" bottom: "conv" bottom: "label" top: "loss" }}
    """).message
    notes = deploy(net)
    assert [layer.type for layer in net.layer] == ["Input", "Convolution"]
    assert notes == [f"{kind} 'loss' left out"]
