"""Well-known nets, small: both of torch's exporters, onnxruntime's numbers, and OpenCV's reader."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import caffeio
from caffeio.converters.from_onnx.compile import Compiled, compile_model
from caffeio.converters.from_onnx.torch_export import by_torchscript, model_of_module
from caffeio.converters.from_onnx.write import write_files
from caffeio.errors import CaffeIOError
from caffeio.net.net import load_net
from tests.converters.from_onnx.helpers import NEAR, Of, compiled, export, kinds
from tests.converters.from_onnx.nets import NETS, make
from tests.converters.from_onnx.test_operators import FUNCTIONS, X
from tests.paths import EXPORTS_PROGRAMS, NO_PROGRAMS, nightly

pytest.importorskip("onnxruntime")
# OpenCV's reader has no Bias, Parameter and LSTM: these nets are written for it
FOR_OPENCV = {"yolo5", "yolo8", "crnn", "paddle_ocr_rec"}
# Nets whose relatives are among SOME: each takes a second in torch's newer exporter
RELATIVES = ("resnet50", "vgg11_bn", "mobilenet_v2", "mnasnet", "squeezenet", "efficientnet",
             "regnet_y", "googlenet", "inception_v3", "unet_transpose", "unet_bilinear", "yolo8",
             "paddle_ocr_rec", "densenet", "ssdlite")  # fmt: skip
SOME = ("resnet18", "mobilenet_v3", "shufflenet_v2", "unet_resize", "yolo5", "crnn")


def outputs(result: Any) -> list[np.ndarray]:
    several = result if isinstance(result, tuple) else (result,)
    return [value.detach().numpy() for value in several]


def off(mine: np.ndarray, theirs: np.ndarray) -> float:
    assert mine.size == theirs.size
    return float(np.abs(mine.reshape(-1) - theirs.reshape(-1)).max() / np.abs(theirs).max())


def by_opencv(net: Compiled, folder: Path, x: torch.Tensor) -> list[np.ndarray]:
    write_files(net, folder / "net.caffemodel", folder / "net.prototxt", "a test")
    reader = cv2.dnn.readNetFromCaffe(str(folder / "net.prototxt"), str(folder / "net.caffemodel"))
    reader.setInput(x.numpy(), next(iter(net.inputs.values())))
    found = reader.forward([net.outputs[name] for name in net.outputs])
    return [np.asarray(value) for value in found]


@pytest.mark.parametrize("name", NETS)
def test_torchscript_export_and_opencv(name: str, tmp_path: Path) -> None:
    module, x = make(name)
    target = "opencv" if name in FOR_OPENCV else "bvlc-1.0"
    net = compiled(export(module, x), target=target)
    with torch.no_grad():
        wanted = outputs(module(x))
    for mine, theirs in zip(by_opencv(net, tmp_path, x), wanted, strict=True):
        assert off(mine, theirs) < NEAR
    ours = load_net(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    found = ours({next(iter(net.inputs.values())): x})
    for blob, theirs in zip(net.outputs.values(), wanted, strict=True):
        assert off(found[blob].detach().numpy(), theirs) < NEAR


LACKING = {"above_another", "above_numbers", "argmax", "minus_mean", "equal", "hardshrink", "masks",
           "same_as_another", "sign", "softshrink", "threshold", "where_line", "where_number",
           "where_numbers", "where_wide", "where_zero"}  # fmt: skip
QUICK = ("normalize", "norm", "slice", "max_pool_floor", "hardswish", "minimum")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in FUNCTIONS
        if name not in LACKING
    ],
)
def test_opencv_computes_every_function_that_its_table_allows(name: str, tmp_path: Path) -> None:
    module = Of(lambda m, x: FUNCTIONS[name][0](x))
    net = compile_model(export(module, X), target="opencv")
    with torch.no_grad():
        wanted = outputs(module(X))
    for mine, theirs in zip(by_opencv(net, tmp_path, X), wanted, strict=True):
        assert off(mine, theirs) < NEAR


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_kernels_over_one_row_for_opencv(
    size: tuple[int, int], stride: int, tmp_path: Path
) -> None:
    """It reads beside such a map: taps that see the padding only are left out."""
    torch.manual_seed(0)
    module, x = nn.Conv2d(8, 8, 3, stride, 1, groups=8), torch.randn(1, 8, *size)
    net = compiled(export(module, x), target="opencv")
    with torch.no_grad():
        assert off(by_opencv(net, tmp_path, x)[0], module(x).numpy()) < NEAR


@pytest.mark.parametrize("name", sorted(FOR_OPENCV))
def test_layers_of_caffe_1_0_where_opencv_has_fewer(name: str) -> None:
    net = compiled(export(*make(name)))
    assert ("LSTM" in kinds(net)) == (name in ("crnn", "paddle_ocr_rec"))


@pytest.fixture
def one_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's exporter looks all its functions up anew for every net: a fifth of its time."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return  # of another torch
    make_registry = ONNXRegistry.__dict__["from_torchlib"].__func__
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", classmethod(_kept(make_registry)))


@cache
def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    return cache(function)


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnxscript")
@pytest.mark.usefixtures("one_registry")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n, marks=() if n in SOME else (pytest.mark.slow, *([nightly] if n in RELATIVES else []))
        )
        for n in NETS
    ],
)
def test_dynamo_export(name: str) -> None:
    module, x = make(name)
    script = len(compiled(export(module, x)).layers)
    net = compiled(model_of_module(module, x))
    assert len(net.layers) <= script + 2  # the two exporters' graphs come to the same layers


@nightly
@pytest.mark.slow
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20])
@pytest.mark.parametrize("name", NETS)
def test_opsets_of_torchscript(name: str, opset: int) -> None:
    """Every opset that the older exporter writes; 17 is what the other tests use."""
    module, x = make(name)
    try:
        model = export(module, x, opset=opset)
    except Exception as error:  # noqa: BLE001  (torch's own, of several kinds)
        pytest.skip(f"torch cannot export it: {str(error).splitlines()[0][:80]}")
    assert model.opset_import[0].version == opset
    if any(node.op_type == "ConstantFill" for node in model.graph.node):
        with pytest.raises(CaffeIOError, match="ConstantFill"):  # no operator of ONNX any more
            compiled(model)
        return
    compiled(model)


@nightly
@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnxscript")
@pytest.mark.parametrize("opset", [18, 20, 21, 22, 23, 24])
@pytest.mark.parametrize("name", NETS)
def test_opsets_of_dynamo(name: str, opset: int) -> None:
    """Every opset that the newer exporter writes."""
    module, x = make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), (x,), dynamo=True, verbose=False, opset_version=opset
        )
    assert program is not None
    model = program.model_proto
    assert model.opset_import[0].version == opset
    compiled(model)


@pytest.mark.skipif(not EXPORTS_PROGRAMS, reason=NO_PROGRAMS)
def test_a_program_of_torch_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    module, x = make("squeezenet")
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "net.pt2")
    from caffeio.converters.from_onnx.load import load_model

    net = compiled(load_model(tmp_path / "net.pt2"))
    assert kinds(net).count("Convolution") == 8


def test_from_torch_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module, x = make("mobilenet_v2")
    module.train()
    module[1].eval()  # type: ignore[index]
    before = [part.training for part in module.modules()]
    net = caffeio.from_torch(module, x, caffemodel=tmp_path / "v2.caffemodel")
    assert [part.training for part in module.modules()] == before
    module.eval()
    with torch.no_grad():
        [mine] = net({"data": x}).values()
        assert off(mine.numpy(), module(x).numpy()) < NEAR
    again = load_net(tmp_path / "v2.prototxt", tmp_path / "v2.caffemodel", prepare=False)
    with torch.no_grad():
        assert torch.equal(next(iter(again({"data": x}).values())), mine)


def test_two_inputs_have_the_names_of_the_parameters() -> None:
    class Two(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left + right.relu()

    x = torch.randn(1, 2, 3, 4)
    net = caffeio.from_torch(Two(), (x, -x))
    assert net.inputs == ["left", "right"]


def test_torchscript_alone_is_enough() -> None:
    """Without onnxscript the older exporter is used."""
    module, x = make("resnet18")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = by_torchscript(module, (x,))
    assert model.graph.node
    compiled(model)
