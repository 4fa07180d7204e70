"""Deploy nets: what only trains goes."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

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


@pytest.mark.parametrize(
    ("fillers", "said"),
    [
        ('data_filler { type: "constant" value: 0.5 }', "0.5"),
        ("", "0"),
        ('data_filler { type: "uniform" } data_filler { value: 2 }', "2"),
        ('data_filler { type: "gaussian" }', ""),
    ],
)
def test_a_constant_that_becomes_an_input_is_told(fillers: str, said: str) -> None:
    def notes(picture: str) -> list[str]:
        constant = f"dummy_data_param {{ shape {{ dim: 1 dim: 3 dim: 4 dim: 4 }} {fillers} }}"
        net = text_format.Parse(
            f'{picture} layer {{ name: "d" type: "DummyData" top: "u" top: "k" {constant} }} '
            'layer { name: "c" type: "Convolution" bottom: "k" top: "c" blobs { num: 1 } }',
            pb.NetParameter(),
        )
        return deploy(net)

    told = [f"'k' is an input now: give it {said} everywhere, as DummyData 'd' does"]
    assert notes('layer { name: "i" type: "Input" top: "x" }') == (told if said else [])
    assert notes("") == []  # the only input is the picture


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (
            (
                'type: "MemoryData" memory_data_param { batch_size: 4 channels: 3 height: 9 '
                "width: 8 } transform_param { crop_size: 5 }"
            ),
            [1, 3, 9, 8],
        ),  # its transforms are for added images
        (
            'type: "DummyData" dummy_data_param { num: 4 channels: 3 height: 9 width: 8 }',
            [1, 3, 9, 8],
        ),
        (
            (
                'type: "ImageData" image_data_param { batch_size: 4 new_height: 9 new_width: 8 '
                "is_color: false }"
            ),
            [1, 1, 9, 8],
        ),
        (
            (
                'type: "AnnotatedData" data_param { batch_size: 4 } transform_param { '
                "resize_param { height: 9 width: 8 } }"
            ),
            [1, 3, 9, 8],
        ),
        (
            'type: "LaneData" data_param { batch_size: 4 } transform_param { crop_h: 9 crop_w: 8 }',
            [1, 3, 9, 8],
        ),
        (
            (
                'type: "Data" data_param { batch_size: 4 crop_size: 9 } transform_param { '
                "mean_value: 1 mean_value: 2 }"
            ),
            [1, 2, 9, 9],
        ),
    ],
)
def test_inputs_have_the_shapes_that_the_data_layers_tell(data: str, shape: list[int]) -> None:
    net = text_format.Parse(
        f'layer {{ name: "d" top: "x" top: "y" {data} }} '
        'layer { name: "p" type: "Pooling" bottom: "x" top: "p" '
        "pooling_param { global_pooling: true } }",
        pb.NetParameter(),
    )
    deploy(net)
    assert list(net.layer[0].input_param.shape[0].dim) == shape
