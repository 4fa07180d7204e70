"""PyTorch forms of pooling, of layers that move or resize maps, and of SSD's."""

from __future__ import annotations

import math

import torch

from caffeio.converters.torch_code.text import (
    Expressions,
    TorchText,
    form,
    literal,
    options,
    pair,
)
from caffeio.converters.torch_code.weight_forms import HELPERS, Names, rank
from caffeio.layers.base import LayerType
from caffeio.layers.channel_order import Reorg, ShuffleChannel
from caffeio.layers.crop_center import CropCenter
from caffeio.layers.pooling import SPP, Pooling
from caffeio.layers.resample import Interp, Upsample
from caffeio.layers.ssd.detection_output import DetectionOutput
from caffeio.layers.ssd.prior_box import PriorBox
from caffeio.layers.window import Window
from caffeio.ops.pooling import LOWEST, divisors


@form(Pooling)
def pooling(t: TorchText, layer: Pooling, x: Names) -> Expressions:
    """Write F.max_pool2d, F.avg_pool2d and their families."""
    axes = rank(layer) - 2
    if layer.is_global and not layer.mask and layer.method != "STOCHASTIC":
        kind = {"MAX": "max", "AVE": "avg"}[layer.method]
        return f"F.adaptive_{kind}_pool{axes}d({x[0]}, 1)"
    if layer.method == "STOCHASTIC" and layer.train_phase:
        raise t.unsupported("STOCHASTIC draws at random in TRAIN")
    window = layer.window(layer.bottom_shapes[0])
    y = pooled(t, layer, x[0], layer.method, window, layer.divisor, mask=layer.mask)
    return [y] if layer.mask else y


def pooled(
    t: TorchText,
    layer: LayerType,
    x: str,
    method: str,
    w: Window,
    divisor: str,
    *,
    mask: bool = False,
) -> str:
    """One pooling with exactly Caffe's windows."""
    sizes = layer.bottom_shapes[0][2:]
    if method == "STOCHASTIC":
        kernel, stride = literal(w.kernel), literal(w.stride)
        room = w.padding(sizes)
        given = f"F.pad({x}, {literal(room)})" if any(room) else x
        return t.call(f"{HELPERS}:stochastic_pool", given, kernel, stride)
    kind = f"F.{'max' if method == 'MAX' else 'avg'}_pool{len(sizes)}d"
    place = f"{pair(w.kernel)}, {pair(w.stride)}"
    native = w.is_native(sizes)
    if not native and mask:
        raise t.unsupported("its windows are not PyTorch's, and a mask is wanted")
    pad = pair(w.pad) if native and any(w.pad) else "0"
    more = options(
        padding=(pad, "0"),
        dilation=(pair(w.dilation), "1"),
        ceil_mode=(str(w.ceil and native), "False"),
    )
    if method == "MAX":
        more += options(return_indices=(str(mask), "False"))
        padded = f"F.pad({x}, {literal(w.padding(sizes))}, value={LOWEST})"
        return f"{kind}({x if native else padded}, {place}{more})"
    if native:
        whole = str(math.prod(w.kernel)) if divisor == "full" else "None"
        more += options(
            count_include_pad=(str(divisor != "real" or not any(w.pad)), "True"),
            divisor_override=(whole, "None"),
        )
        return f"{kind}({x}, {place}{more})"
    by = t.buffer(layer, "divisor", divisors(w, sizes, divisor, torch.zeros(())))
    padded = f"F.pad({x}, {literal(w.padding(sizes))})"
    return f"{kind}({padded}, {place}, divisor_override=1) / {by}"


@form(SPP)
def pyramid(t: TorchText, layer: SPP, x: Names) -> Expressions:
    """Write the pooling of every level, flattened and joined."""
    if layer.method == "STOCHASTIC" and layer.train_phase:
        raise t.unsupported("STOCHASTIC draws at random in TRAIN")
    windows = [layer.window(level, layer.bottom_shapes[0]) for level in range(layer.levels)]
    levels = [pooled(t, layer, x[0], layer.method, w, "bvlc") for w in windows]
    if len(levels) == 1:
        return levels[0]
    return f"torch.cat([{', '.join(f'({y}).flatten(1)' for y in levels)}], 1)"


@form(ShuffleChannel)
def shuffle_channel(t: TorchText, layer: ShuffleChannel, x: Names) -> Expressions:
    """Write F.channel_shuffle."""
    return f"F.channel_shuffle({x[0]}, {layer.group})"


@form(Reorg)
def reorg(t: TorchText, layer: Reorg, x: Names) -> Expressions:
    """Write a call of a helper: darknet's order is neither of PyTorch's."""
    return t.call(f"{HELPERS}:reorg", x[0], str(layer.stride), reverse=layer.reverse or None)


@form(CropCenter)
def crop_center(t: TorchText, layer: CropCenter, x: Names) -> Expressions:
    """Write a slice."""
    parts = [f"{n}:-{n}" if n else ":" for n in layer.sizes]
    while parts and parts[-1] == ":":
        parts.pop()
    return f"{x[0]}[{', '.join(parts)}]" if parts else x[0]


@form(Upsample)
def upsample(t: TorchText, layer: Upsample, x: Names) -> Expressions:
    """Write F.interpolate, or a helper where a mask says the places."""
    if layer.masked:
        size = layer.top_shapes[0][2:]
        return t.call(f"{HELPERS}:unpool", *x, *map(str, size))
    factor = "(" + ", ".join(f"{float(s)}" for s in layer.scales) + ")"
    if len(set(layer.scales)) == 1:
        factor = str(layer.scales[0])
    return f'F.interpolate({x[0]}, scale_factor={factor}, mode="nearest")'


@form(Interp)
def interp(t: TorchText, layer: Interp, x: Names) -> Expressions:
    """Write F.interpolate whose corners stay in place, after a slice."""
    shape = layer.bottom_shapes[0]
    begin, end = -layer.pads[0], -layer.pads[1]
    size, left = layer.top_shapes[0][2:], tuple(n - begin - end for n in shape[2:])
    part = f"{begin or ''}:{-end if end else ''}"
    y = f"{x[0]}[:, :, {part}, {part}]" if begin or end else x[0]
    if left == size:
        return y
    return f'F.interpolate({y}, size={literal(size)}, mode="bilinear", align_corners=True)'


@form(PriorBox)
def prior_box(t: TorchText, layer: PriorBox, x: Names) -> Expressions:
    """Write a call of a helper."""
    p = layer.param.prior_box_param
    size = tuple(map(int, layer.image)) if layer.image else None
    boxes = f"[{', '.join(literal(tuple(map(float, box))) for box in layer.boxes)}]"
    return t.call(
        f"{HELPERS}:prior_box", *x, boxes, literal([float(v) for v in layer.variance]),
        step=layer.step, size=size, offset=None if p.offset == 0.5 else p.offset,
        clip=p.clip or None,
    )  # fmt: skip


@form(DetectionOutput)
def detection_output(t: TorchText, layer: DetectionOutput, x: Names) -> Expressions:
    """Write the arithmetic of the layer itself, which PyTorch has no function for."""
    plain = {
        "location_classes": 1, "code": "CENTER_SIZE", "in_target": False, "eta": 1.0, "top_k": -1,
        "keep_top_k": -1, "least": None,
    }  # fmt: skip
    given = layer.arguments()
    told = {k: v for k, v in given.items() if k not in plain or plain[k] != v}
    return t.call("caffeio.ops.ssd.detection_output:detections", *x[:3], **told)
