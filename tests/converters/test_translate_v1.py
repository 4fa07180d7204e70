"""Caffemodels with V1 (and V0) layers for another Caffe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from safetensors.torch import load_file

import caffeio
from caffeio.converters.convert.convert import convert
from caffeio.converters.request import Request
from caffeio.converters.translate.translate import translate
from caffeio.errors import UnsupportedError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.dialect import decode, encode

INPUT = 'name: "n" input: "data" input_dim: 1 input_dim: 4 input_dim: 6 input_dim: 6'
CONV = """layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
  blobs_lr: 1 blobs_lr: 2 convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }"""
ROI = INPUT.replace("input_dim", ' input: "rois" input_dim', 1).replace(
    "6 input_dim: 6", "6 input_dim: 6 input_dim: 3 input_dim: 5 input_dim: 1 input_dim: 1"
)
POOLED = "pooled_h: 2 pooled_w: 2 spatial_scale: 1 }"
# name, dialect, target, the net behind the convolution, types of the result's layers
CASES = [
    ("upsample", "caffe-upsample", "bvlc", 'type: UPSAMPLE upsample_param { scale: 2 }',
     "Deconvolution"),
    ("relu6", "eric612-yolo", "bvlc", "type: RELU6", "Clip"),
    ("relu6", "eric612-yolo", "ssd", "type: RELU6", "ReLU Power ReLU Power"),
    ("bn", "happynear", "bvlc", "type: BN", "BatchNorm Scale"),
    ("crop", "hed", "bvlc", 'type: CROP bottom: "data"', "Crop"),
    ("roi", "happynear", "intel", 'type: ROIPOOLING bottom: "rois" roi_pooling_param {' + POOLED,
     "ROIPooling"),
]  # fmt: skip


def write(path: Path, text: str, dialect: str) -> pb.NetParameter:
    """A file as those Caffes wrote it: legacy shapes of four axes."""
    net, rng = text_format.Parse(text, pb.NetParameter()), np.random.default_rng(0)
    shapes = {"conv": [(4, 4, 3, 3), (1, 1, 1, 4)], "bn": [(1, 4, 1, 1)] * 4}
    for layer in net.layers:
        for n, c, h, w in shapes.get(layer.name, []):
            values = rng.uniform(0.5, 1, n * c * h * w)
            layer.blobs.add(num=n, channels=c, height=h, width=w, data=values)
    path.write_bytes(encode(net, dialect))
    return net


@pytest.mark.parametrize(("name", "source", "target", "more", "types"), CASES)
def test_types_of_forks(
    name: str, source: str, target: str, more: str, types: str, tmp_path: Path
) -> None:
    src, dst = tmp_path / "v1.caffemodel", tmp_path / "new.caffemodel"
    layer = f'layers {{ name: "{name}" bottom: "conv" {more} top: "out" }}'
    head = ROI if name == "roi" else INPUT
    write(src, f"{head} {CONV} {layer}", source)
    done = convert([src], dst, Request(dialect=source, to_dialect=target))
    assert any("largest relative difference" in line for line in done.messages), done
    assert not any("NOT COMPARED" in line for line in done.warnings)
    net = decode(dst.read_bytes(), "NetParameter", target).message
    assert not net.layers
    assert [x.type for x in net.layer] == ["Convolution", *types.split()]
    assert [p.lr_mult for p in net.layer[0].param] == [1, 2]
    assert list(net.input) and len(net.input_dim) == 4 * len(net.input)


def test_a_net_that_the_other_caffe_can_say_stays_v1(tmp_path: Path) -> None:
    src, dst = tmp_path / "v1.caffemodel", tmp_path / "new.caffemodel"
    write(src, f"{INPUT} {CONV}", "happynear")
    assert not translate(src, dst, "intel", "happynear").lost
    assert src.read_bytes() == dst.read_bytes()


@pytest.mark.parametrize("target", ["bvlc", "ssd"])
def test_what_cannot_be_said_is_named(target: str, tmp_path: Path) -> None:
    src, dst = tmp_path / "v1.caffemodel", tmp_path / "new.caffemodel"
    layer = 'layers { name: "t" type: INSANITY bottom: "conv" top: "t" }'
    write(src, f"{INPUT} {CONV} {layer}", "happynear")
    with pytest.raises(UnsupportedError, match=re.escape("type: Insanity")):
        convert([src], dst, Request(dialect="happynear", to_dialect=target))
    assert not dst.exists()


V0 = f"""{INPUT}
layers {{ layer {{ name: "pad" type: "padding" pad: 1 }} bottom: "data" top: "p" }}
layers {{ layer {{ name: "conv" type: "conv" num_output: 4 kernelsize: 3 }} bottom: "p" top: "c" }}
layers {{ layer {{ name: "fc" type: "innerproduct" num_output: 3 }} bottom: "c" top: "fc" }}"""


def v0(path: Path) -> None:
    net, rng = text_format.Parse(V0, pb.NetParameter()), np.random.default_rng(0)
    for at, n, k in ((1, 4, 36), (2, 3, 144)):
        shapes = [(4, 4, 3, 3) if at == 1 else (1, 1, n, k), (1, 1, 1, n)]
        for a, b, c, d in shapes:
            values = rng.normal(size=a * b * c * d)
            net.layers[at].layer.blobs.add(num=a, channels=b, height=c, width=d, data=values)
    path.write_bytes(encode(net, "bvlc"))


def test_v0_layers_become_todays(tmp_path: Path) -> None:
    src, dst = tmp_path / "v0.caffemodel", tmp_path / "new.caffemodel"
    v0(src)
    done = convert([src], dst, Request(to_dialect="intel"))
    assert any("largest relative difference" in line for line in done.messages), done
    net = decode(dst.read_bytes(), "NetParameter", "intel").message
    assert [x.type for x in net.layer] == ["Convolution", "InnerProduct"]


@pytest.mark.parametrize("target", ["o.caffemodel", "o.pt", "o.safetensors"])
@pytest.mark.parametrize("old", ["v0", "v1"])
def test_old_shapes_become_todays(old: str, target: str, tmp_path: Path) -> None:
    """Legacy shapes of four axes are no news to Caffe, but to `load_state_dict`."""
    text, src, net = V0, tmp_path / "old.caffemodel", tmp_path / "old.prototxt"
    v0(src)
    if old == "v1":
        text = f"{INPUT} {CONV}"
        write(src, text, "bvlc")
    net.write_text(text)
    convert([net, src], tmp_path / target)
    if target == "o.caffemodel":
        caffeio.load_net(net, tmp_path / target)
        return
    loaded = caffeio.load_net(net)
    read = torch.load if target == "o.pt" else load_file
    loaded.load_state_dict(read(tmp_path / target))
    own = caffeio.load_weights(src)["conv"][0]
    assert np.array_equal(loaded.state_dict()["conv.weight"].numpy(), own)
