"""ZFNet, VGG and ResNet for a NetSpec. Source: model_libs.py of weiliu89/caffe (ssd)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffeio.pycaffe.net_spec import NetSpec
from caffeio.pycaffe.net_spec import layers as L
from caffeio.pycaffe.net_spec import params as P
from caffeio.pycaffe.ssd.blocks import FROZEN, ConvBNLayer, ResBody, constant, same_pad

_RATES = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]


def _plain() -> dict[str, Any]:
    """The rates and fillers of a convolution in ZFNet and VGG."""
    filler = {"type": "xavier"}
    return {"param": _RATES, "weight_filler": filler, "bias_filler": constant(0)}


def _add_layer(net: NetSpec, bottom: str, name: str, make: Any, **fields: Any) -> str:
    """Add a layer of one bottom; returns its name, to be the next one's bottom."""
    net[name] = make(net[bottom], **fields)
    return name


def _relu(net: NetSpec, bottom: str, number: str) -> str:
    return _add_layer(net, bottom, f"relu{number}", L.ReLU, in_place=True)


def _drop(net: NetSpec, bottom: str, number: int, on: bool) -> None:
    if on:
        _add_layer(net, bottom, f"drop{number}", L.Dropout, dropout_ratio=0.5, in_place=True)


def _pool(net: NetSpec, bottom: str, name: str, size: int, stride: int, **pad: int) -> str:
    fields: dict[str, Any] = {"pool": P.Pooling.MAX, "kernel_size": size, "stride": stride, **pad}
    return _add_layer(net, bottom, name, L.Pooling, **fields)


def _fully_connected(net: NetSpec, dropout: bool) -> None:
    """fc6 and fc7 as InnerProduct."""
    top = _relu(net, _add_layer(net, "pool5", "fc6", L.InnerProduct, num_output=4096), "6")
    _drop(net, top, 6, dropout)
    top = _relu(net, _add_layer(net, top, "fc7", L.InnerProduct, num_output=4096), "7")
    _drop(net, top, 7, dropout)


def _fully_convolutional(
    net: NetSpec, bottom: str, reduced: bool, dropout: bool, fc6: Mapping[str, Any]
) -> None:
    """fc6 and fc7 as convolutions; `fc6` is the window of the first."""
    outputs = 1024 if reduced else 4096
    plain = _plain()
    top = _add_layer(net, bottom, "fc6", L.Convolution, num_output=outputs, **fc6, **plain)
    top = _relu(net, top, "6")
    _drop(net, top, 6, dropout)
    top = _add_layer(net, top, "fc7", L.Convolution, num_output=outputs, kernel_size=1, **plain)
    top = _relu(net, top, "7")
    _drop(net, top, 7, dropout)


def _freeze(net: NetSpec, names: Sequence[str]) -> None:
    for name in names:
        if name in net.tops:
            net.update(name, {**_plain(), "param": [FROZEN, FROZEN]})


def ZFNetBody(  # noqa: N802
    net: NetSpec,
    from_layer: str,
    need_fc: bool = True,
    fully_conv: bool = False,
    reduced: bool = False,
    dilated: bool = False,
    dropout: bool = True,
    need_fc8: bool = False,
    freeze_layers: Sequence[str] = (),
) -> NetSpec:
    """Add ZFNet: conv1 to conv5 and, as asked for, fc6, fc7 and fc8 with prob."""
    assert from_layer in net.tops
    plain = _plain()
    top = from_layer
    for number, outputs, size in ((1, 96, 7), (2, 256, 5)):
        top = _add_layer(net, top, f"conv{number}", L.Convolution, num_output=outputs,
                         pad=size // 2, kernel_size=size, stride=2, **plain)  # fmt: skip
        top = _relu(net, top, str(number))
        top = _add_layer(net, top, f"norm{number}", L.LRN, local_size=3, alpha=0.00005, beta=0.75,
                         norm_region=P.LRN.WITHIN_CHANNEL, engine=P.LRN.CAFFE)  # fmt: skip
        top = _pool(net, top, f"pool{number}", 3, 2, pad=1)
    for number, outputs in ((3, 384), (4, 384), (5, 256)):
        top = _add_layer(net, top, f"conv{number}", L.Convolution, num_output=outputs, pad=1,
                         kernel_size=3, **plain)  # fmt: skip
        top = _relu(net, top, str(number))
    if need_fc:
        top = _pool(net, top, "pool5", 3, 1 if dilated else 2, pad=1)
        if fully_conv:
            kernel = 3 if reduced else 6
            dilation = (5 if reduced else 2) if dilated else (2 if reduced else 1)
            window = {"pad": 5 if dilated else 2, "kernel_size": kernel}
            if dilation > 1:
                window["dilation"] = dilation
            _fully_convolutional(net, top, reduced, dropout, window)
        else:
            _fully_connected(net, dropout)
    if need_fc8:
        last = list(net.tops)[-1]
        if fully_conv:
            _add_layer(net, last, "fc8", L.Convolution, num_output=1000, kernel_size=1, **plain)
        else:
            _add_layer(net, last, "fc8", L.InnerProduct, num_output=1000)
        _add_layer(net, "fc8", "prob", L.Softmax)
    _freeze(net, freeze_layers)
    return net


_VGG = ((1, 64, 2), (2, 128, 2), (3, 256, 3), (4, 512, 3))  # number, channels, convolutions


def VGGNetBody(  # noqa: N802
    net: NetSpec,
    from_layer: str,
    need_fc: bool = True,
    fully_conv: bool = False,
    reduced: bool = False,
    dilated: bool = False,
    nopool: bool = False,
    dropout: bool = True,
    freeze_layers: Sequence[str] = (),
    dilate_pool4: bool = False,
) -> NetSpec:
    """Add VGG-16: conv1_1 to conv5_3 and, as asked for, fc6 and fc7.

    `nopool` puts convolutions of stride 2 in place of poolings.
    """
    assert from_layer in net.tops
    top, dilation = from_layer, 1
    for number, channels, count in _VGG:
        for i in range(1, count + 1):
            top = _vgg_conv(net, top, f"{number}_{i}", channels, pad=1)
            top = _relu(net, top, f"{number}_{i}")
        if nopool:
            top = _vgg_conv(net, top, f"{number}_{count + 1}", channels, pad=1, stride=2)
        elif number == 4 and dilate_pool4:
            top, dilation = _pool(net, top, "pool4", 3, 1, pad=1), 2
        else:
            top = _pool(net, top, f"pool{number}", 2, 2)
    for i in range(1, 4):
        pad = same_pad(3, dilation)
        top = _vgg_conv(net, top, f"5_{i}", 512, pad=pad, dilation=dilation)
        top = _relu(net, top, f"5_{i}")
    if need_fc:
        if nopool:
            top = _vgg_conv(net, top, "5_4", 512, pad=1, stride=1 if dilated else 2)
        elif dilated:
            top = _pool(net, top, "pool5", 3, 1, pad=1)
        else:
            top = _pool(net, top, "pool5", 2, 2)
        if fully_conv:
            kernel = 3 if reduced else 7
            dilation *= (6 if reduced else 2) if dilated else (3 if reduced else 1)
            window = {"pad": same_pad(kernel, dilation), "kernel_size": kernel}
            window["dilation"] = dilation
            _fully_convolutional(net, top, reduced, dropout, window)
        else:
            _fully_connected(net, dropout)
    _freeze(net, freeze_layers)
    return net


def _vgg_conv(net: NetSpec, bottom: str, number: str, outputs: int, **window: Any) -> str:
    fields = {"num_output": outputs, "kernel_size": 3, **window, **_plain()}
    return _add_layer(net, bottom, f"conv{number}", L.Convolution, **fields)


def ResNet101Body(  # noqa: N802
    net: NetSpec,
    from_layer: str,
    use_pool5: bool = True,
    use_dilation_conv5: bool = False,
    **bn_param: Any,
) -> NetSpec:
    """Add ResNet-101, up to res5c or pool5; `use_dilation_conv5` keeps the size of res4."""
    return _resnet(net, from_layer, use_pool5, use_dilation_conv5, 3, 22, bn_param)


def ResNet152Body(  # noqa: N802
    net: NetSpec,
    from_layer: str,
    use_pool5: bool = True,
    use_dilation_conv5: bool = False,
    **bn_param: Any,
) -> NetSpec:
    """Add ResNet-152, up to res5c or pool5; `use_dilation_conv5` keeps the size of res4."""
    return _resnet(net, from_layer, use_pool5, use_dilation_conv5, 7, 35, bn_param)


def _resnet(
    net: NetSpec, from_layer: str, pool5: bool, dilated: bool, more3: int, more4: int,
    bn_param: Mapping[str, Any],
) -> NetSpec:  # fmt: skip
    """`more3` and `more4` count the blocks 3b1, 3b2 ... and 4b1, 4b2 ..."""
    ConvBNLayer(
        net, from_layer, "conv1", use_bn=True, use_relu=True, num_output=64, kernel_size=7, pad=3,
        stride=2, bn_prefix="bn_", bn_postfix="", scale_prefix="scale_", scale_postfix="",
        **bn_param,
    )  # fmt: skip
    bottom = _pool(net, "conv1", "pool1", 3, 2)
    stages = (
        (["2a", "2b", "2c"], 64, 1, 1),
        (["3a", *(f"3b{i + 1}" for i in range(more3))], 128, 2, 1),
        (["4a", *(f"4b{i + 1}" for i in range(more4))], 256, 2, 1),
        (["5a", "5b", "5c"], 512, 1 if dilated else 2, 2 if dilated else 1),
    )
    for blocks, width, stride, dilation in stages:
        for block in blocks:
            first = block == blocks[0]
            ResBody(
                net, bottom, block, out2a=width, out2b=width, out2c=4 * width,
                stride=stride if first else 1, use_branch1=first, dilation=dilation, **bn_param,
            )  # fmt: skip
            bottom = f"res{block}"
    if pool5:
        net.pool5 = L.Pooling(net.res5c, pool=P.Pooling.AVE, global_pooling=True)
    return net
