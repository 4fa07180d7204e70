"""Inception v3 for a NetSpec. Source: model_libs.py of weiliu89/caffe (ssd)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffeio.pycaffe.net_spec import NetSpec
from caffeio.pycaffe.net_spec import layers as L
from caffeio.pycaffe.net_spec import params as P
from caffeio.pycaffe.ssd.blocks import ConvBNLayer, InceptionTower

Window = tuple[int, int]
_AVE = {"pool": P.Pooling.AVE, "kernel_size": 3, "pad": 1, "stride": 1}
_MAX = {"pool": P.Pooling.MAX, "kernel_size": 3, "pad": 1, "stride": 1}
_HALVE = {"pool": P.Pooling.MAX, "kernel_size": 3, "pad": 0, "stride": 2}
_ROW, _COLUMN = (1, 7), (7, 1)


def _conv(outputs: int, size: int | Window = 1, pad: int | None = None, stride: int = 1) -> Any:
    """A convolution that leaves the size as it is, unless `pad` and `stride` say otherwise."""
    if isinstance(size, tuple):
        pads = [n // 2 for n in size]
        return {"num_output": outputs, "kernel_size": [*size], "pad": pads, "stride": [1, 1]}
    pad = size // 2 if pad is None else pad
    return {"num_output": outputs, "kernel_size": size, "pad": pad, "stride": stride}


class _Builder:
    def __init__(self, net: NetSpec, bottom: str, bn_param: Any) -> None:
        self.net, self.bottom, self.bn_param = net, bottom, bn_param

    def stem(self) -> None:
        """The layers before the first mixed one."""
        sizes = (("conv", _conv(32, 3, 0, 2)), ("conv_1", _conv(32, 3, 0)), 
                 ("conv_2", _conv(64, 3)),
                 ("pool", None), ("conv_3", _conv(80)), ("conv_4", _conv(192, 3, 0)),
                 ("pool_1", None))  # fmt: skip
        for name, window in sizes:
            if window is None:
                self.net[name] = L.Pooling(self.net[self.bottom], **_HALVE)
            else:
                ConvBNLayer(self.net, self.bottom, name, use_bn=True, use_relu=True,
                            use_scale=False, **window, **self.bn_param)  # fmt: skip
            self.bottom = name

    def tower(self, name: str, steps: Sequence[Any], bottom: str | None = None) -> Any:
        """Layers one behind another; the first convolution is `conv`, the next `conv_1`."""
        count, layers = 0, []
        for step in steps:
            if "pool" in step:
                layers.append({"name": "pool", **step})
            else:
                layers.append({"name": f"conv_{count}" if count else "conv", **step})
                count += 1
        return InceptionTower(self.net, bottom or self.bottom, name, layers, **self.bn_param)

    def mixed(self, name: str, towers: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Towers side by side, and their Concat `<name>/join`."""
        self.join(name, [self.tower(f"{name}{suffix}", steps) for suffix, steps in towers])

    def join(self, name: str, tops: Sequence[Any]) -> None:
        """Add the Concat of towers."""
        self.bottom = f"{name}/join"
        self.net[self.bottom] = L.Concat(*tops, axis=1)

    def split_tower(self, name: str, steps: Sequence[Any]) -> Any:
        """A tower that ends in a 1x3 and a 3x1 convolution, side by side."""
        self.tower(name, steps)
        last = f"{name}/conv_{len(steps) - 1}" if len(steps) > 1 else f"{name}/conv"
        inner = f"{name}/mixed"
        row, column = _conv(384, (1, 3)), _conv(384, (3, 1))
        tops = [
            InceptionTower(self.net, last, inner, [{"name": part, **window}], **self.bn_param)
            for part, window in (("conv", row), ("conv_1", column))
        ]
        self.net[inner] = L.Concat(*tops, axis=1)
        return self.net[inner]


def InceptionV3Body(  # noqa: N802
    net: NetSpec, from_layer: str, output_pred: bool = False, **bn_param: Any
) -> NetSpec:
    """Add Inception v3, up to mixed_10/join or, with `output_pred`, to softmax_prob."""
    b = _Builder(net, from_layer, bn_param)
    b.stem()
    for i in range(3):
        b.mixed(f"mixed_{i}" if i else "mixed", [
            ("", [_conv(64)]), ("/tower", [_conv(48), _conv(64, 5)]),
            ("/tower_1", [_conv(64), _conv(96, 3), _conv(96, 3)]),
            ("/tower_2", [_AVE, _conv(64 if i else 32)]),
        ])  # fmt: skip
    b.mixed("mixed_3", [
        ("", [_conv(384, 3, 0, 2)]), ("/tower", [_conv(64), _conv(96, 3), _conv(96, 3, 0, 2)]),
        ("", [_HALVE]),
    ])  # fmt: skip
    for i, n in ((4, 128), (5, 160), (6, 160), (7, 192)):
        b.mixed(f"mixed_{i}", [
            ("", [_conv(192)]), ("/tower", [_conv(n), _conv(n, _ROW), _conv(192, _COLUMN)]),
            ("/tower_1", [_conv(n), _conv(n, _COLUMN), _conv(n, _ROW), _conv(n, _COLUMN),
                          _conv(192, _ROW)]),
            ("/tower_2", [_AVE, _conv(192)]),
        ])  # fmt: skip
    b.mixed("mixed_8", [
        ("/tower", [_conv(192), _conv(320, 3, 0, 2)]),
        ("/tower_1", [_conv(192), _conv(192, _ROW), _conv(192, _COLUMN), _conv(192, 3, 0, 2)]),
        ("", [_HALVE]),
    ])  # fmt: skip
    for name, pool in (("mixed_9", _AVE), ("mixed_10", _MAX)):
        b.join(name, [
            b.tower(name, [_conv(320)]), b.split_tower(f"{name}/tower", [_conv(384)]),
            b.split_tower(f"{name}/tower_1", [_conv(448), _conv(384, 3)]),
            b.tower(f"{name}/tower_2", [pool, _conv(192)]),
        ])  # fmt: skip
    if output_pred:
        average = {"pool": P.Pooling.AVE, "kernel_size": 8, "pad": 0, "stride": 1}
        net.pool_3 = L.Pooling(net[b.bottom], **average)
        net.softmax = L.InnerProduct(net.pool_3, num_output=1008)
        net.softmax_prob = L.Softmax(net.softmax)
    return net
