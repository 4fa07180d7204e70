"""Weights of PyTorch modules become those of a Caffe net, and back: both are run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import caffeio
from caffeio.proto.weights.load import load_weights
from tests.cli.converting import bad, good
from tests.paths import ROOT, SHARED, needs_shared

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "affine" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "act" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up" convolution_param { num_output: 2 kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "up" top: "fc" inner_product_param { num_output: 5 } }
"""  # noqa: E501


class Module(nn.Module):
    """The net above, written in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU(4)
        self.up = nn.ConvTranspose2d(4, 2, 2, 2)
        self.fc = nn.Linear(288, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        out: Tensor = self.fc(self.up(x).flatten(1))
        return out


def shake(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a number of its own."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.dtype == torch.float32:
                low = 0.5 if name.endswith("running_var") else -1.0
                value.uniform_(low, 1.0, generator=draws)
            if value.dim() > 1:
                value.mul_(value[0].numel() ** -0.5)
    return module.eval()


def same(net: Any, module: Callable[[Tensor], Tensor], shape: tuple[int, ...], top: str) -> bool:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = module(x)
        net({"data": x})
    found = net.blobs[top]
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def test_batch_norm_becomes_batch_norm_and_scale(folder: Path) -> None:
    module, net = shake(Module()), folder / "net.prototxt"
    torch.save(module.state_dict(), folder / "m.pt")
    good(net, folder / "m.pt", folder / "m.caffemodel")
    assert same(caffeio.load_net(net, folder / "m.caffemodel"), module, (2, 3, 8, 8), "fc")
    weights = load_weights(folder / "m.caffemodel")
    assert [len(weights[name]) for name in ("norm", "affine", "act")] == [3, 2, 1]
    for name in ("back.pt", "back.safetensors"):
        good(net, folder / "m.caffemodel", folder / name, "--names", "torch")
    again = Module().eval()
    again.load_state_dict(torch.load(folder / "back.pt", weights_only=True))  # strict
    assert same(caffeio.load_net(net, folder / "m.caffemodel"), again, (2, 3, 8, 8), "fc")
    tensors = pytest.importorskip("safetensors.torch").load_file(folder / "back.safetensors")
    again.load_state_dict(tensors)
    good(net, folder / "back.safetensors", folder / "again.caffemodel")
    assert (folder / "again.caffemodel").read_bytes() == (folder / "m.caffemodel").read_bytes()
    good(folder / "m.caffemodel", folder / "alone.pt", "--names", "torch")


def test_caffes_names_load_into_a_net(folder: Path) -> None:
    module, net = shake(Module()), folder / "net.prototxt"
    torch.save(module.state_dict(), folder / "m.pt")
    good(net, folder / "m.pt", folder / "m.caffemodel")
    load = pytest.importorskip("safetensors.torch").load_file
    for name in ("w.pt", "w.safetensors"):
        good(net, folder / "m.caffemodel", folder / name)
        path = folder / name
        tensors = torch.load(path, weights_only=True) if name == "w.pt" else load(path)
        assert {"conv.weight", "norm.mean", "affine.weight", "fc.bias"} <= set(tensors)
        mine = caffeio.load_net(net)
        mine.load_state_dict(tensors)
        assert same(mine, module, (2, 3, 8, 8), "fc")


def test_prefixes_and_other_names(folder: Path) -> None:
    module, net = shake(Module()), folder / "net.prototxt"
    state = {f"module.{k.replace('norm.', 'body.1.')}": v for k, v in module.state_dict().items()}
    state["module.aux.weight"] = torch.zeros(3)
    torch.save(state, folder / "m.pt")
    message = bad(net, folder / "m.pt", folder / "m.caffemodel")
    assert "module.conv.weight" in message and "prefix" in message
    (folder / "m.map").write_text("prefix = module.\nnorm = body.1\nskip = aux.*  # not in use\n")
    good(net, folder / "m.pt", folder / "m.caffemodel", "--map", folder / "m.map")
    assert same(caffeio.load_net(net, folder / "m.caffemodel"), module, (2, 3, 8, 8), "fc")
    for text, words in (
        ("conv1 = conv", "m.map:1: the net has no layer 'conv1'"),
        ("conv = none", "no tensor of module 'none'"),
        ("conv", "is no line like LAYER = MODULE"),
        ("prefix = module.\nnorm = body.1", "module.aux.weight"),
    ):
        (folder / "m.map").write_text(text)
        assert words in bad(
            net, folder / "m.pt", folder / "x.caffemodel", "--map", folder / "m.map"
        )


def test_what_does_not_fit_is_named(folder: Path) -> None:
    net = folder / "net.prototxt"
    state = shake(Module()).state_dict()
    torch.save({**state, "fc.weight": torch.zeros(5, 7)}, folder / "m.pt")
    message = bad(net, folder / "m.pt", folder / "m.caffemodel")
    assert "layer 'fc'" in message and "5x7" in message and "5x288" in message
    torch.save({k: v for k, v in state.items() if not k.startswith("up.")}, folder / "m.pt")
    assert "layer 'up'" in bad(net, folder / "m.pt", folder / "m.caffemodel")
    torch.save({**state, "more.weight": torch.zeros(2)}, folder / "m.pt")
    assert "more.weight" in bad(net, folder / "m.pt", folder / "m.caffemodel")
    text = NET.replace('layer { name: "affine"', 'layer { name: "other"').replace("Scale", "Bias")
    (folder / "net.prototxt").write_text(text.replace("scale_param { bias_term: true }", ""))
    torch.save(state, folder / "m.pt")  # gamma and beta have no layer to go to
    assert "norm.weight, norm.bias" in bad(net, folder / "m.pt", folder / "m.caffemodel")
    assert not (folder / "m.caffemodel").exists()


def test_a_recurrent_layer(folder: Path) -> None:
    (folder / "r.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" top: "cont" input_param {'
        " shape { dim: 5 dim: 2 dim: 3 } shape { dim: 5 dim: 2 } } }\n"
        'layer { name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "y"'
        " recurrent_param { num_output: 4 } }"
    )
    module = nn.LSTM(3, 4)
    torch.save({f"lstm.{k}": v for k, v in module.state_dict().items()}, folder / "m.pt")
    good(folder / "r.prototxt", folder / "m.pt", folder / "m.caffemodel")
    net = caffeio.load_net(folder / "r.prototxt", folder / "m.caffemodel")
    x, cont = torch.randn(5, 2, 3), torch.ones(5, 2)
    cont[0] = 0
    with torch.no_grad():
        found, wanted = net({"data": x, "cont": cont})["y"], module(x)[0]
    assert (found - wanted).abs().max() < 1e-5


class Bottleneck(nn.Module):
    """torchvision's names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != 4 * width:
            project = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """torchvision's resnet50 by its names; the first pooling is that of the recipe's net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        inputs = 64
        for i, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
            blocks = []
            for b in range(count):
                blocks.append(Bottleneck(inputs, width, 2 if b == 0 and i > 1 else 1))
                inputs = 4 * width
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


@needs_shared
def test_resnet_50_both_ways(tmp_path: Path) -> None:
    """The recipe's net with the weights of a module that has torchvision's names, and back."""
    net, names = (
        SHARED / "seed" / "train_val.prototxt",
        ROOT / "docs" / "maps" / "resnet50-torchvision.map",
    )
    torch.manual_seed(0)
    module = ResNet50().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    torch.save(module.state_dict(), tmp_path / "m.pt")
    shape = ("--input-shape", "data=1,3,224,224")
    good(net, tmp_path / "m.pt", tmp_path / "m.caffemodel", "--map", names, *shape)
    good(net, tmp_path / "m.caffemodel", tmp_path / "d.prototxt", "--deploy", "--no-verify", *shape)
    mine = caffeio.load_net(tmp_path / "d.prototxt", tmp_path / "m.caffemodel")
    assert same(mine, module, (1, 3, 224, 224), "fc1000")
    with torch.no_grad():  # Caffe's first convolution has learnt a bias
        mine.params["conv1"][1].uniform_(-0.5, 0.5)
    torch.save(mine.state_dict(), tmp_path / "c.pt")
    good(net, tmp_path / "c.pt", tmp_path / "back.pt", "--map", names, "--names", "torch", "-f")
    again = ResNet50().eval()
    again.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True))  # strict
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        wanted = again(torch.from_numpy(x))
        mine({"data": torch.from_numpy(x)})
    assert (mine.blobs["fc1000"] - wanted).abs().max() <= 2e-5 * wanted.abs().max()
