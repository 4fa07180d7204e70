"""The nets that the benchmarks run: each as a Caffe prototxt and as plain hand-written PyTorch.

`prototxt(name, batch)` is a net whose inputs are `data` and, with `train`, `label`;
`plain(name)` is what a PyTorch user would write for the same layers. Pooling rounds up in both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = {  # name: the shape of one image
    "resnet50": (3, 224, 224),
    "vgg16": (3, 224, 224),
    "mobilenet": (3, 224, 224),
    "googlenet": (3, 224, 224),
    "caffenet": (3, 227, 227),
    "lenet": (1, 28, 28),
}
TITLES = {"resnet50": "ResNet-50", "vgg16": "VGG-16", "mobilenet": "MobileNet",
          "googlenet": "GoogLeNet-like", "caffenet": "CaffeNet-like", "lenet": "LeNet"}  # fmt: skip
INCEPTIONS = {  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
RESNET = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
MOBILE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
          (1024, 2), (1024, 1))  # fmt: skip


def classes(name: str) -> int:
    """Count the classes that the net tells apart."""
    return 10 if name == "lenet" else 1000


# -- as Caffe ------------------------------------------------------------------------------------


class Text:
    """A prototxt that grows layer by layer; every method returns the name of the top."""

    def __init__(self, name: str) -> None:
        self.lines = [f'name: "{name}"']

    def add(self, name: str, kind: str, bottoms: list[str], top: str, rest: str = "") -> str:
        """Add any layer."""
        wires = " ".join(f'bottom: "{b}"' for b in bottoms)
        self.lines.append(f'layer {{ name: "{name}" type: "{kind}" {wires} top: "{top}" {rest} }}')
        return top

    def conv(self, name: str, x: str, n: int, k: int, rest: str = "", *, bias: bool = True) -> str:
        """Add a convolution with a Xavier filler."""
        bias_term = "" if bias else "bias_term: false "
        p = f'num_output: {n} kernel_size: {k} {bias_term}{rest} weight_filler {{ type: "xavier" }}'
        return self.add(name, "Convolution", [x], name, f"convolution_param {{ {p} }}")

    def relu(self, x: str) -> str:
        """Add a ReLU in place."""
        return self.add(f"{x}_relu", "ReLU", [x], x)

    def conv_relu(self, name: str, x: str, n: int, k: int, rest: str = "") -> str:
        """Add a convolution and a ReLU in place."""
        return self.relu(self.conv(name, x, n, k, rest))

    def norm(self, x: str, *, relu: bool = True) -> str:
        """Add BatchNorm, Scale and, mostly, ReLU in place."""
        self.add(f"{x}_bn", "BatchNorm", [x], x)
        self.add(f"{x}_scale", "Scale", [x], x, "scale_param { bias_term: true }")
        return self.relu(x) if relu else x

    def pool(self, name: str, x: str, rest: str) -> str:
        """Add a pooling layer."""
        return self.add(name, "Pooling", [x], name, f"pooling_param {{ {rest} }}")

    def lrn(self, name: str, x: str) -> str:
        """Add AlexNet's normalization across channels."""
        p = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
        return self.add(name, "LRN", [x], name, p)

    def dense(self, name: str, x: str, n: int) -> str:
        """Add a dense layer with a Xavier filler."""
        p = f'num_output: {n} weight_filler {{ type: "xavier" }}'
        return self.add(name, "InnerProduct", [x], name, f"inner_product_param {{ {p} }}")

    def dropout(self, x: str, ratio: float) -> str:
        """Add a Dropout in place."""
        p = f"dropout_param {{ dropout_ratio: {ratio} }}"
        return self.add(f"{x}_drop", "Dropout", [x], x, p)


def _resnet50(t: Text) -> str:
    x = t.norm(t.conv("conv1", "data", 64, 7, "stride: 2 pad: 3", bias=False))
    x = t.pool("pool1", x, "pool: MAX kernel_size: 3 stride: 2")
    for stage, (width, count, first) in enumerate(RESNET):
        for block in range(count):
            n, step = f"res{stage + 2}{chr(97 + block)}", first if block == 0 else 1
            short = x
            if block == 0:
                short = t.conv(f"{n}_short", x, 4 * width, 1, f"stride: {step}", bias=False)
                t.norm(short, relu=False)
            y = t.norm(t.conv(f"{n}_a", x, width, 1, f"stride: {step}", bias=False))
            y = t.norm(t.conv(f"{n}_b", y, width, 3, "pad: 1", bias=False))
            y = t.norm(t.conv(f"{n}_c", y, 4 * width, 1, bias=False), relu=False)
            x = t.relu(t.add(n, "Eltwise", [short, y], n))
    return t.pool("pool5", x, "pool: AVE global_pooling: true")


def _vgg16(t: Text) -> str:
    x = "data"
    for number, width in enumerate(VGG, 1):
        if width:
            x = t.conv_relu(f"conv{number}", x, width, 3, "pad: 1")
        else:
            x = t.pool(f"pool{number}", x, "pool: MAX kernel_size: 2 stride: 2")
    for name in ("fc6", "fc7"):
        x = t.dropout(t.relu(t.dense(name, x, 4096)), 0.5)
    return x


def _mobilenet(t: Text) -> str:
    x = t.norm(t.conv("conv1", "data", 32, 3, "stride: 2 pad: 1", bias=False))
    width = 32
    for i, (out, stride) in enumerate(MOBILE):
        each = f"pad: 1 stride: {stride} group: {width}"
        x = t.norm(t.conv(f"conv{i + 2}_dw", x, width, 3, each, bias=False))
        x = t.norm(t.conv(f"conv{i + 2}_sep", x, out, 1, bias=False))
        width = out
    return t.pool("pool6", x, "pool: AVE global_pooling: true")


def _googlenet(t: Text) -> str:
    three = "pool: MAX kernel_size: 3 stride: 2"
    x = t.pool("pool1", t.conv_relu("conv1", "data", 64, 7, "stride: 2 pad: 3"), three)
    x = t.conv_relu("conv2_reduce", t.lrn("norm1", x), 64, 1)
    x = t.lrn("norm2", t.conv_relu("conv2", x, 192, 3, "pad: 1"))
    x = t.pool("pool2", x, three)
    for n, (one, three_in, three_out, five_in, five_out, project) in INCEPTIONS.items():
        tops = [t.conv_relu(f"{n}_1x1", x, one, 1)]
        y = t.conv_relu(f"{n}_3x3_reduce", x, three_in, 1)
        tops.append(t.conv_relu(f"{n}_3x3", y, three_out, 3, "pad: 1"))
        y = t.conv_relu(f"{n}_5x5_reduce", x, five_in, 1)
        tops.append(t.conv_relu(f"{n}_5x5", y, five_out, 5, "pad: 2"))
        y = t.pool(f"{n}_pool", x, "pool: MAX kernel_size: 3 stride: 1 pad: 1")
        tops.append(t.conv_relu(f"{n}_proj", y, project, 1))
        x = t.add(f"{n}_output", "Concat", tops, f"{n}_output")
        if n in ("3b", "4e"):
            x = t.pool(f"{n}_down", x, three)
    return t.dropout(t.pool("pool5", x, "pool: AVE global_pooling: true"), 0.4)


def _caffenet(t: Text) -> str:
    three = "pool: MAX kernel_size: 3 stride: 2"
    x = t.lrn("norm1", t.pool("pool1", t.conv_relu("conv1", "data", 96, 11, "stride: 4"), three))
    x = t.conv_relu("conv2", x, 256, 5, "pad: 2 group: 2")
    x = t.lrn("norm2", t.pool("pool2", x, three))
    x = t.conv_relu("conv3", x, 384, 3, "pad: 1")
    x = t.conv_relu("conv4", x, 384, 3, "pad: 1 group: 2")
    x = t.pool("pool5", t.conv_relu("conv5", x, 256, 3, "pad: 1 group: 2"), three)
    for name in ("fc6", "fc7"):
        x = t.dropout(t.relu(t.dense(name, x, 4096)), 0.5)
    return x


def _lenet(t: Text) -> str:
    two = "pool: MAX kernel_size: 2 stride: 2"
    x = t.pool("pool1", t.conv("conv1", "data", 20, 5), two)
    x = t.pool("pool2", t.conv("conv2", x, 50, 5), two)
    return t.relu(t.dense("ip1", x, 500))


def prototxt(name: str, batch: int, *, train: bool = False) -> str:
    """Write the net: it ends in `prob`, or with `train` in a loss and top-1 accuracy."""
    text = Text(name)
    shape = " ".join(f"dim: {n}" for n in (batch, *SIZES[name]))
    text.add("data", "Input", [], "data", f"input_param {{ shape {{ {shape} }} }}")
    if train:
        text.add("label", "Input", [], "label", f"input_param {{ shape {{ dim: {batch} }} }}")
    x = text.dense("score", _TEXTS[name](text), classes(name))
    if train:
        text.add("loss", "SoftmaxWithLoss", [x, "label"], "loss")
        text.add("accuracy", "Accuracy", [x, "label"], "accuracy")
    else:
        text.add("prob", "Softmax", [x], "prob")
    return "\n".join(text.lines)


_TEXTS: dict[str, Callable[[Text], str]] = {
    "resnet50": _resnet50, "vgg16": _vgg16, "mobilenet": _mobilenet, "googlenet": _googlenet,
    "caffenet": _caffenet, "lenet": _lenet,
}  # fmt: skip


# -- as plain PyTorch ----------------------------------------------------------------------------


def _unit(i: int, o: int, k: int, s: int = 1, g: int = 1, *, relu: bool = True) -> nn.Sequential:
    parts = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*parts, nn.ReLU(inplace=True)) if relu else nn.Sequential(*parts)


class _Bottleneck(nn.Module):
    def __init__(self, i: int, mid: int, stride: int) -> None:
        super().__init__()
        o = 4 * mid
        self.body = nn.Sequential(
            _unit(i, mid, 1, stride), _unit(mid, mid, 3), _unit(mid, o, 1, relu=False)
        )
        self.short = _unit(i, o, 1, stride, relu=False) if i != o or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x), inplace=True)


class _Inception(nn.Module):
    def __init__(self, i: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, three_in, three_out, five_in, five_out, project = widths

        def conv(i: int, o: int, k: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2), nn.ReLU(inplace=True))

        self.branches = nn.ModuleList([
            conv(i, one, 1),
            nn.Sequential(conv(i, three_in, 1), conv(three_in, three_out, 3)),
            nn.Sequential(conv(i, five_in, 1), conv(five_in, five_out, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(i, project, 1)),
        ])  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _plain_resnet50() -> list[nn.Module]:
    layers: list[nn.Module] = [_unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)]
    width = 64
    for mid, count, stride in RESNET:
        for block in range(count):
            layers.append(_Bottleneck(width, mid, stride if block == 0 else 1))
            width = 4 * mid
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]


def _plain_vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for width in VGG:
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    return [*layers, nn.Flatten(), *_plain_head(25088)]


def _plain_head(inputs: int) -> list[nn.Module]:
    out: list[nn.Module] = []
    for i in (inputs, 4096):
        out += [nn.Linear(i, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return [*out, nn.Linear(4096, 1000)]


def _plain_mobilenet() -> list[nn.Module]:
    layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
    width = 32
    for out, stride in MOBILE:
        layers += [_unit(width, width, 3, stride, width), _unit(width, out, 1)]
        width = out
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]


def _plain_googlenet() -> list[nn.Module]:
    def conv(i: int, o: int, k: int, s: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2), nn.ReLU(inplace=True))

    def down() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers: list[nn.Module] = [conv(3, 64, 7, 2), down(), nn.LocalResponseNorm(5), conv(64, 64, 1)]
    layers += [conv(64, 192, 3), nn.LocalResponseNorm(5), down()]
    width = 192
    for n, widths in INCEPTIONS.items():
        layers.append(_Inception(width, widths))
        width = widths[0] + widths[2] + widths[4] + widths[5]
        if n in ("3b", "4e"):
            layers.append(down())
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Dropout(0.4), nn.Flatten(), nn.Linear(1024, 1000)]


def _plain_caffenet() -> list[nn.Module]:
    def conv(i: int, o: int, k: int, p: int = 0, s: int = 1, g: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(i, o, k, s, p, groups=g), nn.ReLU(inplace=True)]

    def down() -> list[nn.Module]:
        return [nn.MaxPool2d(3, 2, ceil_mode=True)]

    return [
        *conv(3, 96, 11, s=4), *down(), nn.LocalResponseNorm(5),
        *conv(96, 256, 5, 2, g=2), *down(), nn.LocalResponseNorm(5),
        *conv(256, 384, 3, 1), *conv(384, 384, 3, 1, g=2), *conv(384, 256, 3, 1, g=2), *down(),
        nn.Flatten(), *_plain_head(9216),
    ]  # fmt: skip


def _plain_lenet() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2, 2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2, 2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10),
    ]  # fmt: skip


_PLAIN: dict[str, Callable[[], list[nn.Module]]] = {
    "resnet50": _plain_resnet50, "vgg16": _plain_vgg16, "mobilenet": _plain_mobilenet,
    "googlenet": _plain_googlenet, "caffenet": _plain_caffenet, "lenet": _plain_lenet,
}  # fmt: skip


def plain(name: str) -> nn.Sequential:
    """Write the same layers in PyTorch; scores come out, without a softmax."""
    return nn.Sequential(*_PLAIN[name]())
