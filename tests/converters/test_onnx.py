"""Exported models run in onnxruntime and agree with real Caffe's arrays and with our net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caffeio.converters.onnx import to_model
from caffeio.converters.onnx_build import Built, build
from caffeio.converters.samples import sample_inputs
from caffeio.errors import UnsupportedError
from caffeio.graph import build_graph
from caffeio.net import Net, load_net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from tests.harness import TOLERANCE, assert_close, golden, part
from tests.paths import GOLDEN

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

# Sources read data, losses and metrics measure, code and files are no arithmetic.
WITHOUT_FORM = {
    "Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData",
    "Accuracy", "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss",
    "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss",
    "HDF5Output", "Python", "Silence",
}  # fmt: skip
RANDOM = {"Dropout/train_scaling"}
CASES = [
    pytest.param(path, id=f"{path.parent.name}/{path.stem}")
    for path in sorted((GOLDEN / "layers").glob("*/*.prototxt"))
    if path.parent.name not in WITHOUT_FORM
]


def run(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    found = session.run(None, {name: inputs[name] for name in names})
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


def case_net(path: Path, arrays: dict[str, np.ndarray]) -> Net:
    """The net of a golden layer case without what only makes an objective of the top."""
    file = read_net(path)
    message = pb.NetParameter()
    message.CopyFrom(file.message)
    del message.layer[:]
    message.layer.extend(x for x in file.message.layer if not x.name.startswith("obj_"))
    net = Net(build_graph(message, phase=str(arrays["phase"]))).materialize()
    step = next(step for step in net.steps if step.node.name == "x")
    with torch.no_grad():
        for key, value in part(arrays, "param/").items():
            step.layer.blobs[int(key)].copy_(torch.from_numpy(value))
    return net


def values_of(built: Built, model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = run(model, inputs)
    return {blob: found[name] for blob, name in built.outputs.items()}


def check(text: str, *shapes: tuple[int, ...], seed: int = 0, dynamic: bool = False) -> Any:
    """Export a net of one layer (or of several) with random blobs; compare with our own run."""
    names = " ".join(f'top: "b{i}"' for i in range(len(shapes)))
    dims = (" ".join(f"dim: {n}" for n in shape) for shape in shapes)
    given_shapes = " ".join(f"shape {{ {dim} }}" for dim in dims)
    if not text.lstrip().startswith("layer"):
        bottoms = "".join(f'bottom: "b{i}" ' for i in range(len(shapes)))
        tops = "" if "top:" in text else 'top: "y"'
        text = f'layer {{ name: "x" {bottoms} {tops} {text} }}'
    params = f"input_param {{ {given_shapes} }}"
    source = f'layer {{ name: "in" type: "Input" {names} {params} }}\n{text}'
    net = load_net(source, phase="TEST")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for step in net.steps:
            for blob in step.layer.blobs:
                values = rng.uniform(0.2, 1.0, blob.shape).astype(np.float32)
                blob.copy_(torch.from_numpy(values))
    inputs = sample_inputs(net, seed)
    built = build(net, dynamic_batch=dynamic)
    model = to_model(built, net)
    compare_run(net, built, model, inputs)
    if dynamic:
        inputs = {k: np.concatenate([v, v[::-1] * 0.5]) for k, v in inputs.items()}
        compare_run(net, built, model, inputs)
    return model


def compare_run(net: Net, built: Built, model: Any, inputs: dict[str, np.ndarray]) -> None:
    net.reset_state()
    with torch.no_grad():
        expected = net({k: torch.from_numpy(v) for k, v in inputs.items()})
    for blob, value in values_of(built, model, inputs).items():
        assert_close(value, expected[blob].numpy(), blob, TOLERANCE)


@pytest.mark.parametrize("path", CASES)
def test_layer(path: Path) -> None:
    arrays = golden(path)
    net = case_net(path, arrays)
    tops = next(step.tops for step in net.steps if step.node.name == "x")
    if f"{path.parent.name}/{path.stem}" in RANDOM:
        with pytest.raises(UnsupportedError, match=r"layer 'x' .*random"):
            build(net, tops)
        return
    built = build(net, tops)
    found = values_of(built, to_model(built, net), part(arrays, "in/"))
    for top, value in part(arrays, "out/").items():
        assert_close(found[top], value, top, TOLERANCE)


# Type | its parameters | shapes of the bottoms
FORMS = """
Convolution | convolution_param { num_output: 3 kernel_size: 3 relu: true } | MAP
Convolution | convolution_param { num_output: 3 kernel_size: 3 dilation: 3 pad: 1 stride: 3 } | 2 4 4 5
Convolution | convolution_param { num_output: 4 kernel_size: 2 } | 2 3 5 5 5
Convolution | convolution_param { num_output: 4 kernel_size: 2 } | 2 3 9
ConvolutionDepthwise | convolution_param { kernel_size: 3 num_output: 4 } | MAP
DepthwiseConvolution | convolution_param { kernel_size: 3 num_output: 4 } | MAP
Deconvolution | convolution_param { num_output: 6 group: 2 kernel_size: 4 stride: 3 dilation: 2 } | MAP
InnerProduct | inner_product_param { num_output: 3 axis: 2 transpose: true } | MAP
InnerProduct | inner_product_param { num_output: 3 axis: -1 relu: true negative_slope: 2 } | MAP
InnerProduct | inner_product_param { num_output: 3 transpose: true } | MAP
ReLU6 | | MAP
ReLU6 | relu6_param { negative_slope: 0.25 } | MAP
ELU | elu_param { alpha: 1.5 lambda: 1.1 } | MAP
Axpy | | 2 4 1 1, MAP, MAP
Axpy | | 2 4, MAP, MAP
Scale | scale_param { axis: 0 } | MAP, 2 4
Bias | bias_param { axis: 0 } | MAP, 2 4
BatchNorm | batch_norm_param { eps: 0.001 } | MAP
BatchNorm | batch_norm_param { use_global_stats: false } | 4 3
BN | bn_param { slope_filler { value: 1 } eps: 0.001 } | MAP
BN | bn_param { bn_mode: INFERENCE } | MAP
BN | bn_param { bn_mode: LEARN } | MAP
Dropout | dropout_param { dropout_ratio: 0.3 scale_train: false } | MAP
SpatialDropout | | MAP
Permute | permute_param { order: 0 order: 2 order: 3 } | MAP
Reshape | reshape_param { shape { dim: 0 dim: -1 dim: 9 } } | MAP
Reshape | reshape_param { shape { dim: -1 } num_axes: 2 } | MAP
Reshape | reshape_param { pixelshuffler: 2 } | MAP
Flatten | flatten_param { axis: 0 end_axis: 1 } | MAP
Crop | crop_param { axis: 1 offset: 1 offset: 0 offset: 2 } | MAP, 2 3 6 2
ShuffleChannel | shuffle_channel_param { group: 2 } | MAP
Reorg | reorg_param { stride: 2 } | MAP
Reorg | reorg_param { stride: 2 reverse: true } | MAP
CropCenter | crop_center_param { crop_size: 0 crop_size: 1 crop_size: 2 crop_size: 0 } | MAP
Upsample | upsample_param { scale: 3 } | MAP
Interp | interp_param { height: 9 width: 4 pad_beg: -1 } | MAP
Interp | interp_param { zoom_factor: 3 } | MAP
Normalize | norm_param { across_spatial: false } | MAP
Normalize | norm_param { channel_shared: false } | MAP
PriorBox | prior_box_param { min_size: 2 aspect_ratio: 2 flip: true } | MAP, 2 3 30 40
MVN | mvn_param { across_channels: true } | 2 4 6
SPP | spp_param { pyramid_height: 3 pool: AVE } | 2 3 9 7
ArgMax | argmax_param { top_k: 3 out_max_val: true } | 2 5 3
ArgMax | argmax_param { top_k: 2 axis: -1 } | 2 5 3
Power | power_param { power: 0.5 shift: -2 scale: 0 } | 3 2
Reduction | reduction_param { operation: ASUM axis: 1 coeff: 2 } | MAP
Eltwise | eltwise_param { coeff: 1 coeff: -1 coeff: 0.5 } | MAP, MAP, MAP
"""  # noqa: E501


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("row", FORMS.strip().splitlines())
def test_other_forms(row: str, dynamic: bool) -> None:
    kind, fields, shapes = (part.strip() for part in row.split("|"))
    sizes = [
        tuple(map(int, shape.replace("MAP", "2 4 6 6").split())) for shape in shapes.split(",")
    ]
    check(f'type: "{kind}" {fields}', *sizes, dynamic=dynamic)


@given(
    method=st.sampled_from(["MAX", "AVE"]),
    size=st.tuples(st.integers(3, 11), st.integers(3, 11)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 5),
    pad=st.integers(0, 3),
    mode=st.sampled_from(["CEIL", "FLOOR"]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pooling_windows(
    method: str, size: tuple[int, int], kernel: int, stride: int, pad: int, mode: str
) -> None:
    assume(pad < kernel <= min(size) + 2 * pad)
    fields = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode}"
    check(f'type: "Pooling" pooling_param {{ {fields} }}', (1, 2, *size))


DETECTIONS = "num_classes: 4 nms_param { nms_threshold: 0.3 top_k: 6 } confidence_threshold: 0.05 "


@pytest.mark.parametrize(
    ("fields", "locations"),
    [
        (DETECTIONS + "keep_top_k: 7 code_type: CENTER_SIZE", 1),
        (DETECTIONS + "code_type: CORNER share_location: false", 4),
        (DETECTIONS + "code_type: CORNER_SIZE variance_encoded_in_target: true", 1),
        ("num_classes: 4 background_label_id: -1 keep_top_k: 5", 1),
        (DETECTIONS + "background_label_id: 1 keep_top_k: 500", 1),
        ("num_classes: 4 confidence_threshold: 2", 1),  # nothing is found
    ],
)
def test_detections(fields: str, locations: int) -> None:
    text = (
        'layer { name: "prior" type: "PriorBox" bottom: "b2" bottom: "b3" top: "prior"'
        " prior_box_param { min_size: 9 aspect_ratio: 2 variance: 0.1 } }"
        'layer { name: "x" type: "DetectionOutput" bottom: "b0" bottom: "b1" bottom: "prior"'
        f' top: "y" detection_output_param {{ {fields} }} }}'
    )
    count = 4 * 3 * 3
    shapes = [(2, count * 4 * locations), (2, count * 4), (2, 5, 4, 3), (2, 3, 30, 20)]
    model = check(text, *shapes, seed=4)
    assert [d.dim_value or None for d in dims_of(model.graph.output[0])] == [1, 1, None, 7]


def dims_of(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('type: "Scale" scale_param { axis: 0 num_axes: 1 }', (2, 4)),
        ('type: "Slice" top: "p" top: "q" slice_param { axis: 0 }', (2, 4)),
        ('type: "InnerProduct" inner_product_param { num_output: 3 axis: 0 }', (2, 4)),
        ('type: "Convolution" convolution_param { num_output: 3 axis: 0 kernel_size: 1 }', (2, 4)),
    ],
)
def test_what_fixes_the_batch(text: str, shape: tuple[int, ...]) -> None:
    check(text, shape)
    with pytest.raises(UnsupportedError, match=r"<text>:2:1.* layer 'x'|axis 0|batch"):
        check(text, shape, dynamic=True)
