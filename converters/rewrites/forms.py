"""The exact forms, one function a layer type. All were held against numbers in tests."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from caffeio.converters.rewrites import neurons  # noqa: F401  (its forms are registered)
from caffeio.converters.rewrites.floor import floor_pooling, rounds_down
from caffeio.converters.rewrites.moves import MOST_PIECES, Moved, Reshaped, permute_steps
from caffeio.converters.rewrites.piece import (
    REWRITES,
    CannotRewriteError,
    Piece,
    Rewrite,
    rewrite,
)
from caffeio.proto import caffe_pb2 as pb

SEGNET_EPS = 1e-9


def rewrite_of(param: Any, types: Container[str], pooling: Container[str]) -> Rewrite | None:
    """The form of a layer for a Caffe that lacks it; None if it has it, or there is no form.

    `types` are the layer types that the Caffe has, `pooling` its fields of PoolingParameter.
    """
    if param.type == "Pooling" and rounds_down(param.pooling_param):
        says_it = "round_mode" in pooling or "ceil_mode" in pooling
        return None if says_it else floor_pooling
    return None if param.type in types else REWRITES.get(param.type)


@rewrite("ConvolutionDepthwise", "DepthwiseConvolution", "DepthwiseConv")
def depthwise(piece: Piece) -> None:
    """A convolution with a group for every channel."""
    layer = piece.add("Convolution", piece.old.bottom, piece.old.top[0], blobs=piece.arrays)
    layer.param.extend(piece.old.param)
    p = layer.convolution_param
    p.CopyFrom(piece.old.convolution_param)
    try:
        p.group = piece.channels()
    except CannotRewriteError:
        p.group = p.num_output  # as every known net has it
    if not p.num_output:
        p.num_output = p.group


@rewrite("Axpy")
def axpy(piece: Piece) -> None:
    """a x + y with a factor for each channel: Scale with two bottoms, then a sum."""
    factor, x, y = piece.old.bottom
    flat, scaled = piece.blob("factor"), piece.blob("scaled")
    piece.add("Flatten", [factor], flat, "flatten")
    p = piece.add("Scale", [x, flat], scaled, "scale").scale_param
    p.axis, p.bias_term = 0, False
    piece.add("Eltwise", [scaled, y], piece.old.top[0])


@rewrite("ShuffleChannel")
def shuffle_channel(piece: Piece) -> None:
    """A 1 x 1 convolution whose matrix is the permutation."""
    channels, group = piece.channels(), piece.old.shuffle_channel_param.group
    matrix = np.zeros((channels, channels, 1, 1), np.float32)
    per = channels // group
    for c in range(channels):
        matrix[(c % per) * group + c // per, c] = 1
    _fixed_convolution(piece, matrix)


@rewrite("Reorg")
def reorg(piece: Piece) -> None:
    """A convolution, or a deconvolution, of ones in their places."""
    s, reverse = piece.old.reorg_param.stride, piece.old.reorg_param.reverse
    c = piece.channels()
    per = c // (s * s)
    if reverse:  # bottom channel (i s + j) per + k goes to place (i, j) of channel k
        kernel = np.zeros((c, per, s, s), np.float32)
        for i in range(s):
            for j in range(s):
                for k in range(per):
                    kernel[(i * s + j) * per + k, k, i, j] = 1
        _fixed_convolution(piece, kernel, s, "Deconvolution")
        return
    # darknet takes the bottom's memory for (per, H, s, W, s): not one map a channel
    n, _, height, width = piece.shape()
    wide = piece.blob("wide")
    q = piece.add("Reshape", [piece.old.bottom[0]], wide, "reshape").reshape_param.shape
    q.dim.extend((n, per, height * s, width * s))
    kernel = np.zeros((per * s * s, per, s, s), np.float32)
    for i in range(s):
        for j in range(s):
            for k in range(per):
                kernel[(i * s + j) * per + k, k, i, j] = 1
    middle = piece.blob("spread")
    _fixed_convolution(piece, kernel, s, bottom=wide, top=middle, suffix="spread")
    q = piece.add("Reshape", [middle], piece.old.top[0]).reshape_param.shape
    q.dim.extend((n, c * s * s, height // s, width // s))


def _fixed_convolution(
    piece: Piece,
    kernel: np.ndarray,
    stride: int = 1,
    type_name: str = "Convolution",
    *,
    bottom: str = "",
    top: str = "",
    suffix: str = "",
    group: int = 1,
) -> None:
    """A layer without bias whose weights are not trained."""
    bottom, top = bottom or piece.old.bottom[0], top or piece.old.top[0]
    if bottom == top:
        raise CannotRewriteError("it works in place")
    layer = piece.add(type_name, [bottom], top, suffix, [kernel])
    layer.param.add(lr_mult=0, decay_mult=0)
    p = layer.convolution_param
    p.num_output = kernel.shape[0] if type_name == "Convolution" else kernel.shape[1] * group
    p.kernel_size.append(kernel.shape[2])
    if stride != 1:
        p.stride.append(stride)
    if group != 1:
        p.group = group
    p.bias_term = False


@rewrite("Upsample")
def upsample(piece: Piece) -> None:
    """Repeats of every value: a deconvolution of ones, channel by channel."""
    p = piece.old.upsample_param
    if len(piece.old.bottom) > 1:
        raise CannotRewriteError("it reads a mask")
    pair = (p.scale_h, p.scale_w) if p.HasField("scale_h") and p.HasField("scale_w") else None
    scale = int(p.scale) if p.HasField("scale") else 1
    if pair is not None and pair[0] != pair[1]:
        raise CannotRewriteError("its two scales differ")
    s, c = pair[0] if pair else scale, piece.channels()
    kernel = np.ones((c, 1, s, s), np.float32)
    _fixed_convolution(piece, kernel, s, "Deconvolution", group=c)


@rewrite("CropCenter")
def crop_center(piece: Piece) -> None:
    """Slices: the middle is the top, the borders go to Silence."""
    shape, now = piece.shape(), piece.old.bottom[0]
    borders: list[str] = []
    sizes = [(a, n) for a, n in enumerate(piece.old.crop_center_param.crop_size) if n]
    for number, (axis, size) in enumerate(sizes):
        last = number == len(sizes) - 1
        middle = piece.old.top[0] if last else piece.blob(f"axis{axis}")
        ends = [piece.blob(f"axis{axis}_{end}") for end in ("low", "high")]
        p = piece.add("Slice", [now], [ends[0], middle, ends[1]], "" if last else f"axis{axis}")
        p.slice_param.axis = axis
        p.slice_param.slice_point.extend((size, shape[axis] - size))
        borders += ends
        now = middle
    if not borders:
        piece.add("Split", [now], piece.old.top[0])
    else:
        piece.add("Silence", borders, [], "borders")


@rewrite("SpatialDropout")
def spatial_dropout(piece: Piece) -> None:
    """Nothing in TEST, as Dropout; training drops single values instead of planes."""
    layer = piece.add("Dropout", piece.old.bottom, piece.old.top[0])
    for name in ("spatial_dropout_param", "dropout_param"):
        if piece.old.HasField(name):
            layer.dropout_param.dropout_ratio = getattr(piece.old, name).dropout_ratio


@rewrite("Permute")
def permute(piece: Piece) -> None:
    """Reshapes, and moves of one axis by Slice and Concat."""
    shape = piece.shape()
    order = list(piece.old.permute_param.order)
    order += [axis for axis in range(len(shape)) if axis not in order]
    steps = permute_steps(shape, order, 0 if order[0] == 0 else None)
    if max((s.pieces for s in steps if isinstance(s, Moved)), default=0) > MOST_PIECES:
        raise CannotRewriteError(f"it moves an axis of more than {MOST_PIECES}")
    now, have = piece.old.bottom[0], shape
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if step.shape == have and not (last and now != piece.old.top[0]):
            continue
        top = piece.old.top[0] if last else piece.blob(f"axes{number}")
        name = "" if last else f"axes{number}"
        if isinstance(step, Reshaped):
            layer = piece.add("Reshape", [now], top, name)
            layer.reshape_param.shape.dim.extend(step.shape)
            if step.batch == 0:
                layer.reshape_param.shape.dim[0] = 0  # as it comes
        else:
            tops = [piece.blob(f"axes{number}_{i}") for i in range(step.pieces)]
            piece.add("Slice", [now], tops, f"pieces{number}").slice_param.axis = step.axis
            piece.add("Concat", tops, top, name).concat_param.axis = step.along
        now, have = top, step.shape


@rewrite("BN")
def segnet_bn(piece: Piece) -> None:
    """BatchNorm and Scale; the statistics are stored ones, or the batch's, as the layer has it."""
    p, arrays = piece.old.bn_param, [np.asarray(a).reshape(-1) for a in piece.arrays]
    if len(piece.old.top) > 1:
        raise CannotRewriteError("it has further tops")
    segnet = not any(
        p.HasField(n) for n in ("slope_filler", "frozen", "momentum", "moving_average")
    )
    segnet = segnet and len(arrays) != 4
    plain = segnet and p.bn_mode == pb.BNParameter.INFERENCE
    top, bottom = piece.old.top[0], list(piece.old.bottom)
    if not plain:
        stored = len(arrays) == 4 and not (p.HasField("moving_average") and not p.moving_average)
        blobs = [arrays[2], arrays[3], np.ones(1)] if stored else []
        if arrays and not stored:  # Caffe wants three blobs all the same
            blobs = [np.zeros_like(arrays[0]), np.zeros_like(arrays[0]), np.zeros(1)]
        norm = piece.add("BatchNorm", bottom, top, "norm", blobs)
        q = norm.batch_norm_param
        q.use_global_stats = stored
        moving = any(p.HasField(n) for n in ("moving_average", "var_eps", "decay"))
        q.eps = SEGNET_EPS if segnet else p.var_eps if moving else p.eps
        bottom = [top]
    scale = piece.add("Scale", bottom, top, blobs=arrays[:2])
    scale.scale_param.bias_term = True


@rewrite("Normalize")
def normalize(piece: Piece) -> None:
    """x / sqrt(sum of squares over the channels + eps) * scale: the sum is a 1 x 1 convolution."""
    p, bottom = piece.old.norm_param, piece.old.bottom[0]
    if p.across_spatial:
        raise CannotRewriteError("it sums over pixels as well")
    if not piece.arrays:
        raise CannotRewriteError("its weights are not given")
    c = piece.channels() if piece.arrays[0].size == 1 else int(piece.arrays[0].size)
    total = piece.blob("norm")
    piece.add("Power", [bottom], total, "squares").power_param.power = 2
    sums = piece.blob("sums")
    _fixed_convolution(
        piece, np.ones((c, c, 1, 1), np.float32), bottom=total, top=sums, suffix="sum"
    )
    q = piece.add("Power", [sums], sums, "root").power_param
    q.power, q.shift = -0.5, p.eps
    unit = piece.blob("unit")
    piece.add(
        "Eltwise", [bottom, sums], unit, "divide"
    ).eltwise_param.operation = pb.EltwiseParameter.PROD
    scale = np.broadcast_to(np.asarray(piece.arrays[0]).reshape(-1), (c,))
    piece.add("Scale", [unit], piece.old.top[0], blobs=[scale])
