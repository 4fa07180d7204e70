from __future__ import annotations

import pytest
from google.protobuf import text_format

from caffeio.net.weights_fit import walk_shapes
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.detect_dialect import Walk


def walk(text: str) -> Walk:
    return walk_shapes(text_format.Parse(text, pb.NetParameter()))


def inner(name: str, bottom: str, inputs: int, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f"inner_product_param {{ num_output: 2 {more} }} "
        f"blobs {{ shape {{ dim: 2 dim: {inputs} }} }} }}"
    )


def conv(kind: str, bottom: str, top: str, params: str) -> str:
    return (
        f'layer {{ type: "{kind}" name: "{top}" bottom: "{bottom}" top: "{top}" '
        f"convolution_param {{ {params} }} }}"
    )


def pool(bottom: str, top: str, params: str) -> str:
    return (
        f'layer {{ type: "Pooling" name: "{top}" bottom: "{bottom}" top: "{top}" '
        f"pooling_param {{ {params} }} }}"
    )


def source(*dims: int) -> str:
    shape = " ".join(f"dim: {n}" for n in dims)
    return f'layer {{ type: "Input" top: "d" input_param {{ shape {{ {shape} }} }} }}'


INPUT = source(1, 3, 13, 11)


@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        (conv("Convolution", "d", "x", "num_output: 4 kernel_size: 3"), 4 * 11 * 9),
        (conv("Convolution", "d", "x", "num_output: 4 kernel_size: 3 stride: 2 pad: 1"), 4 * 7 * 6),
        (conv("Convolution", "d", "x", "num_output: 1 kernel_size: 3 dilation: 2"), 9 * 7),
        (
            conv(
                "Convolution", "d", "x", "num_output: 1 kernel_h: 1 kernel_w: 5 pad_w: 2 pad_h: 0"
            ),
            13 * 11,
        ),
        (conv("Deconvolution", "d", "x", "num_output: 1 kernel_size: 4 stride: 2 pad: 1"), 26 * 22),
        (pool("d", "x", "kernel_size: 3 stride: 2"), 3 * 6 * 5),
        (pool("d", "x", "kernel_size: 2 stride: 2"), 3 * 7 * 6),
        (pool("d", "x", "kernel_size: 2 stride: 2 round_mode: FLOOR"), 3 * 6 * 5),
        (pool("d", "x", "kernel_size: 2 stride: 2 pad: 1"), 3 * 7 * 6),
        (pool("d", "x", "global_pooling: true"), 3),
        ('layer { type: "LRN" bottom: "d" top: "x" }', 3 * 13 * 11),
        ('layer { type: "Flatten" bottom: "d" top: "x" }', 3 * 13 * 11),
        ('layer { type: "Concat" bottom: "d" bottom: "d" top: "x" }', 6 * 13 * 11),
        ('layer { type: "Eltwise" bottom: "d" bottom: "d" top: "x" }', 3 * 13 * 11),
    ],
)
def test_what_layers_make_of_shapes(layers: str, inputs: int) -> None:
    found = walk(INPUT + layers + inner("f", "x", inputs))
    assert found.possible
    assert f"layer 'f' has {inputs} inputs and gets as many" in found.confirmed
    wrong = walk(INPUT + layers + inner("f", "x", inputs + 1))
    assert wrong == Walk(False, [], [f"layer 'f' has {inputs + 1} inputs and would get {inputs}"])


def test_bottoms_must_agree() -> None:
    small = pool("d", "x", "kernel_size: 2 stride: 2")
    for kind in ("Eltwise", "Concat"):
        layer = f'layer {{ name: "j" type: "{kind}" bottom: "d" bottom: "x" top: "j" }}'
        assert walk(INPUT + small + layer).refuted == [
            f"layer 'j' ({kind}) would join 3 x 13 x 11 and 3 x 7 x 6"
        ]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ("kernel_size: 20", "the kernel (20, 20) is larger than the bottom"),
        ("stride: 2", "kernel_size: needs 1 value"),
        ("kernel_size: 2 stride: 0", "stride: must be above 0"),
    ],
)
def test_impossible_poolings(params: str, why: str) -> None:
    found = walk(INPUT + pool("d", "x", params))
    assert not found.possible and why in found.refuted[0]


SIZES = "channels: 2 height: 8 width: 8"
DATA = 'layer { type: "Data" top: "d" top: "label" }'


def test_an_input_of_unknown_size_is_searched_for() -> None:
    net = conv("Convolution", "d", "c", "num_output: 5 kernel_size: 5") + pool(
        "c", "p", "kernel_size: 2 stride: 2"
    )
    found = walk(DATA + net + inner("f", "p", 5 * 12 * 12))
    assert found.possible
    assert found.confirmed == [
        "layer 'f' has 720 inputs and gets as many (for an input of 27 x 27)"
    ]
    lost = walk(DATA + net + inner("f", "p", 5 * 12 * 11))
    assert lost.refuted == ["no square input of up to 1024 pixels fits the weights"]


@pytest.mark.parametrize(
    "data",
    [
        'layer { type: "Data" top: "d" transform_param { crop_size: 8 } }',
        'layer { type: "Data" top: "d" transform_param { crop_h: 8 crop_w: 8 } }',
        'layer { type: "ImageData" top: "d" image_data_param { new_height: 8 new_width: 8 } }',
        f'layer {{ type: "MemoryData" top: "d" memory_data_param {{ batch_size: 1 {SIZES} }} }}',
        f'layer {{ type: "DummyData" top: "d" dummy_data_param {{ num: 1 {SIZES} }} }}',
    ],
)
def test_sizes_that_data_layers_give(data: str) -> None:
    net = conv("Convolution", "d", "c", "num_output: 2 kernel_size: 1") + inner("f", "c", 128)
    assert walk(data + net).confirmed == ["layer 'f' has 128 inputs and gets as many"]


def test_what_cannot_be_followed_decides_nothing() -> None:
    net = 'layer { type: "Mystery" bottom: "d" top: "m" }' + inner("f", "m", 7)
    assert walk(INPUT + net) == Walk(True, [], [])


def test_old_layers() -> None:
    text = (
        'input: "d" input_dim: [1, 3, 6, 6]'
        ' layers { type: POOLING bottom: "d" top: "p" pooling_param { kernel_size: 2 stride: 2 } }'
        ' layers { name: "f" type: INNER_PRODUCT bottom: "p" top: "f"'
        " inner_product_param { num_output: 1 }"
        " blobs { num: 1 channels: 1 height: 1 width: 27 } }"
    )
    assert walk(text).confirmed == ["layer 'f' has 27 inputs and gets as many"]
