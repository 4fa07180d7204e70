"""What PyTorch records of a net: torch.export, torch.jit.trace and torch.onnx.export."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from caffeio import load_net
from caffeio.net.net import Net
from tests.harness import assert_close
from tests.paths import ROOT

Blobs = dict[str, Tensor]
Run = Callable[[Blobs], list[Tensor]]
LSTM = """
input: "x" input_shape { dim: 5 dim: 2 dim: 3 } input: "c" input_shape { dim: 5 dim: 2 }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "c" top: "y" recurrent_param {
  num_output: 4 weight_filler { type: "xavier" } bias_filler { type: "uniform" } } }
"""


def detector() -> Net:
    """A small SSD net, two images; it finds nothing in black ones."""
    text = (ROOT / "tests" / "nets" / "ssd_like.prototxt").read_text()
    kept = [t for t in text.split("\nlayer {") if "MultiBoxLoss" not in t and "Evaluate" not in t]
    kept = [t.replace("confidence_threshold: 0.1", "confidence_threshold: 0.5") for t in kept]
    shapes = {"data": (2, 1, 32, 32), "label": (1, 1, 8, 8)}
    torch.manual_seed(1)
    return load_net("\nlayer {".join(kept), input_shapes=shapes)


def classifier() -> Net:
    """Convolutions, LRN, pooling that rounds up, a softmax."""
    text = (ROOT / "tests" / "nets" / "googlenet_like.prototxt").read_text()
    torch.manual_seed(1)
    return load_net(text)


def sequences() -> Net:
    """An LSTM."""
    return load_net(LSTM)


def inputs_of(net: Net, seed: int, scale: float = 1.0) -> Blobs:
    torch.manual_seed(seed)
    tops = [top for step in net.steps if step.layer.is_source for top in step.tops]
    inputs = {top: scale * torch.randn(net.blob_shapes[top]) for top in tops}
    inputs.update({top: torch.ones(net.blob_shapes[top]) for top in ("c", "label") if top in tops})
    return inputs


class Plain(nn.Module):
    """A net whose inputs and outputs are tensors in a row."""

    def __init__(self, net: Net, names: list[str]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(dict(zip(self.names, inputs, strict=True))).values())


def exported(net: Net, inputs: Blobs) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its graphs
        program = torch.export.export(net, (inputs,), strict=False)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        module = torch.export.load(file).module()
    return lambda blobs: list(module(blobs).values())


def traced(net: Net, inputs: Blobs) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(Plain(net, [*inputs]), tuple(inputs.values()), check_trace=False)
        file = io.BytesIO()
        torch.jit.save(module, file)
        file.seek(0)
        loaded = torch.jit.load(file)
    return lambda blobs: list(loaded(*blobs.values()))


def onnx_of(net: Net, inputs: Blobs, path: Path, **how: bool) -> Run:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript" if how["dynamo"] else "onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Plain(net, [*inputs]), tuple(inputs.values()), path, **how)
    session = ort.InferenceSession(str(path))
    names = [item.name for item in session.get_inputs()]

    def run(blobs: Blobs) -> list[Tensor]:
        given = dict(zip(names, (x.numpy() for x in blobs.values()), strict=True))
        return [torch.from_numpy(y) for y in session.run(None, given)]

    return run


def compare(net: Net, make: Callable[[Net, Blobs], Run]) -> None:
    """What was recorded on one input computes the same on others, with more or no boxes."""
    run = make(net, inputs_of(net, 0, 5.0))
    rows = set()
    for seed, scale in ((0, 5.0), (1, 20.0), (2, 0.0)):
        inputs = inputs_of(net, seed, scale)
        net.reset_state()
        with torch.no_grad():
            expected = net(inputs)
            found = run(inputs)
        for (name, value), mine in zip(expected.items(), found, strict=True):
            assert_close(mine, value.numpy(), name, 1e-5)
            rows.add(tuple(value.shape))
    assert net.name != "ssd_like" or len(rows) == 3


NETS = [detector, classifier, sequences]


@pytest.mark.parametrize("make", NETS)
def test_export(make: Callable[[], Net]) -> None:
    net = make()
    compare(net, exported)


def test_strict_export() -> None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("torch cannot tell its strict mode from torch.compile")
    net = detector()
    inputs = inputs_of(net, 0)
    module = torch.export.export(net, (inputs,), strict=True).module()
    compare(net, lambda *_: lambda blobs: list(module(blobs).values()))


@pytest.mark.parametrize("make", NETS[:2])
def test_trace(make: Callable[[], Net]) -> None:
    net = make()
    compare(net, traced)


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_onnx(dynamo: bool, tmp_path: Path) -> None:
    net = detector()
    compare(net, lambda *given: onnx_of(*given, tmp_path / "net.onnx", dynamo=dynamo))


def test_the_net_still_keeps_its_blobs() -> None:
    net = detector()
    inputs = inputs_of(net, 0)
    torch.export.export(net, (inputs,), strict=False)
    net(inputs)
    assert isinstance(net.blobs["conv1"], Tensor)
    assert import_module("caffeio.ops.tracing").is_traced() is False
