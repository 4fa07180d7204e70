"""Layers that a Caffe lacks, said by layers that it has: the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import caffeio
from caffeio.cli.main import main
from caffeio.converters.translate.net_text import translate_net
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.proto.dialect import schema
from caffeio.proto.files import read_net
from caffeio.proto.text.printer import format_message
from caffeio.proto.weights.load import load_weights, write_caffemodel

# type | its parameters | shapes of the bottoms | how many units in the last place of the largest
FORMS = """
ConvolutionDepthwise | convolution_param { kernel_size: 3 num_output: 4 pad: 1 stride: 2 } | 2 4 6 7 | 4
DepthwiseConvolution | convolution_param { kernel_size: 3 num_output: 4 bias_term: false } | 2 4 6 7 | 4
ReLU6 | | 2 4 6 6 | 2
ReLU6 | relu6_param { negative_slope: 0.25 } | 2 4 6 6 | 2
Axpy | | 2 4 1 1, 2 4 6 6, 2 4 6 6 | 2
ShuffleChannel | shuffle_channel_param { group: 3 } | 2 12 3 2 | 0
Reorg | reorg_param { stride: 2 } | 2 8 6 4 | 0
Reorg | reorg_param { stride: 2 reverse: true } | 2 8 3 2 | 0
Reorg | reorg_param { stride: 3 } | 1 18 6 3 | 0
CropCenter | crop_center_param { crop_size: 0 crop_size: 1 crop_size: 2 crop_size: 0 } | 2 4 6 6 | 0
CropCenter | crop_center_param { crop_size: 0 crop_size: 0 crop_size: 2 crop_size: 0 } | 2 4 6 6 | 0
Upsample | upsample_param { scale: 3 } | 2 4 3 2 | 0
SpatialDropout | | 2 4 3 2 | 0
Permute | permute_param { order: 0 order: 2 order: 3 order: 1 } | 2 4 1 1 | 0
Permute | permute_param { order: 0 order: 2 order: 3 order: 1 } | 2 1 4 3 | 0
Permute | permute_param { order: 0 order: 2 order: 3 order: 1 } | 2 5 4 3 | 0
Permute | permute_param { order: 0 order: 3 order: 2 order: 1 } | 2 5 4 3 | 0
Permute | permute_param { order: 1 order: 0 } | 2 5 4 3 | 0
Permute | permute_param { order: 3 order: 2 order: 1 order: 0 } | 2 5 4 3 | 0
Permute | permute_param { order: 0 order: 2 } | 2 3 4 5 | 0
Permute | permute_param { order: 1 order: 2 order: 0 } | 1 3 4 | 0
BN | bn_param { slope_filler { value: 1 } eps: 0.001 } | 2 4 6 6 | 8
BN | bn_param { bn_mode: LEARN } | 2 4 6 6 | 16
BN | bn_param { bn_mode: INFERENCE } | 2 4 6 6 | 2
BN | bn_param { moving_average: true var_eps: 0.01 } | 2 4 6 6 | 8
Normalize | norm_param { across_spatial: false channel_shared: false } | 2 4 6 6 | 16
Normalize | norm_param { across_spatial: false } | 2 4 6 6 | 16
"""  # noqa: E501


def source_net(kind: str, fields: str, shapes: list[tuple[int, ...]]) -> str:
    tops = " ".join(f'top: "b{i}"' for i in range(len(shapes)))
    dims = " ".join(f"shape {{ {' '.join(f'dim: {n}' for n in s)} }}" for s in shapes)
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    return (
        f'layer {{ name: "in" type: "Input" {tops} input_param {{ {dims} }} }}\n'
        f'layer {{ name: "x" type: "{kind}" {bottoms} top: "y" {fields} }}'
    )


def set_blobs(net: Net, arrays: dict[str, list[np.ndarray]]) -> None:
    with torch.no_grad():
        for step in net.steps:
            for blob, array in zip(step.layer.blobs, arrays.get(step.node.name, ()), strict=True):
                blob.copy_(torch.from_numpy(np.array(array)).view(blob.shape))


def run_net(net: Net, shapes: list[tuple[int, ...]]) -> np.ndarray:
    rng = np.random.default_rng(3)
    inputs = {f"b{i}": rng.standard_normal(s).astype(np.float32) * 4 for i, s in enumerate(shapes)}
    with torch.no_grad():
        found = net({name: torch.from_numpy(value) for name, value in inputs.items()})
    assert set(found) == {"y"}
    return found["y"].numpy()


@pytest.mark.parametrize("row", FORMS.strip().splitlines())
@pytest.mark.parametrize("target", ["bvlc", "segnet"])
def test_the_same_numbers(row: str, target: str) -> None:
    kind, fields, sizes, units = (part.strip() for part in row.split("|"))
    if kind in schema.load(target).layer_types:
        pytest.skip("the target has the layer itself")
    shapes = [tuple(map(int, size.split())) for size in sizes.split(",")]
    file = read_net(source_net(kind, fields, shapes))
    net = NetRecipe.of_file(file).build()
    rng = np.random.default_rng(0)
    arrays = {
        step.node.name: [
            rng.uniform(0.2, 1, spec.shape).astype(np.float32) for spec in step.layer.blob_specs
        ]
        for step in net.steps
        if len(step.layer.blobs)
    }
    set_blobs(net, arrays)
    blobs = [arrays.get(layer.name, []) for layer in file.message.layer]
    new = translate_net(file.message, blobs, file.dialect, target)
    kinds = {layer.type for layer in new.message.layer}
    if target == "bvlc":
        assert not new.matters
        assert kinds <= schema.load(target).layer_types
        text = format_message(new.message, dialect=target)
        mine = NetRecipe.of_file(read_net(text, dialect=target)).build()
        set_blobs(mine, new.arrays())
        found, wanted = run_net(mine, shapes), run_net(net, shapes)
        assert np.abs(found - wanted).max() <= int(units) * 2.0**-24 * np.abs(wanted).max() * 2
    elif not new.matters:  # an older Caffe may lack Scale and others: then it is said
        assert kinds <= schema.load(target).layer_types


@pytest.mark.parametrize(
    ("kind", "fields", "shapes", "reason"),
    [
        ("Permute", "permute_param { order: 0 order: 2 }", "2 600 700", "an axis of more than 512"),
        ("Normalize", "norm_param { }", "2 3 4 5", "it sums over pixels as well"),
        ("Interp", "interp_param { zoom_factor: 2 }", "2 3 4 5", "no such layer type"),
    ],
)
def test_what_has_no_exact_form(kind: str, fields: str, shapes: str, reason: str) -> None:
    file = read_net(source_net(kind, fields, [tuple(map(int, shapes.split()))]))
    blobs = [[], [np.ones((), np.float32)] if kind == "Normalize" else []]
    new = translate_net(file.message, blobs, file.dialect, "bvlc")
    assert any(reason in line for line in new.matters)


BOUNDS = [(0, 6), (-1, 2), (0, 1.5), (-2, -0.5), (-3, 2000), (0, 5e4), (-65504, 65504), (-1e5, 6)]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("target", ["ssd", "intel", "nvidia"])
def test_clip_for_older_caffes(bounds: tuple[float, float], target: str) -> None:
    low, high = bounds
    fields = f"clip_param {{ min: {low} max: {high} }}"
    file = read_net(source_net("Clip", fields, [(2, 3, 40)]), dialect="bvlc")
    new = translate_net(file.message, [[], []], "bvlc", target)
    assert not new.matters
    assert {x.type for x in new.message.layer} <= {"Input", "Power", "ReLU", "Eltwise"}
    text = format_message(new.message, dialect=target)
    mine = NetRecipe.of_file(read_net(text, dialect=target)).build()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 40)).astype(np.float32) * (1e5 if high > 100 else 4)
    with torch.no_grad():
        found = mine({"b0": torch.from_numpy(x)})["y"].numpy()
    wanted = np.clip(x, low, high)
    assert np.abs(found - wanted).max() <= 2.0**-22 * max(abs(low), abs(high), 4)
    if max(abs(low), abs(high)) > 1e3:  # a shift by so much would lose digits of small numbers
        inside = (x > low) & (x < high)
        np.testing.assert_array_equal(found[inside], x[inside])


POOL = (
    'layer { name: "in" type: "Input" top: "b0" input_param { shape { dim: 1 dim: 2 dim: 112'
    ' dim: 111 } } }\nlayer { name: "x" type: "Pooling" bottom: "b0" top: "y" pooling_param {'
    " pool: MAX kernel_size: 3 stride: 2 MORE } }"
)


@pytest.mark.parametrize("more", ["pad: 1", "", "pad: 1 pool: AVE"])
@pytest.mark.parametrize("target", ["bvlc", "segnet", "ssd", "pytorch2caffe"])
def test_pooling_that_rounds_down(more: str, target: str) -> None:
    text = POOL.replace("pool: MAX", "" if "pool" in more else "pool: MAX")
    file = read_net(text.replace("MORE", f"{more} ceil_mode: false"))
    new = translate_net(file.message, [[], []], file.dialect, target)
    assert not new.matters
    shapes = [(1, 2, 112, 111)]
    out = NetRecipe.of_file(
        read_net(format_message(new.message, dialect=target), dialect=target)
    ).build()
    found = run_net(out, shapes)
    wanted = run_net(NetRecipe.of_file(file).build(), shapes)
    assert (
        found.shape
        == wanted.shape
        == (1, 2, 56 if "pad" in more else 55, 56 if "pad" in more else 55)
    )
    assert np.array_equal(found, wanted)


def convert(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, args)])


def test_ceil_mode_false_stays_so(tmp_path: Path) -> None:
    """Fifty-six rows, not fifty-seven, whoever reads the result."""
    (tmp_path / "n.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "b0" input_param { shape { dim: 1 dim: 2 dim: 112'
        ' dim: 112 } } }\nlayer { name: "c" type: "Convolution" bottom: "b0" top: "c"'
        " convolution_param { num_output: 2 kernel_size: 1 } }\n"
        'layer { name: "x" type: "Pooling" bottom: "c" top: "pool1" pooling_param { pool: MAX'
        " kernel_size: 3 stride: 2 pad: 1 ceil_mode: false } }"
    )
    net = read_net(tmp_path / "n.prototxt")
    blobs = {"c": [np.ones((2, 2, 1, 1), np.float32), np.zeros(2, np.float32)]}
    write_caffemodel(tmp_path / "w.caffemodel", net.message, blobs, dialect=net.dialect)
    files = tmp_path / "n.prototxt", tmp_path / "w.caffemodel"
    for name, more in (
        ("a.caffemodel", []),
        ("b.caffemodel", ["--to-dialect", "bvlc"]),
        ("c.prototxt", ["--deploy", "--to-dialect", "bvlc"]),
        ("d.prototxt", ["--to-dialect", "bvlc"]),
        ("e.prototxt", ["--deploy", "--to-dialect", "ssd"]),
    ):
        result = convert(*files, tmp_path / name, *more)
        assert result.exit_code == 0, result.output
        made = tmp_path / name
        found = caffeio.load_net(made)
        assert found.blob_shapes["pool1"] == (1, 2, 56, 56), name


def test_a_pair_for_another_caffe(tmp_path: Path) -> None:
    """A net and its weights, translated one after the other, run as they did."""
    (tmp_path / "n.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "b0" input_param { shape { dim: 2 dim: 4 dim: 6'
        ' dim: 6 } } }\nlayer { name: "dw" type: "ConvolutionDepthwise" bottom: "b0" top: "dw"'
        " convolution_param { num_output: 4 kernel_size: 3 } }\n"
        'layer { name: "mix" type: "ShuffleChannel" bottom: "dw" top: "mix"'
        " shuffle_channel_param { group: 2 } }\n"
        'layer { name: "six" type: "ReLU6" bottom: "mix" top: "mix" }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "mix" top: "y"'
        " inner_product_param { num_output: 3 } }"
    )
    rng = np.random.default_rng(1)
    blobs = {
        "dw": [rng.standard_normal((4, 1, 3, 3)).astype(np.float32), np.ones(4, np.float32)],
        "fc": [rng.standard_normal((3, 64)).astype(np.float32), np.ones(3, np.float32)],
    }
    files = tmp_path / "n.prototxt", tmp_path / "w.caffemodel"
    net = read_net(files[0])
    write_caffemodel(files[1], net.message, blobs, dialect=net.dialect)
    for args in (
        (*files, tmp_path / "p.prototxt"),
        (*files, tmp_path / "p.caffemodel"),
        (files[1], tmp_path / "q.caffemodel", "--dialect", net.dialect),
        (files[0], tmp_path / "r.prototxt"),
    ):
        result = convert(*args, "--to-dialect", "bvlc")
        assert result.exit_code == 0, result.output
        assert "largest relative difference against the result" in result.stdout
    wanted = run_net(caffeio.load_net(*files), [(2, 4, 6, 6)])
    for weights in ("p.caffemodel", "q.caffemodel"):
        mine = caffeio.load_net(tmp_path / "p.prototxt", tmp_path / weights)
        found = run_net(mine, [(2, 4, 6, 6)])
        assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()
    assert set(load_weights(tmp_path / "p.caffemodel")) == {"dw", "mix", "fc"}
    note = convert(*files, tmp_path / "p.prototxt", "--to-dialect", "bvlc", "-f").stderr
    assert "the new layers mix have weights" in note
