"""Exported models run in onnxruntime and agree with real Caffe's arrays and with our net."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caffeio.converters.deploy.deploy_net import DeployOptions, load_deploy_net
from caffeio.converters.onnx.build import Built, build
from caffeio.converters.onnx.export import export_onnx, to_model, verify_onnx
from caffeio.converters.onnx.verify import check_onnx
from caffeio.converters.verify.numbers import relative_difference
from caffeio.converters.verify.samples import sample_inputs
from caffeio.errors import UnsupportedError
from caffeio.layers import LayerType, known_types, lookup
from caffeio.net import Net, load_net
from caffeio.net.graph import build_graph
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import load_weights
from tests.harness import TOLERANCE, assert_close, golden, part
from tests.paths import GOLDEN, SHARED, needs_shared

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

# Real Caffe's types without an ONNX form: losses and metrics measure, HDF5Output writes files,
# Python layers without a class of ours run the user's code.
WITHOUT_FORM = {
    "Accuracy", "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss",
    "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss", "HDF5Output", "Python",
}  # fmt: skip
SOURCES = {kind for kind in known_types() if lookup(kind, kind).is_source}
RANDOM = {"Dropout/train_scaling"}
CASES = [
    pytest.param(path, id=f"{path.parent.name}/{path.stem}")
    for path in sorted((GOLDEN / "layers").glob("*/*.prototxt"))
    if path.parent.name not in {*WITHOUT_FORM, *SOURCES, "Python", "Silence"}
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
    net = Net(build_graph(message, phase=str(arrays["phase"]))).initialize()
    step = next(step for step in net.steps if step.node.name == "x")
    with torch.no_grad():
        for key, value in part(arrays, "param/").items():
            step.layer.blobs[int(key)].copy_(torch.from_numpy(value))
    return net


def values_of(built: Built, model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = run(model, inputs)
    return {blob: found[name] for blob, name in built.outputs.items()}


def check(
    text: str,
    *shapes: tuple[int, ...],
    seed: int = 0,
    dynamic: bool = False,
    given: dict[str, np.ndarray] | None = None,
) -> Any:
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
    inputs = {**sample_inputs(net, seed), **(given or {})}
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
        net({k: torch.from_numpy(v) for k, v in inputs.items()})
    for blob, value in values_of(built, model, inputs).items():
        assert_close(value, net.blobs[blob].numpy(), blob, TOLERANCE)


def test_types_without_form() -> None:
    kinds = {folder.name for folder in (GOLDEN / "layers").iterdir()}
    assert {kind for kind in kinds if lookup(kind, kind).onnx is LayerType.onnx} == WITHOUT_FORM
    text = (
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "x" type: "EuclideanLoss" bottom: "a" bottom: "a" top: "y" }'
    )
    with pytest.raises(UnsupportedError, match=r"<text>:2:1: layer 'x': type EuclideanLoss has no"):
        build(load_net(text), ["y"])


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


@pytest.mark.parametrize("method", ["AVE", "STOCHASTIC"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (1, 3), (2, 3), (3, 4)])
def test_windows_behind_the_bottom(method: str, kernel: int, stride: int) -> None:
    """No padding in front of a pool is as large as its kernel: onnxruntime 1.21 refuses that."""
    fields = f"pool: {method} kernel_size: {kernel} stride: {stride}"
    size = kernel + stride * 2 - 1  # the third window would begin behind it
    model = check(f'type: "Pooling" pooling_param {{ {fields} }}', (1, 2, size, 9))
    values = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "AveragePool" and node.input[0] in makers:
            maker = makers[node.input[0]]
            if maker.op_type == "Pad":
                assert values[maker.input[1]].max() < kernel


def test_regions_and_masks() -> None:
    rois = np.array([[0, 1, 2, 20, 11], [1, 0, 0, 3, 50], [1, 30, 30, 40, 40]], np.float32)
    fields = "pooled_h: 2 pooled_w: 3 spatial_scale: 0.25"
    text = f'type: "ROIPooling" roi_pooling_param {{ {fields} }}'
    check(text, (2, 3, 7, 6), (3, 5), given={"b1": rois})
    text = (
        'layer { name: "p" type: "Pooling" bottom: "b0" top: "p" top: "mask"'
        " pooling_param { kernel_size: 3 stride: 2 } }"
        'layer { name: "x" type: "Upsample" bottom: "p" bottom: "mask" top: "y"'
        " upsample_param { upsample_h: 7 upsample_w: 9 } }"
    )
    assert_zeros_are_told(check(text, (2, 3, 7, 9)))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ('type: "Axpy"', [(2, 4), (2, 4, 6, 6), (2, 4, 6, 6)]),
        ('type: "Axpy"', [(2, 4, 1, 1), (2, 4, 5), (2, 4, 5)]),
        ('type: "Scale"', [(2, 4, 6, 6), (4,)]),
        ('type: "Bias" bias_param { axis: 0 }', [(2, 4, 6, 6), (2, 4)]),
    ],
)
def test_axes_of_operands_are_added_by_reshape(text: str, shapes: list[tuple[int, ...]]) -> None:
    """OpenCV 4 reads no Unsqueeze with several axes."""
    kinds = {node.op_type for node in check(text, *shapes).graph.node}
    assert "Reshape" in kinds
    assert not kinds & {"Unsqueeze", "Squeeze"}


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
    assert_zeros_are_told(model)


def assert_zeros_are_told(model: Any) -> None:
    """OpenCV 5 stops at a ConstantOfShape that leaves its value to ONNX's default."""
    nodes = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    assert nodes
    for node in nodes:
        (value,) = [a.t for a in node.attribute if a.name == "value"]
        assert onnx.numpy_helper.to_array(value).tolist() == [0.0]


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


def golden_nets() -> list[Any]:
    return [pytest.param(p, id=p.parent.name) for p in sorted(GOLDEN.glob("nets/*/*.caffemodel"))]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("weights", golden_nets())
def test_golden_nets(weights: Path, dynamic: bool, tmp_path: Path) -> None:
    net = weights.parent / "net.prototxt"
    out = tmp_path / "net.onnx"
    export_onnx(net, weights, out, dynamic_batch=dynamic)
    onnx.checker.check_model(str(out), full_check=True)
    assert verify_onnx(net, weights, out, batch=5) <= TOLERANCE
    model = onnx.load(out)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["caffe:sha256:net"] == hashlib.sha256(net.read_bytes()).hexdigest()
    assert props["caffe:sha256:weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert props["caffe:profile"]
    assert_shapes_are_told(model, net, dynamic)


def assert_shapes_are_told(model: Any, net: Path, dynamic: bool) -> None:
    """Blobs that are no ends have their shapes, which are those of shape inference."""
    told = {v.name: [d.dim_value for d in dims_of(v)] for v in model.graph.value_info}
    blobs = {top for layer in read_net(net).message.layer for top in layer.top}
    ends = {v.name for v in (*model.graph.input, *model.graph.output)}
    made = {name for node in model.graph.node for name in node.output}
    assert told.keys() >= (blobs & made) - ends
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in inferred.graph.value_info:
        if value.name in told and not dynamic:
            assert told[value.name] == [d.dim_value for d in dims_of(value)], value.name


def test_outputs_are_real_caffes() -> None:
    """The residual net in TEST: every blob that the model has, against Caffe's own values."""
    folder = GOLDEN / "nets" / "residual_inplace"
    arrays = dict(np.load(folder / "golden_test.npz"))
    shape = arrays["in/data"].shape if "in/data" in arrays else arrays["blob/data"].shape
    options = DeployOptions(input_shapes={"data": shape})
    net, _ = load_deploy_net(folder / "net.prototxt", folder / "weights.caffemodel", options)
    blobs = [b for b in net.blob_shapes if f"blob/{b}" in arrays and b not in ("data", "label")]
    built = build(net, blobs)
    found = values_of(built, to_model(built, net), {"data": arrays["blob/data"]})
    assert len(found) > 5
    for blob, value in found.items():
        assert_close(value, arrays[f"blob/{blob}"], blob, 5e-5)


CORPUS = SHARED / "corpus" / "caffemodels"
MODELS = json.loads((CORPUS / "index.json").read_text()) if CORPUS.exists() else []


@needs_shared
@pytest.mark.parametrize("entry", [pytest.param(e, id=e["id"]) for e in MODELS if "prototxt" in e])
def test_corpus(entry: dict[str, Any], tmp_path: Path) -> None:
    folder, out = CORPUS / entry["id"], tmp_path / "m.onnx"
    files = folder / entry["prototxt"], folder / entry["model"]
    export_onnx(*files, out, input_shapes=entry["inputs"])
    onnx.checker.check_model(str(out), full_check=True)
    for row in check_onnx(*files, out).rows:  # more only where float32 itself is as far from double
        assert row.relative <= max(TOLERANCE, min(10 * (row.rounding or 0), 1e-4)), row
    theirs = dict(np.load(folder / "opencv.npz")) if entry["opencv"] else {}
    if entry["id"] == "c2o_log8":  # logarithms of negative numbers: OpenCV finds some, Caffe nan
        return
    if len(part(theirs, "out/")) == 1:  # OpenCV's Winograd convolutions are less exact
        (expected,) = part(theirs, "out/").values()
        (found,) = run(onnx.load(out), part(theirs, "in/")).values()
        assert relative_difference(found, expected) <= 5e-5


def test_names(tmp_path: Path) -> None:
    """Values are called as blobs, nodes as layers, initializers "<layer>.<blob>"."""
    folder = GOLDEN / "nets" / "residual_inplace"
    export_onnx(folder / "net.prototxt", folder / "weights.caffemodel", tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    nodes = {node.name: node for node in graph.node}
    assert [nodes[n].op_type for n in ("conv1", "bn_conv1", "conv1_relu")] == [
        "Conv", "BatchNormalization", "Relu",
    ]  # fmt: skip
    assert list(nodes["conv1_relu"].output) == ["conv1"]  # the last value of the in-place chain
    assert list(nodes["conv1"].output) == ["conv1/Conv"]
    assert "scale_conv1" not in nodes
    assert {"conv1.weight", "bn_conv1.mean", "bn_conv1.variance", "scale_conv1.scale"} <= {
        tensor.name for tensor in graph.initializer
    }


def test_shared_blobs_are_one_initializer(tmp_path: Path) -> None:
    folder = GOLDEN / "nets" / "siamese_shared"
    export_onnx(folder / "net.prototxt", folder / "weights.caffemodel", tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    names = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    assert names == ["conv1.weight", "conv1.weight"]


def test_external_data(tmp_path: Path) -> None:
    folder = GOLDEN / "nets" / "residual_inplace"
    files = folder / "net.prototxt", folder / "weights.caffemodel"
    export_onnx(*files, tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").stat().st_size > 1000
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert verify_onnx(*files, tmp_path / "m.onnx") <= TOLERANCE


def test_an_input_that_is_changed_in_place_keeps_its_name(tmp_path: Path) -> None:
    text = (
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }'
        'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }'
    )
    out = tmp_path / "m.onnx"
    export_onnx(text, None, out)
    model = onnx.load(out)
    assert [i.name for i in model.graph.input] == ["a"]
    assert [o.name for o in model.graph.output] == ["r/Relu"]
    assert verify_onnx(text, None, out) == 0


def test_verification_finds_other_weights(tmp_path: Path) -> None:
    folder = GOLDEN / "nets" / "frozen_layers"
    out = tmp_path / "m.onnx"
    export_onnx(folder / "net.prototxt", folder / "weights.caffemodel", out)
    weights = load_weights(folder / "weights.caffemodel")
    model = onnx.load(out)
    model.graph.initializer[0].raw_data = weights["conv1"][0].tobytes()[::-1]
    onnx.save(model, out)
    assert not verify_onnx(folder / "net.prototxt", weights, out) <= 1e-4
    text = (
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }'
        'layer { name: "p" type: "Power" bottom: "a" top: "b" power_param { power: -1 scale: 0 } }'
    )
    export_onnx(text, None, out)
    with pytest.raises(UnsupportedError, match="no finite number"):
        verify_onnx(text, None, out)


def test_a_batch_norm_that_is_wanted_is_not_merged() -> None:
    text = (
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }'
        'layer { name: "bn" type: "BatchNorm" bottom: "a" top: "b" }'
        'layer { name: "s" type: "Scale" bottom: "b" top: "c" scale_param { bias_term: true } }'
    )
    net = load_net(text)
    net.layers[1].blobs[2].data.fill_(2.0)
    inputs = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    for wanted, kinds in ((["b", "c"], ["BatchNormalization", "Mul", "Add"]), (["c"], None)):
        built = build(net, wanted)
        model = to_model(built, net)
        compare_run(net, built, model, inputs)
        found = [node.op_type for node in model.graph.node]
        assert found == (kinds or ["BatchNormalization"])


def test_indicator_is_a_constant() -> None:
    text = (
        'layer { name: "i" type: "ContinuationIndicator" bottom: "b0" top: "i"'
        " continuation_indicator_param { time_step: 4 axis: 1 } }"
        'layer { name: "x" type: "Eltwise" bottom: "i" bottom: "b1" top: "y" }'
    )
    check(text, (4, 3, 5), (4, 3))
    with pytest.raises(UnsupportedError, match=r"layer 'i' .*not fixed"):
        check(text, (4, 3, 5), (4, 3), dynamic=True)


def test_the_error_names_the_blobs_at_which_to_cut() -> None:
    text = (
        'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }'
        'layer { name: "p" type: "TanH" bottom: "a" top: "p" }'
        'layer { name: "q" type: "AbsVal" bottom: "a" top: "q" }'
        'layer { name: "x" type: "EuclideanLoss" bottom: "p" bottom: "q" top: "y" }'
    )
    net = load_net(text)
    with pytest.raises(UnsupportedError, match=r"--output-blob p --output-blob q$"):
        build(net, ["y"])
    assert set(build(net, ["p", "q"]).outputs) == {"p", "q"}


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Slice" top: "z" slice_param { axis: 1 slice_point: 1 }',
        'type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }',
        'type: "Upsample" upsample_param { scale: 2 }',
        'type: "Pooling" pooling_param { kernel_size: 3 pad: 1 pool: AVE }',
        'type: "Interp" interp_param { zoom_factor: 2 }',
        'type: "Crop" bottom: "b" crop_param { axis: 2 offset: 1 }',
        'type: "Tile" tile_param { tiles: 2 }',
        'type: "Reduction" reduction_param { axis: 1 }',
    ],
)
def test_runtimes_read_sizes_beside_external_weights(layer: str, tmp_path: Path) -> None:
    """onnxruntime infers shapes before it reads the other file."""
    shape = "input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } }"
    text = (
        f'layer {{ name: "in" type: "Input" top: "a" {shape} }}\n'
        f'layer {{ name: "in2" type: "Input" top: "b" {shape.replace("6", "4")} }}\n'
        f'layer {{ name: "x" bottom: "a" top: "y" {layer} }}'
    )
    export_onnx(text, None, tmp_path / "m.onnx", external_data=True)
    ort = pytest.importorskip("onnxruntime")
    ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
