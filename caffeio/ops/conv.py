"""Convolution, transposed convolution and im2col.

Sources: src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp, src/caffe/util/
im2col.cpp.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from caffeio.layers.window import Ints, least_sizes

if TYPE_CHECKING:
    from caffeio.layers.conv import BaseConvolution
    from caffeio.layers.im2col import Im2col


def make_room(x: Tensor, least: Ints) -> Tensor:
    """Put zeros behind the axes of `x` (N, C, spatial) that are shorter than `least`."""
    if all(map(operator.ge, x.shape[2:], least)):
        return x
    missing = [max(0, size - n) for n, size in zip(x.shape[2:], least, strict=True)]
    return F.pad(x, [n for m in reversed(missing) for n in (0, m)])


def convolution(layer: BaseConvolution, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
    """(..., C, spatial) -> (..., num_output, spatial), for every bottom with the same blobs."""
    if len(bottoms) == 1:
        return _one(layer, bottoms[0])
    return tuple(_one(layer, x) for x in bottoms)


def _one(layer: BaseConvolution, x: Tensor) -> Tensor:
    if x.shape[layer.start] != layer.channels:
        raise layer.error(
            f"the bottom's {x.shape[layer.start]} channels do not fit a kernel made for "
            f"{layer.channels}"
        )
    convolve = _transpose if layer.transposed else _convolve
    outer = x.shape[: layer.start]
    if layer.start != 1:
        x = x.reshape(math.prod(outer), *x.shape[layer.start :])
    y = convolve(layer, x) if layer.spatial else convolve(layer, x.unsqueeze(2)).squeeze(2)
    if layer.relu:
        y = F.leaky_relu(y, layer.negative_slope) if layer.negative_slope else F.relu(y)
    return y if layer.start == 1 else y.reshape(*outer, *y.shape[1:])


def _weights(layer: BaseConvolution) -> tuple[Tensor, Tensor | None]:
    weight = layer.blobs[0] if layer.spatial else layer.blobs[0].unsqueeze(2)
    return weight, layer.blobs[1] if layer.has_bias else None


def _convolve(layer: BaseConvolution, x: Tensor) -> Tensor:
    weight, bias = _weights(layer)
    if not layer.spatial:
        return F.conv1d(x, weight, bias, groups=layer.group)
    x = make_room(x, layer.least)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[layer.spatial - 1]
    return convolve(x, weight, bias, layer.stride, layer.pad, layer.dilation, layer.group)


def _transpose(layer: BaseConvolution, x: Tensor) -> Tensor:
    weight, bias = _weights(layer)
    if not layer.spatial:
        return F.conv_transpose1d(x, weight, bias, groups=layer.group)
    layer.check_positions(layer.positions(tuple(x.shape[2:])), tuple(x.shape))
    transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[layer.spatial - 1]
    return transpose(
        x, weight, bias, layer.stride, layer.pad, groups=layer.group, dilation=layer.dilation
    )


def patches(x: Tensor, kernel: Ints, stride: Ints, pad: Ints, dilation: Ints) -> Tensor:
    """(N, C, spatial) -> (N, C * prod(kernel), positions): the values under each kernel offset.

    Channel c * prod(kernel) + offset, offsets in row-major order (src/caffe/util/im2col.cpp).
    """
    n, channels, axes = x.shape[0], x.shape[1], len(kernel)
    x = make_room(x, least_sizes(kernel, pad, dilation))
    x = F.pad(x, [p for p in reversed(pad) for _ in range(2)])
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    order = [0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes)]
    positions = x.shape[2 : 2 + axes]
    return x.permute(order).reshape(n, channels * math.prod(kernel), *positions)


def im2col(layer: Im2col, x: Tensor) -> Tensor:
    """(..., C, spatial) -> (..., C * prod(kernel), positions)."""
    outer = x.shape[: layer.start]
    flat = x.reshape(math.prod(outer), *x.shape[layer.start :])
    y = patches(flat, layer.kernel, layer.stride, layer.pad, layer.dilation)
    return torch.reshape(y, (*outer, *y.shape[1:]))
