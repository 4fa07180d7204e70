"""The shapes of well-known nets, small: their blocks in plain torch, with few channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(
    i: int, o: int, k: int = 3, s: int = 1, *, g: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, BatchNorm and an activation."""
    parts = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*parts, act) if act is not None else nn.Sequential(*parts)


def head(channels: int, classes: int = 10) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


class Basic(nn.Module):
    """ResNet's block."""

    def __init__(self, i: int, o: int, s: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(i, o, 3, s, act=nn.ReLU()), conv(o, o)
        self.down = conv(i, o, 1, s) if s > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.down(x))


class Bottleneck(nn.Module):
    """ResNet-50's and RegNet's block, with groups and squeeze-and-excite."""

    def __init__(self, i: int, o: int, s: int = 1, *, g: int = 1, se: bool = False) -> None:
        super().__init__()
        self.a, self.b = (
            conv(i, o // 2, 1, act=nn.ReLU()),
            conv(o // 2, o // 2, 3, s, g=g, act=nn.ReLU()),
        )
        self.se = SE(o // 2, nn.Sigmoid()) if se else nn.Identity()
        self.c = conv(o // 2, o, 1)
        self.down = conv(i, o, 1, s) if s > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.c(self.se(self.b(self.a(x)))) + self.down(x))


class SE(nn.Module):
    def __init__(self, c: int, gate: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.pool, self.fc1, self.fc2 = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, 4, 1),
            nn.Conv2d(4, c, 1),
        )
        self.gate, self.act = gate, act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class Inverted(nn.Module):
    """The block of MobileNet v2 and v3, MNASNet and EfficientNet."""

    def __init__(
        self, i: int, o: int, s: int, act: nn.Module, se: nn.Module | None = None, k: int = 3
    ) -> None:
        super().__init__()
        m = 2 * i
        parts = [conv(i, m, 1, act=act), conv(m, m, k, s, g=m, act=act)]
        self.body = nn.Sequential(*parts, *([se] if se is not None else []), conv(m, o, 1))
        self.add = s == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.add else self.body(x)


class Dense(nn.Module):
    """DenseNet's layer: BatchNorm first, and everything before as input."""

    def __init__(self, i: int, growth: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i),
            nn.ReLU(),
            nn.Conv2d(i, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class Fire(nn.Module):
    def __init__(self, i: int) -> None:
        super().__init__()
        self.s, self.a, self.b = (
            nn.Conv2d(i, 4, 1),
            nn.Conv2d(4, 8, 1),
            nn.Conv2d(4, 8, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.s(x))
        return torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)


class Shuffle(nn.Module):
    """ShuffleNet v2's unit."""

    def __init__(self, c: int, s: int) -> None:
        super().__init__()
        h, self.stride = c // 2, s
        self.right = nn.Sequential(
            conv(c if s > 1 else h, h, 1, act=nn.ReLU()),
            conv(h, h, 3, s, g=h),
            conv(h, h, 1, act=nn.ReLU()),
        )
        self.left = nn.Sequential(conv(c, c, 3, s, g=c), conv(c, h, 1, act=nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            a, b = x.chunk(2, 1)
            out = torch.cat([a, self.right(b)], 1)
        else:
            out = torch.cat([self.left(x), self.right(x)], 1)
        n, c, h, w = out.shape
        return out.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Inception(nn.Module):
    """Branches of several kernels and a pooling, as in GoogLeNet and Inception v3."""

    def __init__(self, i: int, *, average: bool) -> None:
        super().__init__()
        r = nn.ReLU()
        self.a, self.b = (
            conv(i, 4, 1, act=r),
            nn.Sequential(conv(i, 4, 1, act=r), conv(4, 6, 3, act=r)),
        )
        self.c = nn.Sequential(
            nn.Conv2d(i, 4, (1, 7), padding=(0, 3)),
            nn.ReLU(),
            nn.Conv2d(4, 4, (7, 1), padding=(3, 0)),
        )
        self.pool: nn.Module = nn.AvgPool2d(3, 1, 1) if average else nn.MaxPool2d(3, 1, 1)
        self.d = conv(i, 4, 1, act=r)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(self.pool(x))], 1)


class UNet(nn.Module):
    """Down, up by ConvTranspose or by Resize, with skips."""

    def __init__(self, up: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        r = nn.ReLU()
        self.d1, self.d2, self.d3 = conv(3, 6, act=r), conv(6, 8, act=r), conv(8, 12, act=r)
        self.u2, self.u1 = up(12, 8), up(8, 6)
        self.c2, self.c1 = conv(16, 8, act=r), conv(12, 6, act=r)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        c = self.d3(F.max_pool2d(b, 2))
        y = self._join(self.u2(c), b)
        y = self._join(self.u1(self.c2(y)), a)
        return self.out(self.c1(y))

    @staticmethod
    def _join(x: Tensor, skip: Tensor) -> Tensor:
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return torch.cat([skip, x], 1)


def up_resize(i: int, o: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(i, o, 3, padding=1))


def up_bilinear(i: int, o: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(i, o, 1)
    )


class Yolo5(nn.Module):
    """Focus, C3-like concats, SPPF, a nearest Resize, and the head up to the boxes of a grid."""

    def __init__(self) -> None:
        super().__init__()
        s = nn.SiLU()
        self.stem, self.down = conv(12, 8, act=s), conv(8, 12, 3, 2, act=s)
        self.spp, self.mix = conv(12, 6, 1, act=s), conv(24, 12, 1, act=s)
        self.head, self.big = nn.Conv2d(12, 3 * 7, 1), nn.Conv2d(20, 3 * 7, 1)
        ys, xs = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        self.register_buffer("grid", torch.stack((xs, ys), 2).view(1, 1, 4, 4, 2) - 0.5)
        self.register_buffer(
            "anchors", torch.tensor([10.0, 13, 16, 30, 33, 23]).view(1, 3, 1, 1, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat(
            [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1
        )
        a = self.stem(x)
        y = self.spp(self.down(a))
        p = [y]
        for _ in range(3):
            p.append(F.max_pool2d(p[-1], 5, 1, 2))
        y = self.mix(torch.cat(p, 1))
        big = self.big(torch.cat([F.interpolate(y, scale_factor=2.0, mode="nearest"), a], 1))
        z = self.head(y)
        n = z.shape[0]
        z = z.view(n, 3, 7, 4, 4).permute(0, 1, 3, 4, 2).sigmoid()
        xy, wh, conf = z.split((2, 2, 3), 4)
        xy = (xy * 2 + self.grid) * 8
        wh = (wh * 2) ** 2 * self.anchors
        return torch.cat((xy, wh, conf), 4).view(n, 48, 7), big


class Yolo8(nn.Module):
    """Two scales, boxes as distributions (DFL), and the classes' sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 8, 3, 2, act=nn.SiLU()), conv(8, 8, 3, 2, act=nn.SiLU())
        self.heads = nn.ModuleList([nn.Conv2d(8, 4 * 4 + 3, 1), nn.Conv2d(8, 4 * 4 + 3, 1)])
        self.dfl = nn.Conv2d(4, 1, 1, bias=False)
        self.dfl.weight.data[:] = torch.arange(4.0).view(1, 4, 1, 1)
        points = [
            torch.stack(
                [
                    g.flatten()
                    for g in torch.meshgrid(
                        torch.arange(n) + 0.5, torch.arange(n) + 0.5, indexing="ij"
                    )
                ]
            )
            for n in (8, 4)
        ]
        self.register_buffer("points", torch.cat(points, 1)[None])
        self.register_buffer(
            "strides", torch.cat([torch.full((1, 64), 2.0), torch.full((1, 16), 4.0)], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = self.down(a)
        both = [h(f).flatten(2) for h, f in zip(self.heads, (a, b), strict=True)]
        y = torch.cat(both, 2)
        box, classes = y.split((16, 3), 1)
        n = x.shape[0]
        box = self.dfl(box.view(n, 4, 4, 80).transpose(2, 1).softmax(1)).view(n, 4, 80)
        low, high = box.chunk(2, 1)
        x1y1, x2y2 = self.points - low, self.points + high
        boxes = torch.cat(((x1y1 + x2y2) / 2, x2y2 - x1y1), 1) * self.strides
        return torch.cat((boxes, classes.sigmoid()), 1)


class SSDLite(nn.Module):
    """Heads on two maps, turned to rows of boxes and of scores."""

    def __init__(self) -> None:
        super().__init__()
        r = nn.ReLU6()
        self.a, self.b = conv(3, 8, 3, 2, act=r), conv(8, 12, 3, 2, act=r)
        self.loc = nn.ModuleList([self._lite(8, 3 * 4), self._lite(12, 3 * 4)])
        self.conf = nn.ModuleList([self._lite(8, 3 * 5), self._lite(12, 3 * 5)])

    @staticmethod
    def _lite(i: int, o: int) -> nn.Module:
        return nn.Sequential(conv(i, i, 3, g=i, act=nn.ReLU6()), nn.Conv2d(i, o, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = [a := self.a(x), self.b(a)]

        def rows(heads: nn.ModuleList, k: int) -> Tensor:
            parts = [
                h(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, k)
                for h, m in zip(heads, maps, strict=True)
            ]
            return torch.cat(parts, 1)

        return rows(self.loc, 4), rows(self.conf, 5).softmax(2)


class CRNN(nn.Module):
    """Columns of a text line through two LSTMs; steps first or batch first, as Paddle's have it."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        act = nn.Hardswish() if batch_first else nn.ReLU()
        self.body = nn.Sequential(
            conv(1, 8, act=act),
            nn.MaxPool2d(2),
            conv(8, 12, act=act),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(12, 12, (2, 1)),
            nn.MaxPool2d((3, 1)),
        )
        self.rnn = nn.LSTM(12, 6, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.fc, self.batch_first = nn.Linear(12, 9), batch_first

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).squeeze(2)
        y = y.permute(0, 2, 1) if self.batch_first else y.permute(2, 0, 1)
        return self.fc(self.rnn(y)[0]).softmax(2)


R6, HS, SI = nn.ReLU6(), nn.Hardswish(), nn.SiLU()


def _seq(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


def _stem(o: int, act: nn.Module) -> nn.Sequential:
    return conv(3, o, 3, 2, act=act)


# name: the net, and the shape of its input
NETS: dict[str, tuple[Callable[[], nn.Module], Sequence[int]]] = {
    "resnet18": (
        lambda: _seq(
            conv(3, 8, 7, 2, act=nn.ReLU()),
            nn.MaxPool2d(3, 2, 1),
            Basic(8, 8),
            Basic(8, 16, 2),
            *head(16),
        ),
        (1, 3, 64, 64),
    ),
    "resnet50": (
        lambda: _seq(
            conv(3, 8, 7, 2, act=nn.ReLU()),
            nn.MaxPool2d(3, 2, 1),
            Bottleneck(8, 16),
            Bottleneck(16, 24, 2),
            *head(24),
        ),
        (1, 3, 64, 64),
    ),
    "vgg11_bn": (
        lambda: _seq(
            conv(3, 8, act=nn.ReLU()),
            nn.MaxPool2d(2, 2),
            conv(8, 12, act=nn.ReLU()),
            nn.MaxPool2d(2, 2),
            nn.AdaptiveAvgPool2d((4, 4)),
            nn.Flatten(),
            nn.Linear(192, 16),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(16, 10),
        ),
        (1, 3, 32, 32),
    ),
    "mobilenet_v2": (
        lambda: _seq(
            _stem(8, R6),
            Inverted(8, 8, 1, R6),
            Inverted(8, 12, 2, R6),
            conv(12, 20, 1, act=R6),
            *head(20),
        ),
        (1, 3, 32, 32),
    ),
    "mobilenet_v3": (
        lambda: _seq(
            _stem(8, HS),
            Inverted(8, 8, 1, nn.ReLU(), SE(16, nn.Hardsigmoid())),
            Inverted(8, 12, 2, HS, SE(16, nn.Hardsigmoid()), 5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 16),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(16, 10),
        ),
        (1, 3, 32, 32),
    ),
    "mnasnet": (
        lambda: _MeanHead(
            _seq(
                _stem(8, nn.ReLU()),
                Inverted(8, 8, 1, nn.ReLU()),
                Inverted(8, 12, 2, nn.ReLU(), None, 5),
            ),
            12,
        ),
        (1, 3, 32, 32),
    ),
    "densenet": (
        lambda: _seq(
            conv(3, 8, 7, 2, act=nn.ReLU()),
            nn.MaxPool2d(3, 2, 1),
            Dense(8),
            Dense(12),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 1),
            nn.AvgPool2d(2, 2),
            Dense(8),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            *head(12),
        ),
        (1, 3, 64, 64),
    ),
    "squeezenet": (
        lambda: _seq(
            nn.Conv2d(3, 8, 3, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(8),
            Fire(16),
            nn.Dropout(),
            nn.Conv2d(16, 10, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (1, 3, 33, 35),
    ),
    "shufflenet_v2": (
        lambda: _MeanHead(
            _seq(_stem(8, nn.ReLU()), nn.MaxPool2d(3, 2, 1), Shuffle(8, 2), Shuffle(8, 1)), 8
        ),
        (1, 3, 64, 64),
    ),
    "efficientnet": (
        lambda: _seq(
            _stem(8, SI),
            Inverted(8, 8, 1, SI, SE(16, nn.Sigmoid(), SI)),
            Inverted(8, 12, 2, SI, SE(16, nn.Sigmoid(), SI), 5),
            conv(12, 16, 1, act=SI),
            *head(16),
        ),
        (1, 3, 32, 32),
    ),
    "regnet_y": (
        lambda: _seq(
            _stem(8, nn.ReLU()),
            Bottleneck(8, 16, 2, g=2, se=True),
            Bottleneck(16, 16, g=2, se=True),
            *head(16),
        ),
        (1, 3, 32, 32),
    ),
    "googlenet": (
        lambda: _seq(
            conv(3, 8, 7, 2, act=nn.ReLU()),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Inception(8, average=False),
            nn.MaxPool2d(2, 2, ceil_mode=True),
            *head(18),
        ),
        (1, 3, 48, 48),
    ),
    "inception_v3": (
        lambda: _seq(
            nn.Conv2d(3, 8, 3, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            Inception(8, average=True),
            Inception(18, average=True),
            *head(18),
        ),
        (1, 3, 47, 47),
    ),
    "unet_transpose": (lambda: UNet(lambda i, o: nn.ConvTranspose2d(i, o, 2, 2)), (1, 3, 22, 26)),
    "unet_resize": (lambda: UNet(up_resize), (1, 3, 22, 26)),
    "unet_bilinear": (lambda: UNet(up_bilinear), (1, 3, 16, 24)),
    "yolo5": (Yolo5, (1, 3, 16, 16)),
    "yolo8": (Yolo8, (1, 3, 16, 16)),
    "ssdlite": (SSDLite, (1, 3, 16, 16)),
    "crnn": (lambda: CRNN(batch_first=False), (1, 1, 16, 20)),
    "paddle_ocr_rec": (lambda: CRNN(batch_first=True), (1, 1, 16, 20)),
}


class _MeanHead(nn.Module):
    """A mean over the map, as MNASNet and ShuffleNet v2 write it."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean([2, 3]))


def make(name: str, seed: int = 3) -> tuple[nn.Module, Tensor]:
    """A net with random weights and statistics, and an input for it."""
    from tests.converters.from_onnx.helpers import randomize

    build, shape = NETS[name]
    torch.manual_seed(seed)
    module: Any = build()
    return randomize(module, seed), torch.randn(*shape)
