"""Blocks of layers for a NetSpec. Source: python/caffe/model_libs.py of weiliu89/caffe (ssd)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffeio.pycaffe.net_spec import NetSpec
from caffeio.pycaffe.net_spec import layers as L

FROZEN = {"lr_mult": 0, "decay_mult": 0}


def constant(value: float) -> dict[str, Any]:
    """Make a constant filler."""
    return {"type": "constant", "value": value}


def UnpackVariable(var: Any, num: int) -> list[Any]:  # noqa: N802 (SSD's names)
    """A list of `num` values out of one value, a list of one, or a list of `num`."""
    if isinstance(var, list) and len(var) == num:
        return var
    if isinstance(var, list):
        assert len(var) == 1, f"{var} has neither 1 nor {num} values"
        return var * num
    return [var] * num


def ConvBNLayer(  # noqa: N802
    net: NetSpec,
    from_layer: str,
    out_layer: str,
    use_bn: bool,
    use_relu: bool,
    num_output: int,
    kernel_size: Any,
    pad: Any,
    stride: Any,
    dilation: int = 1,
    use_scale: bool = True,
    lr_mult: float = 1,
    conv_prefix: str = "",
    conv_postfix: str = "",
    bn_prefix: str = "",
    bn_postfix: str = "_bn",
    scale_prefix: str = "",
    scale_postfix: str = "_scale",
    bias_prefix: str = "",
    bias_postfix: str = "_bias",
    **bn_params: Any,
) -> None:
    """Add a convolution, and behind it, as wanted, BatchNorm with Scale or Bias, and ReLU.

    `bn_params` are eps (0.001), moving_average_fraction (0.999) and use_global_stats (False), which
    also freezes Scale and Bias.
    """
    name = f"{conv_prefix}{out_layer}{conv_postfix}"
    fields = _conv_fields(use_bn, lr_mult)
    height, width = UnpackVariable(kernel_size, 2)
    pad_h, pad_w = UnpackVariable(pad, 2)
    stride_h, stride_w = UnpackVariable(stride, 2)
    if height == width:
        window = {"kernel_size": height, "pad": pad_h, "stride": stride_h}
    else:
        window = {
            "kernel_h": height, "kernel_w": width, "pad_h": pad_h, "pad_w": pad_w,
            "stride_h": stride_h, "stride_w": stride_w,
        }  # fmt: skip
    net[name] = L.Convolution(net[from_layer], num_output=num_output, **window, **fields)
    if dilation > 1:
        net.update(name, {"dilation": dilation})
    if use_bn:
        last = f"{bn_prefix}{out_layer}{bn_postfix}"
        net[last] = L.BatchNorm(net[name], in_place=True, **_bn_fields(bn_params))
        rate = 0 if bn_params.get("use_global_stats", False) else lr_mult
        rates = [{"lr_mult": rate, "decay_mult": 0}]
        if use_scale:
            net[f"{scale_prefix}{out_layer}{scale_postfix}"] = L.Scale(
                net[last], in_place=True, bias_term=True, param=rates * 2,
                filler=constant(1.0), bias_filler=constant(0.0),
            )  # fmt: skip
        else:
            net[f"{bias_prefix}{out_layer}{bias_postfix}"] = L.Bias(
                net[last], in_place=True, param=rates, filler=constant(0.0)
            )
    if use_relu:
        net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)


def _conv_fields(use_bn: bool, lr_mult: float) -> dict[str, Any]:
    rates = [{"lr_mult": lr_mult, "decay_mult": 1}]
    if use_bn:
        gaussian = {"type": "gaussian", "std": 0.01}
        return {"param": rates, "weight_filler": gaussian, "bias_term": False}
    rates.append({"lr_mult": 2 * lr_mult, "decay_mult": 0})
    return {"param": rates, "weight_filler": {"type": "xavier"}, "bias_filler": constant(0)}


def _bn_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"param": [FROZEN] * 3, "eps": given.get("eps", 0.001)}
    if given.get("use_global_stats", False):
        fields["use_global_stats"] = given["use_global_stats"]
    else:
        fields["moving_average_fraction"] = given.get("moving_average_fraction", 0.999)
    return fields


def ResBody(  # noqa: N802
    net: NetSpec,
    from_layer: str,
    block_name: str,
    out2a: int,
    out2b: int,
    out2c: int,
    stride: int,
    use_branch1: bool,
    dilation: int = 1,
    **bn_param: Any,
) -> None:
    """Add a block of ResNet, `res<block_name>`: three convolutions beside nothing or one."""
    names: dict[str, Any] = {
        "conv_prefix": f"res{block_name}_", "bn_prefix": f"bn{block_name}_", "bn_postfix": "",
        "scale_prefix": f"scale{block_name}_", "scale_postfix": "",
    }  # fmt: skip

    def conv(bottom: str, branch: str, relu: bool, **window: Any) -> str:
        ConvBNLayer(net, bottom, branch, use_bn=True, use_relu=relu, **window, **names, **bn_param)
        return f"res{block_name}_{branch}"

    short = from_layer
    if use_branch1:
        short = conv(from_layer, "branch1", False, num_output=out2c, kernel_size=1, pad=0,
                     stride=stride)  # fmt: skip
    top = conv(from_layer, "branch2a", True, num_output=out2a, kernel_size=1, pad=0, stride=stride)
    top = conv(top, "branch2b", True, num_output=out2b, kernel_size=3, pad=same_pad(3, dilation),
               stride=1, dilation=dilation)  # fmt: skip
    top = conv(top, "branch2c", False, num_output=out2c, kernel_size=1, pad=0, stride=1)
    name = f"res{block_name}"
    net[name] = L.Eltwise(net[short], net[top])
    net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)


def same_pad(kernel: int, dilation: int) -> int:
    """The pad with which a window of that size leaves height and width as they are."""
    return (kernel + (dilation - 1) * (kernel - 1) - 1) // 2


def InceptionTower(  # noqa: N802
    net: NetSpec, from_layer: str, tower_name: str, layer_params: Sequence[Any], **bn_param: Any
) -> Any:
    """Add layers one behind another; returns the last top.

    Each of `layer_params` is a dict with `name` and the fields of a pooling (if the whole name has
    "pool" in it) or the arguments of ConvBNLayer. As in the original, `name` is taken out of it.
    """
    for param in layer_params:
        name = f"{tower_name}/{param.pop('name')}"
        if "pool" in name:
            net[name] = L.Pooling(net[from_layer], **param)
        else:
            param.update(bn_param)
            ConvBNLayer(net, from_layer, name, use_bn=True, use_relu=True, use_scale=False, **param)
        from_layer = name
    return net[from_layer]
