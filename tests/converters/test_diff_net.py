"""Nets against each other: matching of layers, changes, sizes, what the net sees."""

from __future__ import annotations

import pytest

from caffeio.converters.diff import transforms
from caffeio.converters.diff.messages import changed_fields, layer_fields
from caffeio.converters.diff.net_diff import NetSide, as_data, diff_nets, summary
from caffeio.converters.diff.net_report import report
from caffeio.converters.report.model import Report
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.text.text_format import parse

BASE = """
name: "n"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "x" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
        convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "pool" type: "Pooling" bottom: "conv2" top: "pool"
        pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
        inner_product_param { num_output: 5 } }
"""


def diff(left: str, right: str):
    return diff_nets(NetSide("a", read_net(left).message), NetSide("b", read_net(right).message))


def layer(text: str) -> pb.LayerParameter:
    return parse(text, pb.LayerParameter).message


def test_equal_nets_are_equal():
    assert diff(BASE, BASE).same
    assert diff(BASE, BASE.replace('name: "n"', 'name: "other"')).same


def test_blob_names_do_not_matter():
    renamed = BASE.replace('"pool"\n        pool', '"p"\n        pool')
    renamed = renamed.replace('bottom: "pool"', 'bottom: "p"')
    assert renamed != BASE and diff(BASE, renamed).same
    out_of_place = BASE.replace('bottom: "conv1" top: "conv1"', 'bottom: "conv1" top: "r"').replace(
        'bottom: "conv1" top: "conv2"', 'bottom: "r" top: "conv2"'
    )
    assert diff(BASE, out_of_place).same


def test_a_rename_is_a_rename():
    found = diff(BASE, BASE.replace('name: "conv2"', 'name: "second"'))
    assert summary(found) == "1 layer renamed"
    assert not found.same
    (change,) = found.changed
    assert (change.left.name, change.right.name, change.changes) == ("conv2", "second", [])


def test_renamed_and_changed_at_once_is_found_by_wiring():
    right = BASE.replace('"fc" type', '"score" type').replace("num_output: 5", "num_output: 7")
    found = diff(BASE, right)
    (change,) = found.changed
    assert (change.left.name, change.right.name) == ("fc", "score")
    assert [vars(c) for c in change.changes] == [
        {"what": "inner_product_param.num_output", "left": "5", "right": "7"}
    ]
    assert not found.alignment.added and not found.alignment.removed


def test_an_inserted_layer_changes_who_reads_what():
    more = BASE.replace(
        'layer { name: "pool"',
        'layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }\nlayer { name: "pool"',
    )
    found = diff(BASE, more)
    assert [found.right.message.layer[j].name for j in found.alignment.added] == ["relu2"]
    (change,) = found.changed
    assert change.left.name == "pool" and change.changes[0].what == "bottom"


def test_sizes():
    found = diff(BASE, BASE.replace("num_output: 4", "num_output: 8"))
    a, b = found.left.shapes["TEST"], found.right.shapes["TEST"]
    conv2 = 6 * 9  # weights of conv2 for each channel of conv1
    assert b.parameters - a.parameters == 4 * 3 * 9 + 4 + 4 * conv2
    assert b.macs - a.macs == 64 * (4 * 27 + 4 * conv2)
    data = as_data(found)
    assert data["right"]["TEST"]["parameters"] == b.parameters
    assert data["changed"][0]["changes"] == [
        {"what": "convolution_param.num_output", "left": "4", "right": "8"}
    ]


def test_many_equal_changes_share_a_row():
    right = BASE.replace("kernel_size: 3 pad: 1", "kernel_size: 5 pad: 2")
    out = Report("")
    report(diff(BASE, right), out)
    table = out.sections[0].blocks[-1]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["2 Convolution layers: conv1, conv2", "kernel_size", "3", "5"],
        ["", "pad", "1", "2"],
    ]


def test_layers_of_both_phases_with_one_name():
    def net(batch: int) -> str:
        return "".join(
            f'layer {{ name: "d" type: "Data" top: "x" include {{ phase: {phase} }} '
            f'data_param {{ source: "s" batch_size: {size} }} }}\n'
            for phase, size in (("TRAIN", batch), ("TEST", 5))
        )

    found = diff(net(2), net(3))
    (change,) = found.changed
    assert change.changes[0].what == "data_param.batch_size"
    assert change.left.include[0].phase == pb.TRAIN


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("convolution_param { kernel_size: 3 }", "convolution_param { kernel_h: 3 kernel_w: 3 }"),
        ("convolution_param { kernel_size: 3 stride: 1 }", "convolution_param { kernel_size: 3 }"),
        ("convolution_param { pad: 2 pad: 2 }", "convolution_param { pad: 2 }"),
        ("dropout_param { dropout_ratio: 0.5 }", ""),
        ("param { lr_mult: 1 decay_mult: 1 }", ""),
        ("pooling_param { kernel_size: 2 pad_h: 0 }", "pooling_param { kernel_size: 2 }"),
    ],
)
def test_other_spellings_mean_the_same(left, right):
    assert changed_fields(layer_fields(layer(left)), layer_fields(layer(right))) == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("scale_param { filler {} }", "scale_param {}"),
        ("batch_norm_param { use_global_stats: false }", ""),
        ("transform_param { random_aspect_ratio_param {} }", "transform_param {}"),
        ("convolution_param { kernel_h: 3 kernel_w: 1 }", "convolution_param { kernel_size: 3 }"),
    ],
)
def test_presence_counts_where_caffe_asks_for_it(left, right):
    assert changed_fields(layer_fields(layer(left)), layer_fields(layer(right)))


def test_words_for_transforms():
    data = layer(
        'type: "Data" data_param { source: "s" batch_size: 4 shuffle: true } transform_param { '
        "crop_size: 224 mirror: true scale: 0.0078125 mean_value: 104 mean_value: 117 "
        "random_resize_param { min_size: 256 max_size: 256 } }"
    )
    steps = transforms.describe(data, "TEST")
    assert steps["source"] == "s, 4 a batch, shuffled"
    assert steps["resize"] == "shorter side to 256 (bilinear)"
    assert steps["crop"] == "centre 224 x 224, 76.6 % of a square image"
    assert steps["scale"] == "1/128"
    assert steps["values"] == "-0.9141 to 1.18"


def test_a_net_that_does_not_build_is_still_compared():
    broken = BASE.replace('bottom: "pool" top: "fc"', 'bottom: "pol" top: "fc"')
    found = diff(BASE, broken)
    assert "unknown bottom blob 'pol'" in found.right.problems["TEST"] or found.right.shapes == {}
    (change,) = found.changed
    assert [vars(c) for c in change.changes] == [{"what": "bottom", "left": "pool", "right": "pol"}]


def test_dilation_in_its_two_spellings() -> None:
    """A fork's dilation_h and dilation_w were left out, so that such nets were called equal."""

    def fields(text: str) -> dict[str, str]:
        layer = f"name: 'c' type: 'Convolution' convolution_param {{ kernel_size: 3 {text} }}"
        return layer_fields(parse(layer, pb.LayerParameter).message)

    assert fields("dilation_h: 2 dilation_w: 3")["convolution_param.dilation"] == "2 x 3"
    assert fields("dilation_h: 2 dilation_w: 2") == fields("dilation: 2")
    assert "convolution_param.dilation" not in fields("dilation: 1")
