"""What Caffe has no layer for, said exactly in layers of BVLC's Caffe 1.0.

Every function takes the Writer, the blob, and what the thing is to compute; it uses the target's
own layer where there is one. (Layers of other Caffes have their forms in `converters/rewrites`,
which the Writer uses by itself.) The forms were held against numbers: most give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.graph import Array, Dims
from caffeio.converters.rewrites.moves import (
    MOST_PIECES,
    Reshaped,
    keeps_memory,
    permute_steps,
    permuted,
)
from caffeio.converters.rewrites.neurons import LARGE

# --- bounds


def clip(w: Writer, x: str, low: float, high: float) -> str:
    """min(max(x, low), high)."""
    low = min(low, high)  # with bounds the wrong way round Caffe's Clip gives the other one
    bounded = low > -3e38 and high < 3e38
    if (low, high) == (0, 6) and w.target.has("ReLU6"):
        return w.unary("ReLU6", x)
    if bounded:
        return w.unary("Clip", x, clip_param={"min": low, "max": high})
    if low == 0:
        return w.unary("ReLU", x)
    if w.target.has("Clip") and (low > -3e38 or high < 3e38):
        return w.unary("Clip", x, clip_param={"min": low, "max": high})
    if low > -3e38:
        if abs(low) >= LARGE:
            below = w.unary("ReLU", w.power(x, scale=-1, shift=low, hint="below"), hint="lack")
            return w.eltwise("SUM", [x, below], hint="max")
        x = w.unary("ReLU", w.power(x, shift=-low, hint="low"), hint="relu")
        return w.power(x, shift=low, hint="high")
    if high >= 3e38:
        return x
    if abs(high) >= LARGE:
        above = w.unary("ReLU", w.power(x, shift=-high, hint="above"), hint="excess")
        return w.eltwise("SUM", [x, above], (1, -1), hint="min")
    y = w.unary("ReLU", w.power(x, scale=-1, shift=high, hint="rest"), hint="rest_relu")
    return w.power(y, scale=-1, shift=high, hint="high")


def hard_sigmoid(w: Writer, x: str, alpha: float, beta: float) -> str:
    """min(max(alpha * x + beta, 0), 1)."""
    return clip(w, w.power(x, scale=alpha, shift=beta, hint="line"), 0.0, 1.0)


def swish(w: Writer, x: str, beta: float = 1.0) -> str:
    """x * sigmoid(beta * x)."""
    return w.unary("Swish", x, swish_param={"beta": beta} if beta != 1 else {})


# --- pieces along an axis


def take(w: Writer, x: str, axis: int, indices: Sequence[int], hint: str = "take") -> str:
    """The slices of `x` with these indices along an axis, in this order (Slice and Concat)."""
    shape = w.shape(x)
    if list(indices) == list(range(shape[axis])):
        return x
    if w.batch.get(x) == axis:
        w.fix_batch()
    pieces = runs(indices)
    cuts = sorted({0, shape[axis], *(b for b, _ in pieces), *(e for _, e in pieces)})
    if len(cuts) - 1 > MOST_PIECES or len(pieces) > MOST_PIECES:
        raise Refused(f"it needs more than {MOST_PIECES} pieces of axis {axis}")
    tops = slices(w, x, axis, cuts[1:-1], hint)
    at = dict(zip(cuts, tops, strict=False))
    chosen: list[str] = []
    for begin, end in pieces:
        chosen += [at[c] for c in cuts if begin <= c < end]
    w.silence([top for top in tops if top not in chosen])
    return concat(w, chosen, axis, hint=f"{hint}_concat")


def runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Indices as half-open ranges of neighbours, in their order."""
    out = []
    for _, group in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        values = [value for _, value in group]
        out.append((values[0], values[-1] + 1))
    return out


def slices(w: Writer, x: str, axis: int, points: Sequence[int], hint: str = "slice") -> list[str]:
    """All parts of `x` between the points."""
    if not points:
        return [x]
    if w.batch.get(x) == axis:
        w.fix_batch()
    shape = w.shape(x)
    ends = [*points, shape[axis]]
    sizes = [end - begin for begin, end in zip([0, *points], ends, strict=True)]
    shapes = [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]
    fields = {"axis": axis, "slice_point": list(points)}
    tops: list[str] = w.layer("Slice", [x], shapes, hint=hint, slice_param=fields)
    return tops


def concat(w: Writer, xs: Sequence[str], axis: int, hint: str = "concat") -> str:
    """The blobs one behind the other along an axis."""
    if len(xs) == 1:
        return xs[0]
    shape = list(w.shape(xs[0]))
    shape[axis] = sum(w.shape(x)[axis] for x in xs)
    top: str = w.layer("Concat", xs, tuple(shape), hint=hint, concat_param={"axis": axis})
    return top


def crop(w: Writer, x: str, axis: int, begin: int, end: int) -> str:
    """x[begin:end] along an axis."""
    return take(w, x, axis, range(begin, end), hint="crop")


# --- order of axes


def permute(w: Writer, x: str, order: Sequence[int]) -> str:
    """Axes in another order: a Permute, or moves of one axis by Slice and Concat."""
    shape, batch = w.shape(x), w.batch.get(x)
    has = w.target.has("Permute") and len(shape) <= w.target.max_axes
    if has and not keeps_memory(shape, order, batch):
        to = None if batch is None else list(order).index(batch)
        fields = {"order": list(order)}
        new = permuted(shape, order)
        top: str = w.layer("Permute", [x], new, batch=to, permute_param=fields)
        return top
    for step in permute_steps(shape, order, batch):
        if isinstance(step, Reshaped):
            x = w.reshape(x, step.shape, hint=step.hint, batch=step.batch)
            continue
        if w.batch.get(x) == step.axis:
            w.fix_batch()
        if step.pieces > MOST_PIECES:
            raise Refused(
                f"moving an axis of {step.pieces} needs that many pieces (at most {MOST_PIECES})",
                "use a target that has Permute (--target ssd)",
            )
        pieces = slices(w, x, step.axis, range(1, step.pieces), hint="pieces")
        x = concat(w, pieces, step.along)
    return x


def shuffle_channels(w: Writer, x: str, group: int) -> str:
    """(N, g * c, H, W): channel i * c + j becomes channel j * g + i."""
    return w.unary("ShuffleChannel", x, shuffle_channel_param={"group": group})


def mix_channels(w: Writer, x: str, matrix: Array, hint: str = "mix", bias: bool = False) -> str:
    """A 1x1 convolution with the matrix (out, in)."""
    shape = w.shape(x)
    fields = {"num_output": matrix.shape[0], "bias_term": False, "kernel_size": [1]}
    top: str = w.layer(
        "Convolution",
        [x],
        (shape[0], matrix.shape[0], *shape[2:]),
        blobs=[matrix.reshape(*matrix.shape, 1, 1)],
        hint=hint,
        convolution_param=fields,
    )
    return top


# --- two blobs of different shapes


def spread(w: Writer, x: str, shape: Dims) -> str:
    """`x` (of as many axes) repeated to `shape` by Tile layers."""
    for axis, size in enumerate(shape):
        have = w.shape(x)
        if have[axis] == size:
            continue
        if not size:
            raise Refused("its result is empty", "Caffe's blobs hold one number at least")
        if w.target.has("Tile"):
            new = (*have[:axis], size, *have[axis + 1 :])
            fields = {"axis": axis, "tiles": size}
            x = w.layer("Tile", [x], new, hint="tile", tile_param=fields)
        elif len(have) == 4 and axis == 1:
            x = mix_channels(w, x, np.ones((size, 1), np.float32), hint="tile")
        elif size <= MOST_PIECES:
            x = concat(w, [x] * size, axis, hint="tile")
        else:
            raise Refused(f"it repeats an axis {size} times, and there is no Tile")
    return x


def span(small: Dims, large: Dims) -> tuple[int, int] | None:
    """The axes [begin, end) of `large` that `small` (of as many axes) covers, the others being 1.

    None if they are no contiguous run. Axis 0 belongs to the run where both have 1 there.
    """
    if len(small) != len(large):
        return None
    same = [s == n for s, n in zip(small, large, strict=True)]
    wide = [i for i, n in enumerate(small) if n != 1]
    if any(not same[i] for i in wide):
        return None
    begin, end = (wide[0], wide[-1] + 1) if wide else (0, 1)
    if same[0] and all(same[:begin]):
        begin = 0
    return (begin, end) if all(same[begin:end]) else None


# --- numbers with a window


def window(w: Writer, x: str, kernel: Array, hint: str, **fields: object) -> str:
    """A convolution of every channel with a kernel (kh, kw) of its own: group C, no bias."""
    n, channels, height, width = w.shape(x)
    kh, kw = kernel.shape
    given = {"pad_h": 0, "pad_w": 0, "stride_h": 1, "stride_w": 1, **fields}
    oh = (height + 2 * int(str(given["pad_h"])) - kh) // int(str(given["stride_h"])) + 1
    ow = (width + 2 * int(str(given["pad_w"])) - kw) // int(str(given["stride_w"])) + 1
    fields = {"num_output": channels, "bias_term": False, "group": channels, "kernel_h": kh,
              "kernel_w": kw, **given}  # fmt: skip
    blob = np.broadcast_to(kernel.astype(np.float32), (channels, 1, kh, kw))
    top: str = w.layer(
        "Convolution", [x], (n, channels, oh, ow), blobs=[blob], hint=hint, convolution_param=fields
    )
    return top


def normalize_rows(w: Writer, x: str, rows: int, eps: float, hint: str = "norm") -> str:
    """(x - mean) / sqrt(variance + eps) over all but the first `rows` elements' axes.

    `x` is taken as (1, rows, rest): BatchNorm with the statistics of what goes in, which has eps
    under the root (MVN has not). A batch of another size does not fit its blobs, and is refused
    instead of being mixed.
    """
    shape = w.shape(x)
    rest = math.prod(shape) // rows
    y = w.layer(
        "Reshape", [x], (1, rows, rest, 1), hint="rows", batch=None,
        reshape_param={"shape": {"dim": [1, rows, rest, 1]}},
    )  # fmt: skip
    zeros = [np.zeros(rows), np.zeros(rows), np.ones(1)]
    fields = {"use_global_stats": False, "eps": eps}
    y = w.unary("BatchNorm", y, hint=hint, batch_norm_param=fields)
    w.layers[-1].blobs = [np.asarray(z, np.float32) for z in zeros]
    top: str = w.layer(
        "Reshape", [y], shape, hint="back", batch=w.batch.get(x),
        reshape_param={"shape": {"dim": list(shape)}},
    )  # fmt: skip
    return top
