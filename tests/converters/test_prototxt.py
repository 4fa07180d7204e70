from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from caffeio.converters import prototxt
from caffeio.converters.deploy.deploy import deploy, drop_fillers, from_snapshot
from caffeio.converters.request import parse_input_shape
from caffeio.converters.splits import heal_splits
from caffeio.errors import CaffeIOError, ParseError, UnsupportedError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import decode, encode
from caffeio.proto.files import read_net
from caffeio.proto.io import wire
from tests.paths import GOLDEN, SHARED, needs_shared

DIALECT = GOLDEN / "fork" / "dialect"
FORK = DIALECT / "main" / "fork" / "fork_iter_6.caffemodel"
CORPUS = SHARED / "corpus" / "caffemodels"


def net(text: str) -> pb.NetParameter:
    return text_format.Parse(text, pb.NetParameter())


def corpus_model(name: str) -> Path:
    (path,) = (CORPUS / name).glob("*.caffemodel")
    return path


def types(message: Any) -> list[str]:
    return [layer.type for layer in message.layer]


# --- Splits


def test_splits_are_taken_out() -> None:
    message = net(
        """
        layer { name: "d" type: "Input" top: "d" }
        layer { name: "d_d_0_split" type: "Split" bottom: "d"
                top: "d_d_0_split_0" top: "d_d_0_split_1" }
        layer { name: "a" type: "ReLU" bottom: "d_d_0_split_0" top: "a" }
        layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "d_d_0_split_1" top: "l" }
        layer { name: "l_l_0_split" type: "Split" bottom: "l" top: "l_l_0_split_0"
                top: "l_l_0_split_1" loss_weight: 2 loss_weight: 0 }
        layer { name: "b" type: "Power" bottom: "l_l_0_split_1" top: "b" }
        layer { name: "mine" type: "Split" bottom: "b" top: "x" top: "y" }
        """
    )
    assert heal_splits(message) == 2
    assert [layer.name for layer in message.layer] == ["d", "a", "l", "b", "mine"]
    assert list(message.layer[1].bottom) == ["d"]
    assert list(message.layer[2].bottom) == ["a", "d"]
    assert list(message.layer[2].loss_weight) == [2]
    assert list(message.layer[3].bottom) == ["l"]
    assert heal_splits(message) == 0


# --- out of binaries


def test_a_training_net_comes_back(tmp_path: Path) -> None:
    out = prototxt.write(FORK, tmp_path / "net.prototxt")
    assert out.dialect == "sara"
    assert out.notes == ["1 Split layers that Caffe had put in are gone"]
    again = read_net(tmp_path / "net.prototxt", upgrade=False)
    assert again.message == out.message
    assert again.dialect == "sara"
    assert not again.unknown
    # as the net was written by hand, but for what Caffe adds
    for layer in out.message.layer:
        layer.ClearField("phase")
        layer.ClearField("loss_weight")
    assert out.message == read_net(FORK.with_name("net.prototxt")).message


@needs_shared
def test_every_corpus_model_has_a_text() -> None:
    for path in sorted(CORPUS.glob("*/*.caffemodel")):
        rebuilt = prototxt.read(path)
        again = read_net(rebuilt.text(), dialect=rebuilt.dialect, upgrade=False)
        assert again.message == rebuilt.message
        assert not again.unknown


@needs_shared
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("nsfw", False),
        ("res10_ssd", False),
        ("wechat_sr", False),
        ("rfb320", False),
        ("hyperlpr_finemap", False),
        ("waifu_upconv7", False),
        ("eth_lenet", True),
    ],
)
def test_a_rebuilt_deploy_net_computes_the_same(name: str, given: bool, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    stored = np.load(CORPUS / name / "opencv.npz")
    inputs = {key[3:]: stored[key] for key in stored if key.startswith("in/")}
    shapes = {key: value.shape for key, value in inputs.items()} if given else None
    model = corpus_model(name)
    prototxt.write(model, tmp_path / "net.prototxt", deploy=True, input_shapes=shapes)
    engine = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(model))
    for key, value in inputs.items():
        engine.setInput(value, key)
    for key in stored:
        if key.startswith("out/"):
            found = engine.forward(key[4:])
            assert np.abs(found - stored[key]).max() <= 1e-5 * np.abs(stored[key]).max()


@needs_shared
def test_the_shape_is_asked_for() -> None:
    model = corpus_model("eth_lenet")
    with pytest.raises(UnsupportedError, match="--input-shape data=1,1,28,28"):
        prototxt.read(model, deploy=True)
    with pytest.raises(UnsupportedError, match="given for image, which are no inputs"):
        prototxt.read(model, deploy=True, input_shapes={"image": (1,), "data": (1, 1, 28, 28)})


def test_unknown_fields_become_comments(tmp_path: Path) -> None:
    layer = wire.bytes_field(1, b"x") + wire.bytes_field(9000, b"abc")
    (tmp_path / "a").write_bytes(wire.bytes_field(100, layer) + wire.varint_field(9001, 7))
    text = prototxt.read(tmp_path / "a", dialect="bvlc").text()
    assert text.splitlines()[:2] == [
        "# layer[0]: field 9000 of LayerParameter (7 bytes) has no known name",
        "# the net: field 9001 of NetParameter (4 bytes) has no known name",
    ]
    assert read_net(text).message.layer[0].name == "x"


def test_old_nets_come_in_todays_form(tmp_path: Path) -> None:
    old = 'input: "d" input_dim: [1, 1, 2, 2] layers { name: "r" type: RELU bottom: "d" top: "r" }'
    (tmp_path / "a").write_bytes(encode(net(old), "bvlc"))
    rebuilt = prototxt.read(tmp_path / "a")
    assert types(rebuilt.message) == ["Input", "ReLU"]
    assert len(rebuilt.notes) == 2


# --- deploy


TRAIN = """
name: "n"
state { phase: TRAIN }
layer { name: "data" type: "Data" top: "data" top: "label" phase: TRAIN
        include { phase: TRAIN } transform_param { crop_size: 20 } data_param { batch_size: 7 } }
layer { name: "lab" type: "Power" bottom: "label" top: "lab" }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" phase: TRAIN param { lr_mult: 2 }
        convolution_param { num_output: 4 kernel_size: 3 group: 2 weight_filler { type: "msra" } }
        blobs { shape { dim: [4, 3, 3, 3] } } blobs { shape { dim: 4 } } }
layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" param { lr_mult: 0 }
        batch_norm_param { use_global_stats: false } blobs { shape { dim: 4 } } }
layer { name: "drop" type: "Dropout" bottom: "c" top: "c" }
layer { name: "f1" type: "InnerProduct" bottom: "c" top: "f1" param { name: "w" lr_mult: 3 }
        inner_product_param { num_output: 2 bias_term: false } blobs { shape { dim: [2, 1296] } } }
layer { name: "f2" type: "InnerProduct" bottom: "c" top: "f2" param { name: "w" }
        inner_product_param { num_output: 2 bias_term: false } }
layer { name: "aux" type: "SoftmaxWithLoss" bottom: "f1" bottom: "lab" top: "aux" loss_weight: 0.3 }
layer { name: "acc" type: "Accuracy" bottom: "f2" bottom: "lab" top: "acc" }
layer { name: "hush" type: "Silence" bottom: "acc" }
layer { name: "l2" type: "EuclideanLoss" bottom: "f2" bottom: "lab" top: "l2" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f2" bottom: "lab" top: "loss"
        softmax_param { axis: 2 } loss_param { ignore_label: 255 } }
"""


def test_deploy_leaves_what_predicts() -> None:
    message = net(TRAIN)
    assert "trained" in from_snapshot(message)[0]
    assert deploy(message) == ["EuclideanLoss 'l2' left out"]
    drop_fillers(message, {layer.name for layer in message.layer})
    for layer in message.layer:
        layer.ClearField("blobs")
    assert message == net(
        """
        name: "n"
        layer { name: "data" type: "Input" top: "data"
                input_param { shape { dim: [1, 6, 20, 20] } } }
        layer { name: "c" type: "Convolution" bottom: "data" top: "c"
                convolution_param { num_output: 4 kernel_size: 3 group: 2 } }
        layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" }
        layer { name: "drop" type: "Dropout" bottom: "c" top: "c" }
        layer { name: "f1" type: "InnerProduct" bottom: "c" top: "f1" param { name: "w" }
                inner_product_param { num_output: 2 bias_term: false } }
        layer { name: "f2" type: "InnerProduct" bottom: "c" top: "f2" param { name: "w" }
                inner_product_param { num_output: 2 bias_term: false } }
        layer { name: "prob_aux" type: "Softmax" bottom: "f1" top: "prob_aux" }
        layer { name: "prob" type: "Softmax" bottom: "f2" top: "prob" softmax_param { axis: 2 } }
        """
    )


def test_given_shapes_win() -> None:
    message = net(TRAIN)
    deploy(message, {"data": (5, 6, 40, 30)})
    assert list(message.layer[0].input_param.shape[0].dim) == [5, 6, 40, 30]
    message = net(
        'layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 1 } } }'
    )
    deploy(message, {"b": (2, 3)})
    assert [list(shape.dim) for shape in message.layer[0].input_param.shape] == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ('type: "MemoryData" memory_data_param { batch_size: 3 channels: 2 height: 5 width: 7 }',
         [1, 2, 5, 7]),
        ('type: "DummyData" dummy_data_param { shape { dim: [9, 8, 7] } }', [1, 8, 7]),
        ('type: "DummyData" dummy_data_param { num: 9 channels: 8 height: 7 width: 6 }',
         [1, 8, 7, 6]),
        ('type: "ImageData" image_data_param { new_height: 4 new_width: 3 }', [1, 6, 4, 3]),
        ('type: "AnnotatedData" transform_param { resize_param { height: 30 width: 40 } }',
         [1, 6, 30, 40]),
        ('type: "Data" transform_param { crop_h: 3 crop_w: 4 }', [1, 6, 3, 4]),
        ('type: "Data" data_param { crop_size: 9 }', [1, 6, 9, 9]),
    ],
)  # fmt: skip
def test_where_shapes_come_from(source: str, shape: list[int]) -> None:
    message = net(TRAIN)
    message.layer[0].CopyFrom(
        net(f'layer {{ name: "data" top: "data" top: "label" {source} }}').layer[0]
    )
    deploy(message)
    assert list(message.layer[0].input_param.shape[0].dim) == shape


def test_ssd_gets_its_detections() -> None:
    message = net(
        """
        layer { name: "data" type: "AnnotatedData" top: "data" top: "label"
                transform_param { resize_param { height: 30 width: 30 } } }
        layer { name: "c" type: "Convolution" bottom: "data" top: "c"
                blobs { shape { dim: [4, 3, 1, 1] } } }
        layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p" }
        layer { name: "mbox_loss" type: "MultiBoxLoss" bottom: "c" bottom: "c" bottom: "p"
                bottom: "label" top: "mbox_loss"
                multibox_loss_param { num_classes: 21 code_type: CENTER_SIZE } }
        """
    )
    (note,) = deploy(message)
    assert note.startswith("DetectionOutput has the usual nms 0.45")
    assert types(message)[3:] == ["Reshape", "Softmax", "Flatten", "DetectionOutput"]
    p = message.layer[-1].detection_output_param
    assert (p.num_classes, p.code_type, p.share_location) == (
        21,
        pb.PriorBoxParameter.CENTER_SIZE,
        True,
    )
    assert list(message.layer[-1].bottom) == ["c", "c_flatten", "p"]


# --- into binaries


def test_text_to_binary(tmp_path: Path) -> None:
    text = 'layer { type: "Pooling" engine: "CAFFE" pooling_param { kernel_size: 3 } odd: 1 }'
    (tmp_path / "a.prototxt").write_text(text)
    lost = prototxt.write_binary(tmp_path / "a.prototxt", tmp_path / "a.bin", dialect="sara")
    assert [item.why for item in lost] == ["unknown field 'odd'"]
    data = (tmp_path / "a.bin").read_bytes()
    assert decode(data, "NetParameter", "sara").message == net(text.replace("odd: 1", ""))
    lost = prototxt.write_binary(tmp_path / "a.prototxt", tmp_path / "b.bin", dialect="bvlc")
    assert "bvlc has no such field" in [item.why for item in lost]


def test_there_and_back(tmp_path: Path) -> None:
    prototxt.write(FORK, tmp_path / "a.prototxt")
    assert not prototxt.write_binary(tmp_path / "a.prototxt", tmp_path / "a.bin")
    assert prototxt.read(tmp_path / "a.bin").message == prototxt.read(FORK).message


# --- errors


def test_errors(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(FORK.read_bytes()[:-3])
    with pytest.raises(ParseError, match=r"cut, byte \d+"):
        prototxt.read(tmp_path / "cut")
    with pytest.raises(UnsupportedError, match="weights without a net"):
        prototxt.read(DIALECT / "main/fork/fork_h5_iter_6.caffemodel.h5")
    (tmp_path / "text").write_text('name: "x"')
    with pytest.raises(CaffeIOError, match="is text"):
        prototxt.read(tmp_path / "text")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("data=1,3,224,224", ("data", (1, 3, 224, 224))), ("a=b=2x3", ("a=b", (2, 3)))],
)
def test_input_shape_option(text: str, wanted: tuple[str, tuple[int, ...]]) -> None:
    assert parse_input_shape(text) == wanted


@pytest.mark.parametrize("text", ["data", "=1,2", "data=", "data=1,x", "data=0,3"])
def test_bad_input_shape_option(text: str) -> None:
    with pytest.raises(CaffeIOError, match="is no input shape"):
        parse_input_shape(text)
