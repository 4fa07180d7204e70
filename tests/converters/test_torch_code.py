"""Written PyTorch modules run without caffeio and agree with real Caffe and with our net."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from caffeio import load_net
from caffeio.cli.main import main
from caffeio.converters.torch_code.module import ModuleWriter, WrittenModule
from caffeio.converters.torch_code.text import FORMS, form_of, identifier, literal, python_number
from caffeio.converters.verify.samples import sample_inputs
from caffeio.errors import UnsupportedError
from caffeio.layers import LayerType, known_types, lookup
from caffeio.net import Net
from tests import warm
from tests.converters.onnx.test_regions import INFO, PARAM, PROPOSAL, PYTHON, YOLO
from tests.converters.test_onnx import CASES, RANDOM, WITHOUT_FORM, case_net
from tests.converters.test_onnx import FORMS as ROWS
from tests.harness import TOLERANCE, assert_close, golden, part
from tests.paths import ROOT

IMPORTS_US = r"\s*(from|import) +caffeio"


def module_of(written: WrittenModule) -> nn.Module:
    """The module as its own source makes it, with its tensors."""
    tree = ast.parse(written.source)
    assert "caffeio" not in {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    space: dict[str, Any] = {"__name__": "written", "__file__": "written.py"}
    exec(compile(tree, "written.py", "exec"), space)  # noqa: S102 - as importing it would
    module: nn.Module = space[written.name]()
    module.load_state_dict(dict(written.tensors))
    return module.eval()


def run(written: WrittenModule, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = module_of(written)(*(torch.from_numpy(inputs[n].copy()) for n in written.inputs))
    tops = found if isinstance(found, tuple) else (found,)
    return {name: top.detach().numpy() for name, top in zip(written.outputs, tops, strict=True)}


def written_of(net: Net, outputs: list[str] | None = None) -> WrittenModule:
    return ModuleWriter(net, outputs or []).run("A test.")


def net_of(text: str, *shapes: tuple[int, ...], seed: int = 0) -> Net:
    """A net of one layer (or of several), with random blobs."""
    names = " ".join(f'top: "b{i}"' for i in range(len(shapes)))
    given = " ".join(f"shape {{ {' '.join(f'dim: {n}' for n in s)} }}" for s in shapes)
    if not text.lstrip().startswith("layer"):
        bottoms = "".join(f'bottom: "b{i}" ' for i in range(len(shapes)))
        tops = "" if "top:" in text else 'top: "y"'
        text = f'layer {{ name: "x" {bottoms} {tops} {text} }}'
    head = f'layer {{ name: "in" type: "Input" {names} input_param {{ {given} }} }}\n'
    net = load_net(head + text)
    draws = np.random.default_rng(seed)
    with torch.no_grad():
        for step in net.steps:
            for blob in step.layer.blobs:
                blob.copy_(torch.from_numpy(draws.uniform(0.2, 1, blob.shape).astype(np.float32)))
    return net


def check(
    text: str, *shapes: tuple[int, ...], seed: int = 0, given: dict[str, np.ndarray] | None = None
) -> WrittenModule:
    net = net_of(text, *shapes, seed=seed)
    inputs = {**sample_inputs(net, seed), **(given or {})}
    net.reset_state()
    with torch.no_grad():
        net({name: torch.from_numpy(value) for name, value in inputs.items()})
    written = written_of(net)
    for blob, value in run(written, inputs).items():
        assert_close(value, net.blobs[blob].numpy(), blob, TOLERANCE)
    return written


@pytest.mark.parametrize("path", CASES)
def test_layer(path: Path) -> None:
    arrays = golden(path)
    net = case_net(path, arrays)
    tops = list(next(step.tops for step in net.steps if step.node.name == "x"))
    if f"{path.parent.name}/{path.stem}" in RANDOM:
        with pytest.raises(UnsupportedError, match=r"layer 'x' .*random"):
            written_of(net, tops)
        return
    found = run(written_of(net, tops), part(arrays, "in/"))
    for top, value in part(arrays, "out/").items():
        assert_close(found[top], value, top, TOLERANCE)


@pytest.mark.parametrize("row", ROWS.strip().splitlines())
def test_other_forms(row: str) -> None:
    kind, fields, shapes = (part.strip() for part in row.split("|"))
    sizes = [tuple(map(int, s.replace("MAP", "2 4 6 6").split())) for s in shapes.split(",")]
    check(f'type: "{kind}" {fields}', *sizes)


def test_every_type_with_an_onnx_form_has_one() -> None:
    lacking = set()
    for kind in known_types():
        cls = lookup(kind, kind)
        if cls.onnx is LayerType.onnx or cls.is_source or kind == "Python":
            continue
        if not any(base in FORMS for base in cls.__mro__):
            lacking.add(kind)
    assert not lacking
    assert not {cls.__name__ for cls in FORMS} & WITHOUT_FORM
    assert form_of(net_of('type: "ReLU"', (2, 3)).layers[1]) is not None


@pytest.mark.parametrize("method", ["MAX", "AVE", "STOCHASTIC"])
@pytest.mark.parametrize("window", [(3, 2, 0), (2, 3, 0), (3, 2, 2), (4, 3, 1), (1, 2, 0)])
@pytest.mark.parametrize("mode", ["CEIL", "FLOOR"])
def test_pooling_windows(method: str, window: tuple[int, int, int], mode: str) -> None:
    kernel, stride, pad = window
    if method == "STOCHASTIC" and pad:
        pad = 0
    fields = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode}"
    for size in ((7, 9), (8, 5)):
        check(f'type: "Pooling" pooling_param {{ {fields} }}', (1, 2, *size))


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
    check(text, (2, 3, 7, 9))


@pytest.mark.parametrize("images", [1, 2])
def test_regions_of_forks(images: int) -> None:
    """Proposal, PSROIPooling and YOLO's detections: the layers' own functions, or helpers."""
    info = {"b2": INFO}
    for tops in ('top: "y"', 'top: "y" top: "s"'):
        shapes = [(images, 8, 5, 6), (images, 16, 5, 6), (1, 3)]
        check(f"{PROPOSAL} {tops}", *shapes, seed=1, given=info)
        shapes = [(1, 12, 4, 5), (1, 24, 4, 5), (1, 3)]
        check(f"{PYTHON.replace('PARAM', PARAM)} {tops}", *shapes, seed=1, given=info)
    rois = np.random.default_rng(3).uniform(-20, 180, (9, 5)).astype(np.float32)
    rois[:, 0] = np.arange(9) % images
    fields = "spatial_scale: 0.0625 output_dim: 3 group_size: 2"
    text = f'type: "PSROIPooling" psroi_pooling_param {{ {fields} }}'
    check(text, (images, 12, 7, 9), (9, 5), given={"b1": rois})
    for least in (0.05, 2.0):
        fields = YOLO.replace("CONF", f"confidence_threshold: {least}")
        maps = [(images, 16, 4, 4), (images, 16, 2, 2)]
        check(f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {fields} }}', *maps)
        fields += " mask_group_num: 2 mask: 0 mask: 1 mask: 1 mask: 0"
        fields += " anchors_scale: 16 anchors_scale: 32"
        check(f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {fields} }}', *maps)


DETECTIONS = "num_classes: 4 nms_param { nms_threshold: 0.3 top_k: 6 } confidence_threshold: 0.05 "


@pytest.mark.parametrize(
    ("fields", "locations"),
    [
        (DETECTIONS + "keep_top_k: 7 code_type: CENTER_SIZE", 1),
        (DETECTIONS + "code_type: CORNER share_location: false", 4),
        ("num_classes: 4 background_label_id: -1 keep_top_k: 5", 1),
        ("num_classes: 4 confidence_threshold: 2", 1),  # nothing is found
    ],
)
def test_detections(fields: str, locations: int) -> None:
    """The helpers are the functions of the layer; the module can be exported."""
    text = (
        'layer { name: "prior" type: "PriorBox" bottom: "b2" bottom: "b3" top: "prior"'
        " prior_box_param { min_size: 9 aspect_ratio: 2 variance: 0.1 clip: true } }"
        'layer { name: "x" type: "DetectionOutput" bottom: "b0" bottom: "b1" bottom: "prior"'
        f' top: "y" detection_output_param {{ {fields} }} }}'
    )
    count = 4 * 3 * 3
    shapes = [(2, count * 4 * locations), (2, count * 4), (2, 5, 4, 3), (2, 3, 30, 20)]
    check(text, *shapes, seed=4)


CHAIN = """
layer { name: "conv1/3x3 s2" type: "Convolution" bottom: "b0" top: "conv1/3x3 s2"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv1/3x3 s2" top: "conv1/3x3 s2"
  batch_norm_param { use_global_stats: true } }
layer { name: "forward" type: "Scale" bottom: "conv1/3x3 s2" top: "conv1/3x3 s2"
  scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv1/3x3 s2" top: "conv1/3x3 s2" }
layer { name: "drop" type: "Dropout" bottom: "conv1/3x3 s2" top: "drop" }
layer { name: "train" type: "InnerProduct" bottom: "drop" top: "self"
  inner_product_param { num_output: 3 } }
layer { name: "0\\"); import os #" type: "Power" bottom: "self" top: "lambda"
  power_param { scale: 0.1 shift: -1 } }
"""


def test_it_reads_as_if_written_by_hand() -> None:
    """In-place layers share a line; names that Python has otherwise are changed."""
    written = check(CHAIN, (2, 3, 9, 9))
    body = written.source.split("def forward", 1)[1].split("def load_model")[0].strip().splitlines()
    assert [line.strip() for line in body] == [
        "(self, b0: Tensor) -> Tensor:",
        "conv1_3x3_s2 = F.relu(self.bn(self.conv1_3x3_s2(b0)))",
        "drop = F.dropout(conv1_3x3_s2, 0.5, self.training)",
        "self_ = self.train_(drop.flatten(1))",
        "lambda_ = self_ * 0.1 - 1.0",
        "return lambda_",
    ]
    assert "self.conv1_3x3_s2 = nn.Conv2d(3, 4, 3, stride=2, bias=False)" in written.source
    assert "self.bn = nn.BatchNorm2d(4, momentum=0.001)" in written.source
    assert "import os" not in written.source


def test_shared_blobs_are_one_parameter() -> None:
    layers = [
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{a}" top: "{b}"'
        ' param { name: "w" }'
        " convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false } }"
        for name, a, b in (("one", "b0", "m"), ("two", "m", "y"))
    ]
    written = check("\n".join(layers), (1, 2, 5, 5))
    module = module_of(written)
    assert len(list(module.parameters())) == 1
    assert "self.two.weight = self.one.weight" in written.source


def test_values_that_live_on_under_another_name() -> None:
    """A blob that is changed in place while a Split's other top is still read."""
    text = (
        'layer { name: "s" type: "Split" bottom: "b0" top: "p" top: "q" }'
        'layer { name: "r" type: "Power" bottom: "p" top: "p2" power_param { scale: 2 } }'
        'layer { name: "e" type: "Eltwise" bottom: "p2" bottom: "q" top: "y" }'
    )
    check(text, (2, 3))


def test_names_and_numbers() -> None:
    assert [identifier(n) for n in ("a/b", "3x3", "self", "max", "größe", "")] == [
        "a_b", "n3x3", "self_", "max_", "gr__e", "x",
    ]  # fmt: skip
    assert [python_number(v) for v in (float(np.float32(1e-5)), 0.5, 3, float("inf"), 0.0)] == [
        "1e-05", "0.5", "3", 'float("inf")', "0.0",
    ]  # fmt: skip
    assert literal((1,)) == "(1,)" and literal([0.25, True]) == "[0.25, True]"


def test_a_layer_without_a_form_is_named(tmp_path: Path) -> None:
    text = (
        'layer { name: "in" type: "Input" top: "a" top: "l" input_param {'
        " shape { dim: 2 dim: 3 } shape { dim: 2 } } }\n"
        'layer { name: "z" type: "Accuracy" bottom: "a" bottom: "l" top: "y" }'
    )
    (tmp_path / "n.prototxt").write_text(text)
    message = r":2:1: layer 'z' \(type Accuracy\) has no PyTorch form"
    with pytest.raises(UnsupportedError, match=f"<text>{message}"):
        written_of(load_net(text), ["y"])


@pytest.mark.parametrize("name", ["vgg_like", "googlenet_like"])
def test_command(name: str, tmp_path: Path) -> None:
    """The file runs in a process that cannot import caffeio."""
    path, out = ROOT / "tests" / "nets" / f"{name}.prototxt", tmp_path / "net.py"
    net = load_net(path, seed=1)
    net.save(tmp_path / "w.caffemodel")
    args = ["convert", str(path), str(tmp_path / "w.caffemodel"), str(out)]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "compared with the net as given" in result.output
    assert "largest relative difference against the module" in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "net.py",
        "net.safetensors",
        "w.caffemodel",
    ]
    pytest.importorskip("safetensors.torch")
    code = (
        "import json, sys\n"
        "for n in [*sys.modules, 'caffeio']:\n"
        "    if n.partition('.')[0] == 'caffeio': sys.modules[n] = None\n"
        "import torch, net\n"
        f"x = torch.linspace(-1, 1, {np.prod(net.blob_shapes['data'][1:])})"
        f".reshape(1, *{net.blob_shapes['data'][1:]})\n"
        "y = net.load_model()(x)\n"
        "print(json.dumps((y if isinstance(y, tuple) else (y,))[0].flatten().tolist()))"
    )
    done = subprocess.run(
        **warm.command("-c", code), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    x = torch.linspace(-1, 1, int(np.prod(net.blob_shapes["data"][1:])))
    x = x.reshape(1, *net.blob_shapes["data"][1:])
    with torch.no_grad():
        net({"data": x, "label": torch.zeros(1)})
    logits = [s.bottoms[0] for s in net.steps if s.node.type == "SoftmaxWithLoss"]
    expected = torch.softmax(
        net.blobs[logits[-1].partition("_")[0] if logits[-1] not in net.blobs else logits[-1]], 1
    )
    assert_close(np.array(json.loads(done.stdout)), expected.flatten().numpy(), "prob", 1e-5)
    again = CliRunner().invoke(main, args)
    assert again.exit_code == 0, again.output  # its own product is replaced
    plain = [
        "convert",
        str(path),
        str(tmp_path / "w.caffemodel"),
        str(tmp_path / "net.safetensors"),
    ]
    refused = CliRunner().invoke(main, plain)  # the module needs its own weights
    assert refused.exit_code == 2 and "--force" in refused.output
    out.write_text("print('mine')\n")
    refused = CliRunner().invoke(main, args)
    assert refused.exit_code == 2 and "--force" in refused.output
    assert out.read_text() == "print('mine')\n"


def test_program(tmp_path: Path) -> None:
    """A .pt2 needs no caffeio, and is found wrong if it computes something else."""
    path = ROOT / "tests" / "nets" / "googlenet_like.prototxt"
    net = load_net(path, seed=1)
    net.save(tmp_path / "w.caffemodel")
    args = ["convert", str(path), str(tmp_path / "w.caffemodel"), str(tmp_path / "net.pt2")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "largest relative difference against the program" in result.output
    assert CliRunner().invoke(main, args).exit_code == 0  # its own product is replaced
    program = torch.export.load(tmp_path / "net.pt2")
    assert set(program.state_dict) == set(net.state_dict())
