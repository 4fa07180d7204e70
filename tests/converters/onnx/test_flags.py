"""Flags of `caffeio convert` to ONNX: each changes the model as it says, and the numbers hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import caffeio
from caffeio.cli.main import main
from caffeio.proto.files import read_net
from caffeio.proto.weights.blobproto import write_blobproto
from caffeio.proto.weights.load import write_caffemodel

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

HEAD = (
    'layer { name: "data" type: "Input" top: "data"'
    " input_param { shape { dim: 1 dim: 3 dim: 12 dim: 16 } } }\n"
)
DATA = (
    'layer { name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param'
    " { batch_size: 1 channels: 3 height: 12 width: 16 } transform_param { PARAM } }\n"
)
BODY = """
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 3 stride: 2 METHOD } }
layer { name: "d" type: "Convolution" bottom: "p" top: "d"
  convolution_param { num_output: 5 kernel_size: 1 } }
"""  # noqa: E501
PROB = 'layer { name: "prob" type: "Softmax" bottom: "d" top: "prob" }\n'


def files(folder: Path, text: str, seed: int = 0) -> list[str]:
    """A prototxt and random weights for it."""
    net_path, weights = folder / "net.prototxt", folder / "w.caffemodel"
    net_path.write_text(text)
    file = read_net(net_path)
    net = caffeio.load_net(net_path, phase="TRAIN" if "MemoryData" in text else "TEST")
    rng = np.random.default_rng(seed)
    blobs = {
        name: [rng.uniform(-0.5, 0.5, b.shape).astype(np.float32) for b in blobs]
        for name, blobs in net.params.items()
    }
    write_caffemodel(weights, file.message, blobs, dialect=file.dialect)
    return [str(net_path), str(weights)]


def convert(folder: Path, text: str, *flags: str, code: int = 0) -> Any:
    """Run the command; the model and what was said, or the error."""
    out = folder / "m.onnx"
    out.unlink(missing_ok=True)
    given = files(folder, text)
    result = CliRunner().invoke(main, ["convert", *given, str(out), "--force", *flags])
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    if code:
        assert not out.exists()
        return result.stderr
    assert "largest relative difference against onnxruntime" in result.output
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    return model, result.output


def run(folder: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, inputs)
    return found


def net_of(folder: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    net = caffeio.load_net(
        folder / "net.prototxt", folder / "w.caffemodel", input_shapes={"data": x.shape}
    )
    with torch.no_grad():
        net({"data": torch.from_numpy(x)})
    return {name: blob.numpy() for name, blob in net.blobs.items()}


def dims(value: Any) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def props(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize(
    "method", ["pool: MAX", "pool: AVE pad: 1", "pool: AVE", "pool: MAX pad: 2"]
)
def test_any_size(method: str, tmp_path: Path) -> None:
    """One model for sizes that nobody has tried; names of the sizes are in it."""
    text = HEAD + BODY.replace("METHOD", method)
    model, _ = convert(tmp_path, text, "--dynamic", "batch,height,width")
    assert dims(model.graph.input[0]) == ["N", 3, "H", "W"]
    rng = np.random.default_rng(1)
    for shape in ((2, 3, 7, 9), (1, 3, 8, 31), (3, 3, 40, 10)):
        x = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(run(tmp_path, data=x)[0], net_of(tmp_path, x)["d"], atol=2e-6)


SIZES = """
Upsample | upsample_param { scale: 2 }
Interp | interp_param { zoom_factor: 2 pad_beg: -1 }
Interp | interp_param { shrink_factor: 2 zoom_factor: 3 pad_end: -2 }
Interp | interp_param { height: 9 width: 7 }
ShuffleChannel | shuffle_channel_param { group: 3 }
LRN | lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }
MVN |
Power | power_param { scale: 0 shift: 2 }
Flatten | flatten_param { axis: 2 }
Deconvolution | convolution_param { num_output: 2 kernel_size: 4 stride: 2 }
"""


@pytest.mark.parametrize("row", SIZES.strip().splitlines())
def test_layers_of_any_size(row: str, tmp_path: Path) -> None:
    kind, fields = (part.strip() for part in row.split("|"))
    text = f'{HEAD}layer {{ name: "x" type: "{kind}" bottom: "data" top: "y" {fields} }}'
    convert(tmp_path, text, "--dynamic", "height,width")
    x = np.random.default_rng(2).standard_normal((1, 3, 15, 10)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path, data=x)[0], net_of(tmp_path, x)["y"], atol=5e-6)


def test_masks_and_crops_of_any_size(tmp_path: Path) -> None:
    text = (
        HEAD + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" top: "mask"'
        " pooling_param { kernel_size: 2 stride: 2 } }"
        'layer { name: "u" type: "Upsample" bottom: "p" bottom: "mask" top: "u" }'
        'layer { name: "k" type: "Crop" bottom: "u" bottom: "p" top: "k" crop_param { offset: 1 } }'
    )
    convert(tmp_path, text, "--dynamic", "height,width")
    x = np.random.default_rng(2).standard_normal((1, 3, 10, 22)).astype(np.float32)
    np.testing.assert_array_equal(run(tmp_path, data=x)[0], net_of(tmp_path, x)["k"])


def test_what_fixes_sizes(tmp_path: Path) -> None:
    """The error names the layer and the reason."""
    dense = 'layer { name: "fc" type: "InnerProduct" bottom: "d" top: "y" inner_product_param { num_output: 2 } }'  # noqa: E501
    text = HEAD + BODY.replace("METHOD", "") + dense
    said = convert(tmp_path, text, "--dynamic", "height", code=2)
    assert "the height cannot be dynamic" in said and "layer 'fc' (InnerProduct) would need" in said
    shape = 'layer { name: "s" type: "Reshape" bottom: "d" top: "y" reshape_param { shape { dim: 0 dim: 5 dim: 6 dim: 8 } } }'  # noqa: E501
    said = convert(
        tmp_path, HEAD + BODY.replace("METHOD", "") + shape, "--dynamic", "width", code=2
    )
    assert "the width cannot be dynamic: layer 's'" in said
    said = convert(tmp_path, text, "--dynamic", "depth", code=2)
    assert "--dynamic takes batch, height, width, not 'depth'" in said


def test_a_graph_for_one_size_is_refused(tmp_path: Path) -> None:
    """SPP's windows are the bottom's size over the bins: another size, another graph."""
    text = HEAD + 'layer { name: "x" type: "SPP" bottom: "data" top: "x" spp_param { LEVELS } }\n'
    text = text.replace("LEVELS", "pyramid_height: 2")
    said = convert(tmp_path, text, "--dynamic", "height,width", code=2)
    assert "layer 'x' has a form for one size only: at data 1x3x44x16" in said


def test_boxes_of_ssd_are_for_one_size(tmp_path: Path) -> None:
    layer = (
        'layer { name: "c" type: "Pooling" bottom: "data" top: "c" '
        "pooling_param { kernel_size: 2 } }\n"
        'layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p" '
        "prior_box_param { min_size: 4 } }\n"
    )
    said = convert(tmp_path, HEAD + layer, "--dynamic", "height", code=2)
    assert "layer 'p' (type PriorBox) has no ONNX form: its boxes are a constant" in said
    assert said.rstrip().endswith("can be exported: --output-blob c")
    convert(tmp_path, HEAD + layer, "--dynamic", "batch")


def test_an_output_that_is_a_constant_is_named_by_its_layer(tmp_path: Path) -> None:
    """Its graph has no node of the layer."""
    layer = (
        'layer { name: "k" type: "Parameter" top: "k" parameter_param { shape { dim: 2 } } }\n'
        'layer { name: "i" type: "ContinuationIndicator" bottom: "data" top: "i" '
        "continuation_indicator_param { time_step: 3 axis: 2 } }\n"
    )
    said = convert(tmp_path, HEAD + layer, "--dynamic", "height", code=2)
    assert "layer 'i' has a form for one size only" in said


def test_merged_images_are_told(tmp_path: Path) -> None:
    shape = 'layer { name: "s" type: "Reshape" bottom: "d" top: "y" reshape_param { shape { dim: 1 dim: -1 dim: 5 } } }'  # noqa: E501
    _, said = convert(tmp_path, HEAD + BODY.replace("METHOD", "") + shape, "--dynamic", "batch")
    assert "WARNING: output 'y' is [1, ?, 5]: the images of a batch are merged" in said
    _, said = convert(tmp_path, HEAD + BODY.replace("METHOD", ""), "--dynamic", "batch")
    assert "are merged in it" not in said


@pytest.mark.parametrize("opset", ["9", "13", "17", "22"])
def test_half(opset: str, tmp_path: Path) -> None:
    """Weights are float16, inputs and outputs float32, and the error is that of float16."""
    if int(opset) > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} knows no opset {opset}")
    text = HEAD + BODY.replace("METHOD", "pool: AVE pad: 1") + PROB
    model, said = convert(tmp_path, text, "--fp16", "--opset", opset)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["c.weight"] == kinds["d.bias"] == onnx.TensorProto.FLOAT16
    for item in (*model.graph.input, *model.graph.output):
        assert item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert "float16: the weights have" in said
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 16)).astype(np.float32)
    error = np.abs(run(tmp_path, data=x)[0] - net_of(tmp_path, x)["prob"]).max()
    assert 0 < error < 2e-3


def test_what_half_cannot_hold_stays(tmp_path: Path) -> None:
    """A norm's eps of 1e-10 would be 0; large numbers infinite."""
    norm = 'layer { name: "n" type: "Normalize" bottom: "d" top: "n" }'
    big = 'layer { name: "b" type: "Power" bottom: "n" top: "y" power_param { scale: 1e6 } }'
    model, _ = convert(tmp_path, HEAD + BODY.replace("METHOD", "") + norm + big, "--fp16")
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["b.factor"] == kinds["n.eps"] == onnx.TensorProto.FLOAT
    assert kinds["d.weight"] == onnx.TensorProto.FLOAT16


def test_a_factor_that_half_would_lose(tmp_path: Path) -> None:
    text = HEAD + BODY.replace("METHOD", "pool: MAX")
    text += 'layer { name: "s" type: "Power" bottom: "d" top: "s" power_param { scale: 1e-9 } }\n'
    text += 'layer { name: "t" type: "Power" bottom: "s" top: "t" power_param { scale: 1e9 } }\n'
    convert(tmp_path, text, "--fp16")


PICTURES = [
    ("mean_value: 104 mean_value: 117 mean_value: 123", []),
    ("scale: 0.00390625", ["--rgb"]),
    ("mean_value: 100 scale: 0.017 crop_size: 12", ["--size", "15,18"]),
    ('mean_file: "mean.binaryproto" scale: 0.5', ["--bgr"]),
    ('mean_file: "mean.binaryproto" crop_h: 12 crop_w: 16', ["--rgb", "--size", "12,16"]),
    ("", ["--mean", "10,20,30", "--scale", "0.1"]),
]


@pytest.mark.parametrize(("param", "flags"), PICTURES)
@pytest.mark.parametrize("caffe", ["bvlc", "nvidia"])
def test_pictures(param: str, flags: list[str], caffe: str, tmp_path: Path) -> None:
    """A raw picture goes in; the formula is written out here, apart from caffeio's transformer."""
    data = DATA.replace("PARAM", param)
    if "crop_size" in param:
        data = data.replace("width: 16", "width: 12")
    mean = np.random.default_rng(5).uniform(90, 130, (1, 3, 12, 16)).astype(np.float32)
    write_blobproto(tmp_path / "mean.binaryproto", mean)
    text = data + BODY.replace("METHOD", "")
    model, said = convert(tmp_path, text, "--preprocess", "--caffe", caffe, *flags)
    told = json.loads(props(model)["caffe:preprocess"])
    (item,) = model.graph.input
    assert item.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    height, width = (15, 18) if "crop_size" in param else (12, 16)
    assert dims(item) == [1, height, width, 3]
    assert told["channels"] == ("RGB" if "--rgb" in flags else "BGR")
    assert f"pictures go in: uint8 1x{height}x{width}x3 (NHWC)" in said
    picture = np.random.default_rng(6).integers(0, 256, (1, height, width, 3)).astype(np.uint8)
    x = picture[..., ::-1] if "--rgb" in flags else picture
    if "crop_size" in param:
        x = x[:, 1:13, 3:15]
    x = x.transpose(0, 3, 1, 2).astype(np.float32)
    if "mean_file" in param:
        x = x - mean
    elif "--mean" in flags:
        x = x - np.array([10, 20, 30], np.float32).reshape(1, 3, 1, 1)
    elif "mean_value" in param:
        values = [104, 117, 123] if "117" in param else [100] * 3
        x = x - np.array(values, np.float32).reshape(1, 3, 1, 1)
    scale = {"scale: 0.00390625": 1 / 256, "scale: 0.5": 0.5, "scale: 0.017": 0.017}
    x = x * np.float32(next((v for k, v in scale.items() if k in param), 1))
    x = x * np.float32(0.1) if "--scale" in flags else x
    deploy = HEAD.replace("dim: 16", f"dim: {x.shape[3]}") + BODY.replace("METHOD", "")
    net = caffeio.load_net(deploy, tmp_path / "w.caffemodel")
    with torch.no_grad():
        wanted = net({"data": torch.from_numpy(np.ascontiguousarray(x))})["d"].numpy()
    found = run(tmp_path, **{item.name: picture})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_pictures_that_nobody_describes(tmp_path: Path) -> None:
    text = HEAD + BODY.replace("METHOD", "")
    said = convert(tmp_path, text, "--preprocess", code=2)
    assert "no layer of the net has a transform_param" in said
    said = convert(tmp_path, text, "--mean", "1,2", code=2)
    assert "mean_value" in said
    said = convert(tmp_path, text, "--scale", "2", "--size", "9,9", code=2)
    assert "pictures of 9x9 become 3x9x9, but input 'data' is 3x12x16" in said
    model, _ = convert(tmp_path, text, "--scale", "2", "--dynamic", "batch,height,width")
    assert dims(model.graph.input[0]) == ["N", "H", "W", 3]


@pytest.mark.parametrize("flags", [[], ["--fold", "--opset", "11"], ["--dynamic", "batch"]])
def test_cut_inputs(flags: list[str], tmp_path: Path) -> None:
    """The net begins at a blob, as it ends up; what only makes it is gone."""
    text = HEAD + BODY.replace("METHOD", "") + PROB
    model, said = convert(tmp_path, text, "--input-blob", "c", "--output-blob", "d", *flags)
    assert [item.name for item in model.graph.input] == ["c"]
    assert "c.weight" not in {t.name for t in model.graph.initializer}
    assert "the net begins at c" in said
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 16)).astype(np.float32)
    blobs = net_of(tmp_path, x)
    np.testing.assert_allclose(run(tmp_path, c=blobs["c"])[0], blobs["d"], atol=2e-6)


def test_cuts_that_cannot_be(tmp_path: Path) -> None:
    text = HEAD + BODY.replace("METHOD", "")
    assert "no blob 'z'" in convert(tmp_path, text, "--input-blob", "z", code=2)
    said = convert(tmp_path, text, "--input-blob", "p", "--output-blob", "c", code=2)
    assert "no output that is wanted depends on blob 'p'" in said


def test_labels_and_what_a_model_tells(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\nemu\n")
    text = HEAD + BODY.replace("METHOD", "") + PROB
    model, said = convert(tmp_path, text, "--labels", str(names))
    told = props(model)
    assert told["caffe:labels"].split("\n") == ["ant", "bee", "cat", "dog", "emu"]
    assert float(told["caffe:verified"].split()[0]) < 1e-5
    assert told["caffe:dialect"] == "bvlc"
    assert "there are" not in said
    names.write_text("one\ntwo\n")
    _, said = convert(tmp_path, text, "--labels", str(names))
    assert "there are 2 labels, and no output has as many channels" in said
    names.write_text("\n")
    assert "holds no names" in convert(tmp_path, text, "--labels", str(names), code=2)


@pytest.mark.parametrize(
    "flags", [["--fp16"], ["--input-blob", "c"], ["--dynamic", "batch,height,width", "--fold"]]
)
def test_certificates(flags: list[str], tmp_path: Path) -> None:
    """The page that one hands over, and `caffeio verify`, know what the flags make."""
    text = HEAD + BODY.replace("METHOD", "") + PROB
    place = tmp_path / "c.json"
    convert(tmp_path, text, *flags, "--certificate", str(place))
    assert json.loads(place.read_text())["same"] is True
    if "--fp16" not in flags:
        models = [str(tmp_path / name) for name in ("net.prototxt", "w.caffemodel", "m.onnx")]
        result = CliRunner().invoke(main, ["verify", *models])
        assert result.exit_code == 0, result.output


def test_pictures_are_compared_when_they_are_converted(tmp_path: Path) -> None:
    convert(tmp_path, HEAD + BODY.replace("METHOD", ""), "--scale", "2")
    models = [str(tmp_path / name) for name in ("net.prototxt", "w.caffemodel", "m.onnx")]
    result = CliRunner().invoke(main, ["verify", *models])
    assert result.exit_code == 2
    assert "the model reads 'image', which the other one has not" in result.stderr
