"""Proposal, PSROIPooling and YOLO's detections in ONNX, against our own layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffeio
from caffeio.converters.onnx import export
from caffeio.converters.onnx.choices import Choices
from caffeio.errors import UnsupportedError
from caffeio.proto.files import read_net
from caffeio.proto.weights.load import write_caffemodel
from tests.converters.test_onnx import check, dims_of
from tests.layers.test_yolo import candidates, greedy, rows_of

ort = pytest.importorskip("onnxruntime")
NEWEST = min(22, pytest.importorskip("onnx").defs.onnx_opset_version())
INFO = np.array([[70, 90, 1.5]], np.float32)
TINY = np.array([[0.1, 0.1, 0.01]], np.float32)
PROPOSAL = (
    'type: "Proposal" proposal_param { ratio: 0.5 ratio: 1 scale: 1 scale: 3 base_size: 16'
    " feat_stride: 16 min_size: 8 pre_nms_topn: 60 post_nms_topn: 12 nms_thresh: 0.5 }"
)
PYTHON = 'type: "Python" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" PARAM }'
PARAM = "param_str: \"{'feat_stride': 16, 'scales': [1, 3], 'rpn_min_size': 20}\""


def kinds(model: Any) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("tops", ['top: "y"', 'top: "y" top: "s"'])
@pytest.mark.parametrize("images", [1, 2])
def test_proposal(images: int, tops: str) -> None:
    shapes = [(images, 8, 5, 6), (images, 16, 5, 6), (1, 3)]
    for seed in range(4):
        model = check(f"{PROPOSAL} {tops}", *shapes, seed=seed, given={"b2": INFO})
    assert "NonMaxSuppression" in kinds(model)
    (regions,) = [item for item in model.graph.output if item.name == "y"]
    assert [d.dim_value or None for d in dims_of(regions)] == [None, 5]
    check(f"{PROPOSAL} {tops}", *shapes, given={"b2": INFO * TINY})


@pytest.mark.parametrize("tops", ['top: "y"', 'top: "y" top: "s"'])
def test_the_python_proposal(tops: str) -> None:
    text = PYTHON.replace("PARAM", PARAM)
    shapes = [(1, 12, 4, 5), (1, 24, 4, 5), (1, 3)]
    for seed in range(4):
        check(f"{text} {tops}", *shapes, seed=seed, given={"b2": INFO})


@pytest.mark.parametrize("images", [1, 3])
def test_psroi_pooling(images: int) -> None:
    text = 'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 0.0625 output_dim: 3 group_size: 2 }'  # noqa: E501
    rng = np.random.default_rng(3)
    rois = rng.uniform(-20, 180, (9, 5)).astype(np.float32)
    rois[:, 0] = np.arange(9) % images
    rois[:4, 1:] = [[8, 8, 40, 24], [0.5, 2.5, 4.5, 6.5], [90, 90, 90, 90], [500, 0, 600, 10]]
    model = check(text, (images, 12, 7, 9), (9, 5), given={"b1": rois})
    assert "Einsum" in kinds(model)


# What nets do with the maps of regions, most of the layers that R-FCN and Faster R-CNN have there.
BEHIND = {
    "pool": 'type: "Pooling" pooling_param { pool: AVE kernel_size: 2 }',
    "global": 'type: "Pooling" pooling_param { pool: MAX global_pooling: true }',
    "product": 'type: "InnerProduct" inner_product_param { num_output: 5 }',
    "convolution": 'type: "Convolution" convolution_param { num_output: 5 kernel_size: 2 }',
    "softmax": 'type: "Softmax"',
    "reshape": 'type: "Reshape" reshape_param { shape { dim: -1 dim: 6 } }',
    "batch_norm": 'type: "BatchNorm"',
    "argmax": 'type: "ArgMax" argmax_param { axis: 1 }',
}
POOLED = {
    "PSROIPooling": "psroi_pooling_param { spatial_scale: 0.0625 output_dim: 3 group_size: 2 }",
    "ROIPooling": "roi_pooling_param { spatial_scale: 0.0625 pooled_h: 2 pooled_w: 2 }",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("pooled", POOLED)
def test_no_region_at_all(pooled: str, behind: str) -> None:
    """onnxruntime's Einsum ends the process where it gets no row: such a model has a row more."""
    proposal = PYTHON.replace("PARAM", PARAM)
    text = f"""
layer {{ name: "r" bottom: "b0" bottom: "b1" bottom: "b2" top: "r" {proposal} }}
layer {{ name: "q" bottom: "b3" bottom: "r" top: "q" type: "{pooled}" {POOLED[pooled]} }}
layer {{ name: "y" bottom: "q" top: "y" {BEHIND[behind]} }}"""
    shapes = [(1, 12, 4, 5), (1, 24, 4, 5), (1, 3), (1, 12, 4, 5)]
    none = np.array([[70, 90, 1e6]], np.float32)  # no box is as large as is wanted
    check(text, *shapes, given={"b2": none})
    model = check(text, *shapes, given={"b2": INFO})
    rows = [d.dim_value or None for d in dims_of(model.graph.output[0])]
    assert rows[0] is None


YOLO = "num_classes: 3 num_box: 2 biases: 1 biases: 1.5 biases: 3 biases: 2 CONF nms_threshold: 0.3"


@pytest.mark.parametrize("least", [0.05, 0.2, 2.0])
@pytest.mark.parametrize("images", [1, 2])
def test_yolo_detections(images: int, least: float) -> None:
    fields = YOLO.replace("CONF", f"confidence_threshold: {least}")
    shapes = [(images, 16, 4, 4), (images, 16, 2, 2)]
    text = f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {fields} }}'
    for seed in range(3):
        model = check(text, *shapes, seed=seed)
    check(text, shapes[0])
    assert [d.dim_value or None for d in dims_of(model.graph.output[0])] == [1, 1, None, 7]
    fields = fields.replace("biases: 1.5", "biases: 20") + " mask_group_num: 2 mask: 0 mask: 1"
    fields += " mask: 1 mask: 0 anchors_scale: 16 anchors_scale: 32"
    text = f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {fields} }}'
    for seed in range(3):
        check(text, (images, 16, 3, 4), (images, 16, 6, 8), seed=seed)


def test_a_net_of_yolo_2_from_its_training_net(tmp_path: Path) -> None:
    """RegionLoss leaves the head; YoloDetectionOutput behind it finds what float64 loops find."""
    head = (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 dim: 4 '
        'dim: 4 } } }\nlayer { name: "head" type: "Convolution" bottom: "data" top: "head" '
        "convolution_param { num_output: 16 kernel_size: 1 weight_filler { type: 'gaussian' "
        "std: 0.5 } } }\n"
    )
    label = 'layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 8 } } }\n'  # noqa: E501
    loss = (
        'layer { name: "loss" type: "RegionLoss" bottom: "head" bottom: "t" top: "loss" '
        "region_loss_param { side: 4 num_class: 3 num: 2 coords: 4 biases: 1 biases: 1.5 biases: 3 "
        "biases: 2 } }\n"
    )
    found = (
        'layer { name: "found" type: "YoloDetectionOutput" bottom: "head" top: "found" '
        f"yolo_detection_output_param {{ {YOLO.replace('CONF', 'confidence_threshold: 0.2')} }} }}"
    )
    files = tmp_path / "train.prototxt", tmp_path / "use.prototxt"
    files[0].write_text(head + label + loss)
    files[1].write_text(head + found)
    net = caffeio.load_net(files[1], seed=1)
    weights = {"head": [p.detach().numpy() for p in net.params["head"]]}
    path = tmp_path / "w.caffemodel"
    write_caffemodel(path, read_net(files[0]).message, weights, dialect="intel")
    x = np.random.default_rng(0).normal(size=(1, 6, 4, 4)).astype(np.float32)
    out = []
    for file in files:
        notes = export.export_onnx(file, path, tmp_path / "m.onnx")
        session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        out.append(session.run(None, {"data": x})[0])
        if file is files[0]:
            assert "RegionLoss 'loss' left out" in notes
    boxes = candidates(out[0].astype(np.float64), 4)
    rows = rows_of(greedy(boxes, 0.3))
    assert 3 < len(rows) < len(boxes)
    assert np.abs(out[1][0, 0] - rows).max() < 1e-5


def test_yolo_takes_any_batch() -> None:
    """All images are suppressed together, as in the source."""
    fields = YOLO.replace("CONF", "confidence_threshold: 0.2")
    check(
        f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {fields} }}',
        (2, 16, 4, 4),
        dynamic=True,
    )


def test_regions_of_other_opsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for opset 12 and newest; folded too."""
    whole = export.to_model
    for choices in (Choices(opset=12), Choices(opset=NEWEST, fold=True), Choices(half=True)):

        def to_model(built: Any, net: Any, chosen: Choices = choices) -> Any:
            export.finish(built, net, chosen)
            return whole(built, net)

        monkeypatch.setattr("tests.converters.test_onnx.to_model", to_model)
        if not choices.half:
            test_psroi_pooling(1)
        test_yolo_detections(1, 0.2)
        test_proposal(1, 'top: "y"')
        test_the_python_proposal('top: "y" top: "s"')
    monkeypatch.setattr(
        "tests.converters.test_onnx.to_model",
        lambda built, net: export.finish(built, net, Choices(opset=11)),
    )
    with pytest.raises(UnsupportedError, match=r"layer 'x' .*Einsum, which is there from opset 12"):
        test_psroi_pooling(1)
