"""Whole nets become one graph of torch.compile, and compute the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from caffeio import load_net
from caffeio.net.net import Net
from tests.harness import assert_close
from tests.paths import NIGHT, ROOT, SHARED, needs_shared

NETS = ROOT / "tests" / "nets"
nightly = pytest.mark.skipif(not NIGHT, reason="nightly: a larger net of the same kind")


@pytest.fixture(autouse=True)
def torch_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blobs have Caffe's digits only where nothing is compiled: compare like with like."""
    monkeypatch.setattr("caffeio.ops.digits.SMALL", 0)


def check(net: Net, inputs: dict[str, torch.Tensor]) -> None:
    """Outputs, loss and gradients of the compiled net are those of the net itself."""
    torch._dynamo.reset()
    results = []
    for run in (net, torch.compile(net, fullgraph=True, backend="eager")):
        net.zero_grad()
        torch.manual_seed(0)
        outputs = run(inputs)
        net.loss.backward()
        grads = [item.tensor.grad.clone() for item in net.learnable if item.tensor.requires_grad]
        results.append((outputs, net.loss.detach().clone(), grads))
    (plain, loss, grads), (traced, traced_loss, traced_grads) = results
    assert loss > 0 and torch.isfinite(loss)
    assert list(plain) == list(traced) and len(grads) > 4
    for key, value in plain.items():
        assert_close(traced[key], value.detach().numpy(), key, 1e-6)
    assert_close(traced_loss, loss.numpy(), "loss", 1e-6)
    for i, (mine, theirs) in enumerate(zip(traced_grads, grads, strict=True)):
        assert_close(mine, theirs.numpy(), f"gradient {i}", 1e-6)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", ["vgg_like", "googlenet_like"])
def test_small_net(name, phase):
    torch.manual_seed(1)
    net = load_net(NETS / f"{name}.prototxt", phase=phase)
    side = net.blob_shapes["data"][2]
    check(net, {"data": torch.randn(2, 3, side, side), "label": torch.tensor([1.0, 3.0])})


@pytest.mark.parametrize("name", ["vgg_like", pytest.param("googlenet_like", marks=nightly)])
def test_batches_of_other_sizes(name):
    """The compiled net is traced again, with sizes that vary."""
    torch.manual_seed(1)
    net = load_net(NETS / f"{name}.prototxt", phase="TEST")
    side = net.blob_shapes["data"][2]
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for batch in (2, 3, 5, 4):
        inputs = {"data": torch.randn(batch, 3, side, side), "label": torch.arange(batch) % 5.0}
        traced = compiled(inputs)
        for key, value in net(inputs).items():
            assert_close(traced[key], value.detach().numpy(), key, 1e-6)


@needs_shared
@pytest.mark.parametrize(
    "blocks",
    [4, pytest.param(16, marks=nightly)],
)
def test_resnet50(blocks: int) -> None:
    """The recipe's ResNet-50 in TRAIN, or its first blocks, for two small images."""
    shapes = {"data": (2, 3, 64, 64), "label": (2,)}
    text = (SHARED / "seed" / "train_val.prototxt").read_text()
    side = 2 if blocks == 16 else 8  # of the last pooling layer
    small = text.replace("kernel_size: 7\n    stride: 1", f"kernel_size: {side}\n    stride: 1")
    assert small != text
    if blocks == 4:
        begin, end = small.index("layer", small.index('name: "res3a_relu"')), small.index("pool5")
        end = small.rindex("\nlayer", 0, end)
        small = small[:begin] + small[end:].replace('bottom: "res5c"', 'bottom: "res3a"')
    torch.manual_seed(1)
    net = load_net(small, phase="TRAIN", input_shapes=shapes)
    assert sum(kind == "Eltwise" for kind in net.layer_types) == blocks
    check(net, {"data": torch.randn(shapes["data"]), "label": torch.tensor([1.0, 3.0])})


def test_the_compiler_is_loaded_by_those_who_compile() -> None:
    """torch._dynamo takes as long to import as the rest of torch: no net that runs needs it."""
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import caffeio, caffeio.converters.features, caffeio.ops.python, caffeio.tools.score\n"
        "import caffeio.training.trainer\n"
        'text = \'input: "x" input_dim: [1, 1, 4, 4] layer { name: "r" type: "ReLU" \'\n'
        'net = caffeio.load_net(text + \'bottom: "x" top: "y" }\')\n'
        "net({'x': torch.ones(1, 1, 4, 4)})\n"
        "found = sorted(n for n in set(sys.modules) - before if n.startswith('torch._dynamo'))\n"
        "assert not found, found[:3]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
