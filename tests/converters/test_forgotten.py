"""Forgotten weights: whose layers are told of before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffeio.converters.convert.forgotten import refuse_forgotten_weights
from caffeio.converters.request import Request
from caffeio.errors import UnsupportedError
from caffeio.layers.registry import find, known_types
from caffeio.proto import caffe_pb2 as pb

LAYER = 'layer {{ name: "one" type: "{}" bottom: "x" top: "y" {} {{ {} }} }}'


def message_of(type_name: str) -> str:
    """The message of a type that has a weight_filler, if it makes blobs; "" otherwise."""
    kind = find(type_name)
    assert kind is not None
    known = pb.LayerParameter.DESCRIPTOR.fields_by_name
    for message in kind.fields if kind.has_blobs else ():
        if "weight_filler" in known[message].message_type.fields_by_name:
            return message
    return ""


LEARNED = sorted(name for name in known_types() if message_of(name))


def ask(path: Path, type_name: str, fields: str = "", message: str = "") -> None:
    message = message or message_of(type_name)
    path.write_text(LAYER.format(type_name, message, fields), encoding="utf-8")
    refuse_forgotten_weights(path, Request())


def test_the_types_are_those_that_people_train() -> None:
    assert {"Convolution", "Deconvolution", "InnerProduct", "Embed", "LSTM", "RNN"} <= set(LEARNED)
    assert not {"Im2col", "ReLU", "BatchNorm", "Scale", "PReLU", "Input"} & set(LEARNED)


@pytest.mark.parametrize("type_name", LEARNED)
def test_learned_weights_are_asked_for(type_name: str, tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    for filler in ("", 'weight_filler { type: "xavier" }', 'weight_filler { type: "constant" }'):
        with pytest.raises(UnsupportedError, match=r"1 layer has some \(one\)"):
            ask(path, type_name, filler)
    ask(path, type_name, 'weight_filler { type: "constant" value: 0.5 }')
    ask(path, type_name, 'weight_filler { type: "bilinear" }')


def test_what_has_no_weights_is_not_asked_for(tmp_path: Path) -> None:
    ask(tmp_path / "n.prototxt", "Im2col", "kernel_size: 3", "convolution_param")
    ask(tmp_path / "n.prototxt", "NoSuchType", "num_output: 3", "inner_product_param")
