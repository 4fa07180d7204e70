"""Shapes without torch: against real Caffe's arrays, and rule by rule where there are none."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest

from caffeio.data.first_record import picture_shape
from caffeio.errors import DataError, LayerError
from caffeio.layers.registry import types_without_torch
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer, infer_net
from caffeio.profiles import BVLC, INTEL, NVIDIA
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.text.text_format import parse
from caffeio.shape_text import format_shape
from tests.paths import GOLDEN

DYNAMIC = {"Filter", "Python", "MemoryData"}  # another shape at run time than at set-up
CASES = sorted(GOLDEN.glob("layers/*/*.prototxt"))
BVLC_TYPES = """
    AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss
    Convolution Crop Data Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp
    Filter Flatten HDF5Data HDF5Output HingeLoss Im2col ImageData InfogainLoss InnerProduct Input
    LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss PReLU Parameter Pooling Power
    Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence Slice
    Softmax SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData
"""


def layer(text: str) -> pb.LayerParameter:
    return parse(text, pb.LayerParameter).message


def shapes_of(text: str, *bottoms: tuple[int, ...] | None, **options):
    param = layer(text)
    return infer(param.type, param, bottoms, **options)


@pytest.mark.parametrize("path", CASES, ids=[f"{p.parent.name}-{p.stem}" for p in CASES])
def test_golden_layer(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as golden:
        net = infer_net(build_graph(read_net(path).message, phase=str(golden["phase"])))
        index = next(i for i, node in enumerate(net.graph.nodes) if node.name == "x")
        found = net.layers[index]
        blobs = [k for k in golden.files if k.startswith("param/")]
        assert list(found.blobs) == [golden[k].shape for k in sorted(blobs, key=len)]
        if path.parent.name in DYNAMIC:
            return
        for top, shape in zip(golden["tops"], found.tops, strict=False):
            if f"out/{top}" in golden.files:
                assert shape == golden[f"out/{top}"].shape
    assert not net.problems


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("nets/*/meta*.json")), ids=str)
def test_golden_net(path):
    meta = json.loads(path.read_text())
    graph = build_graph(
        read_net(path.parent / "net.prototxt").message,
        phase=meta["phase"],
        level=meta.get("level", 0),
        stages=meta.get("stages", ()),
    )
    net = infer_net(graph)
    assert {b["name"]: tuple(b["shape"]) for b in meta["blobs"]} == net.blobs
    assert [[tuple(s) for s in x["param_shapes"]] for x in meta["layers"]] == [
        list(x.blobs) for x in net.layers
    ]


def test_every_bvlc_type_has_a_rule():
    handled = set(types_without_torch()) | {"Python"}
    assert not set(BVLC_TYPES.split()) - handled


X = (1, 8, 4, 4)
# type, parameters, bottoms, tops, blobs, MACs
RULE_CASES = [
    (
        "Convolution",
        "convolution_param { num_output: 64 kernel_size: 7 stride: 2 pad: 3 }",
        [(2, 3, 224, 224)],
        [(2, 64, 112, 112)],
        [(64, 3, 7, 7), (64,)],
        2 * 64 * 112 * 112 * 3 * 49,
    ),
    (
        "DepthwiseConvolution",
        "convolution_param { num_output: 8 group: 8 kernel_h: 3 kernel_w: 1 pad_h: 1 }",
        [(1, 8, 5, 5)],
        [(1, 8, 5, 5)],
        [(8, 1, 3, 1), (8,)],
        8 * 25 * 3,
    ),
    (
        "ConvolutionDepthwise",
        "convolution_param { num_output: 6 kernel_size: 3 bias_term: false }",
        [(1, 6, 5, 5)],
        [(1, 6, 3, 3)],
        [(6, 1, 3, 3)],
        6 * 9 * 9,
    ),
    (
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 }",
        [(1, 2, 5, 6)],
        [(1, 4, 10, 12)],
        [(2, 4, 4, 4), (4,)],
        2 * 30 * 4 * 16,
    ),
    ("Permute", "permute_param { order: 0 order: 2 }", [(1, 2, 3, 4)], [(1, 3, 2, 4)], [], 0),
    (
        "PriorBox",
        "prior_box_param { min_size: 60 max_size: 111 aspect_ratio: 2 aspect_ratio: 3 }",
        [(1, 9, 19, 19), (1, 3, 300, 300)],
        [(1, 2, 19 * 19 * 6 * 4)],
        [],
        0,
    ),
    (
        "PriorBox",
        "prior_box_param { min_size: 30 aspect_ratio: 2 aspect_ratio: 2 flip: false }",
        [(1, 9, 4, 4), (1, 3, 30, 30)],
        [(1, 2, 16 * 2 * 4)],
        [],
        0,
    ),
    (
        "PriorBoxClustered",
        "prior_box_param { width: 9 width: 25 height: 15 height: 39 }",
        [(1, 8, 3, 4), (1, 3, 60, 60)],
        [(1, 2, 3 * 4 * 2 * 4)],
        [],
        0,
    ),
    (
        "ROIPooling",
        "roi_pooling_param { pooled_h: 7 pooled_w: 6 }",
        [(1, 512, 38, 50), (300, 5)],
        [(300, 512, 7, 6)],
        [],
        0,
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 21 group_size: 7 spatial_scale: 0.0625 }",
        [(1, 21 * 49, 38, 50), (300, 5)],
        [(300, 21, 7, 7)],
        [],
        0,
    ),
    ("Interp", "interp_param { height: 64 width: 32 }", [X], [(1, 8, 64, 32)], [], 0),
    ("Interp", "interp_param { zoom_factor: 8 }", [(1, 2, 5, 5)], [(1, 2, 33, 33)], [], 0),
    ("Interp", "interp_param { shrink_factor: 2 }", [(1, 2, 33, 9)], [(1, 2, 17, 5)], [], 0),
    (
        "Upsample",
        "upsample_param { scale: 2 pad_out_h: true }",
        [(1, 2, 5, 6), (1, 2, 5, 6)],
        [(1, 2, 9, 12)],
        [],
        0,
    ),
    ("Upsample", "upsample_param { scale: 2 }", [(1, 2, 5, 6)], [(1, 2, 10, 12)], [], 0),
    ("Reorg", "reorg_param { stride: 2 }", [(1, 64, 26, 26)], [(1, 256, 13, 13)], [], 0),
    ("Reorg", "reorg_param { stride: 2 reverse: true }", [X], [(1, 2, 8, 8)], [], 0),
    ("Axpy", "", [(1, 8, 1, 1), X, X], [X], [], 0),
    ("BN", "bn_param { scale_filler {} }", [X], [X], [(1, 8, 1, 1)] * 2, 0),
    ("BN", "bn_param { slope_filler {} }", [X], [X], [(1, 8, 1, 1)] * 4, 0),
    ("Normalize", "norm_param { channel_shared: false }", [X], [X], [(8,)], 0),
    (
        "LSTM",
        "recurrent_param { num_output: 5 }",
        [(7, 2, 3), (7, 2), (2, 4)],
        [(7, 2, 5)],
        [(20, 3), (20,), (20, 4), (20, 5)],
        7 * 2 * 20 * (3 + 5) + 2 * 20 * 4,
    ),
]


@pytest.mark.parametrize(("kind", "text", "bottoms", "tops", "blobs", "macs"), RULE_CASES)
def test_rule(kind, text, bottoms, tops, blobs, macs):
    found = shapes_of(f'type: "{kind}" {text}', *bottoms, top_count=len(tops))
    assert (list(found.tops), list(found.blobs), found.macs) == (tops, blobs, macs)


def test_pooling_of_the_profiles():
    text = 'type: "Pooling" pooling_param { kernel_size: 1 stride: 2 }'
    assert shapes_of(text, (1, 1, 6, 7), profile=BVLC, top_count=1).tops == ((1, 1, 4, 4),)
    assert shapes_of(text, (1, 1, 6, 7), profile=INTEL, top_count=1).tops == ((1, 1, 3, 4),)


def test_batch_norm_of_nvidia():
    text = 'type: "BatchNorm" batch_norm_param { scale_bias: true }'
    assert shapes_of(text, (2, 3, 4, 4), top_count=1).blobs == ((3,), (3,), (1,))
    assert len(shapes_of(text, (2, 3, 4, 4), profile=NVIDIA, top_count=1).blobs) == 5


def test_unknown_sizes_spread_only_as_far_as_they_must():
    net = read_net(
        """
        layer { name: "d" type: "Data" top: "x" top: "y"
                data_param { source: "nowhere" batch_size: 4 }
                transform_param { mean_value: 1 mean_value: 2 mean_value: 3 } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c"
                convolution_param { num_output: 8 kernel_size: 3 } }
        layer { name: "p" type: "Pooling" bottom: "c" top: "p"
                pooling_param { global_pooling: true } }
        layer { name: "f" type: "InnerProduct" bottom: "p" top: "f"
                inner_product_param { num_output: 2 } }
        """
    ).message
    shapes = infer_net(build_graph(net))
    assert shapes.blobs["c"] == (4, 8, -1, -1)
    assert shapes.blobs["f"] == (4, 2)
    assert shapes.parameters == 8 * 3 * 9 + 8 + 2 * 8 + 2
    assert shapes.parameters_known and not shapes.macs_known
    assert "d" in shapes.guessed
    known = infer_net(build_graph(net), {"x": (4, 3, 10, 12)})
    assert known.blobs["c"] == (4, 8, 8, 10) and known.macs_known and not known.problems
    assert format_shape(shapes.blobs["c"]) == "4x8x?x?"


def test_unknown_types_do_not_crash():
    net = read_net(
        """
        layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
        layer { name: "q" type: "Quux" bottom: "x" top: "q" }
        layer { name: "r" type: "ReLU" bottom: "q" top: "r" }
        """
    ).message
    shapes = infer_net(build_graph(net))
    assert shapes.blobs == {"x": (1, 3), "q": None, "r": None}
    assert not shapes.parameters_known


@pytest.mark.parametrize(
    ("text", "bottoms", "message"),
    [
        ('type: "Convolution" convolution_param { kernel_size: 3 }', [(1, 3, 8, 8)], "num_output"),
        (
            'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 group: 2 }',
            [(1, 3, 8, 8)],
            "2 groups do not divide",
        ),
        (
            'type: "Pooling" pooling_param { kernel_size: 2 pad: 2 }',
            [(1, 3, 8, 8)],
            "pad .* must be below the kernel",
        ),
        ('type: "Eltwise"', [(1, 3), (1, 4)], "must have the same shape"),
        ('type: "Concat"', [(1, 3, 2), (1, 4, 3)], "equal dimensions except"),
        ('type: "Slice" top: "a" top: "b"', [(1, 3)], "do not evenly divide"),
        ('type: "Reshape" reshape_param { shape { dim: 0 dim: 5 } }', [(2, 8)], "not the bottom's"),
        ('type: "Convolution" convolution_param { num_output: 4 kernel_size: 9 }', [(1, 3, 5, 5)],
         "does not fit into the bottom"),
    ],
)  # fmt: skip
def test_wrong_parameters_name_layer_and_field(text, bottoms, message):
    with pytest.raises(LayerError, match=message):
        shapes_of(f'name: "n" {text}', *bottoms)


def test_shared_parameters_count_once():
    text = """
    layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
            param { name: "w" } param { name: "b" } inner_product_param { num_output: 3 } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
            param { name: "w" } param { name: "b" } inner_product_param { num_output: 3 } }
    """
    assert infer_net(build_graph(read_net(text).message)).parameters == 12


def png(width: int, height: int, kind: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
    )


def test_image_headers():
    cv2 = pytest.importorskip("cv2")
    color = np.zeros((11, 13, 3), np.uint8)
    for extension, image in (
        (".jpg", color),
        (".png", color),
        (".bmp", color),
        (".jpg", color[..., 0]),
    ):
        data = bytes(cv2.imencode(extension, image)[1])
        channels = 1 if image.ndim == 2 else 3
        assert picture_shape(data) == (channels, 11, 13), extension
    assert picture_shape(png(5, 4, 6)) == (4, 4, 5)
    with pytest.raises(DataError, match="cannot decode"):
        picture_shape(b"GIF89a")


def test_shape_of_the_first_record(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as env, env.begin(write=True) as txn:
        datum = pb.Datum(channels=3, height=20, width=30, data=bytes(1800))
        txn.put(b"0", datum.SerializeToString())
    text = """
    layer { name: "d" type: "Data" top: "x" top: "y"
            data_param { source: "db" batch_size: 2 backend: LMDB } transform_param { %s } }
    """
    free = infer_net(build_graph(read_net(text % "").message), search_path=[tmp_path])
    assert free.blobs == {"x": (2, 3, 20, 30), "y": (2,)}
    assert "first record" in free.guessed["d"]
    crop = infer_net(build_graph(read_net(text % "crop_size: 16").message), search_path=[tmp_path])
    assert crop.blobs["x"] == (2, 3, 16, 16)
