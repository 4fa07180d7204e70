"""Pooling in ONNX with exactly Caffe's windows.

ONNX and Caffe agree on windows that fit, and on rounding up without padding. Elsewhere the room
for the last windows is made explicit, and averages are corrected to Caffe's divisor.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from caffeio.layers.onnx.graph import OnnxGraph
from caffeio.layers.window import Ints, Window

LOWEST = float(np.finfo(np.float32).min)


def onnx_pool(
    g: OnnxGraph, x: str, method: str, w: Window, sizes: Ints, *, divisor: str, mask: bool
) -> str | tuple[str, str]:
    """MAX, AVE or (in TEST) STOCHASTIC pooling of `x` (N, C, *sizes)."""
    if g.dynamic_size:
        return _any_size(g, x, method, w, divisor, mask=mask)
    if method == "MAX":
        return _max(g, x, w, sizes, mask)
    if method == "AVE":
        return _average(g, x, w, sizes, divisor)
    squares = _sums(g, g.op("Mul", [x, x]), w, sizes)
    sums = _sums(g, x, w, sizes)
    zero = g.const(0.0, "zero")
    some = g.op("Greater", [sums, zero])
    safe = g.op("Where", [some, sums, g.const(1.0, "one")])
    y: str = g.op("Where", [some, g.op("Div", [squares, safe]), zero])
    return y


def _any_size(
    g: OnnxGraph, x: str, method: str, w: Window, divisor: str, *, mask: bool
) -> str | tuple[str, str]:
    """The windows at any size: pads behind with which rounding down counts as Caffe does.

    A window is left out if it starts behind the bottom and its padding (n + p), so there are
    (n - 1 + p) // s + 1 at most: no more than kernel - 1 behind. Rounding up adds stride - 1.
    """
    rows = zip(w.extent, w.stride, w.pad, strict=True)
    most = [(p + s - 1 if w.ceil else p, e - 1) for e, s, p in rows]
    behind = [min(pair) if w.clip else pair[0] for pair in most]
    inside = all(p <= b < k for p, b, k in zip(w.pad, behind, w.kernel, strict=True))
    if method == "STOCHASTIC" or not inside or (method == "AVE" and set(w.dilation) != {1}):
        raise g.unsupported(f"these {method} windows need a size that is fixed")
    if method == "MAX":
        given = {**_shape(w), "pads": (*w.pad, *behind)}
        if not mask:
            return str(g.op("MaxPool", [x], **given))
        y, index = g.op("MaxPool", [x], outputs=2, **given)
        height, width = (g.op("Shape", [x], start=i, end=i + 1) for i in (2, 3))
        return y, g.to_float(g.op("Mod", [index, g.op("Mul", [height, width])]))
    before = w.pad
    if divisor != "real" and any(w.pad):  # padding counts in the divisor
        ends = behind if divisor == "full" else list(w.pad)
        pads = g.ints((0, 0, *w.pad, 0, 0, *ends), "pads")
        x = g.op("Pad", [x, pads, g.const(0.0, "padding")])
        behind = [b - e for b, e in zip(behind, ends, strict=True)]
        before = (0,) * len(w.pad)
    elif divisor == "full" and any(behind):
        x = g.op("Pad", [x, g.ints((0, 0, *w.pad, 0, 0, *behind), "pads"), g.const(0.0, "padding")])
        behind = [0] * len(behind)
    return str(g.op("AveragePool", [x], pads=(*before, *behind), **_shape(w)))


def _shape(w: Window) -> dict[str, Any]:
    attributes = {"kernel_shape": w.kernel, "strides": w.stride}
    dilated = any(d != 1 for d in w.dilation)
    return {**attributes, "dilations": w.dilation} if dilated else attributes


def _pads(w: Window, sizes: Ints) -> Ints | None:
    """ONNX's pads with which rounding down gives the windows of `w`; None if there are none."""
    rows = list(zip(w.output(sizes), sizes, w.extent, w.stride, w.pad, strict=True))
    starts = [(count - 1) * s - p for count, _, _, s, p in rows]
    if any(start >= n for start, n in zip(starts, sizes, strict=True)):
        return None
    if all(count == (n + 2 * p - e) // s + 1 for count, n, e, s, p in rows):
        return (*w.pad, *w.pad)
    behind = tuple(
        max(0, start + e - n) for start, (_, n, e, _, _) in zip(starts, rows, strict=True)
    )
    fits = all(b < k for b, k in zip(behind, w.kernel, strict=True))
    return (*w.pad, *behind) if fits else None


def _padded(g: OnnxGraph, x: str, w: Window, sizes: Ints, value: float) -> str:
    """`x` with room for all windows."""
    flat = w.padding(sizes)
    before, behind = flat[0::2][::-1], flat[1::2][::-1]
    pads = g.ints((0, 0, *before, 0, 0, *behind), "pads")
    return str(g.op("Pad", [x, pads, g.const(value, "padding")]))


def _max(g: OnnxGraph, x: str, w: Window, sizes: Ints, mask: bool) -> str | tuple[str, str]:
    pads = _pads(w, sizes)
    if pads is None:
        if mask:
            raise g.unsupported("a mask of windows that start behind the bottom")
        x = _padded(g, x, w, sizes, LOWEST)
    attributes = _shape(w)
    if pads is not None:
        attributes.update(
            {"ceil_mode": 1} if any(pads) and _rounds_up(w, sizes) else {"pads": pads}
        )
    if not mask:
        return str(g.op("MaxPool", [x], **attributes))
    y, index = g.op("MaxPool", [x], outputs=2, **attributes)
    plane = g.const(math.prod(sizes), "plane")
    return y, g.to_float(g.op("Mod", [index, plane]))


def _rounds_up(w: Window, sizes: Ints) -> bool:
    """Whether ONNX's ceil_mode places these windows in all versions of its runtimes."""
    rows = zip(w.output(sizes), sizes, w.extent, w.stride, strict=True)
    return not any(w.pad) and all(
        n >= e and count == -(-(n - e) // s) + 1 for count, n, e, s in rows
    )


def _average(g: OnnxGraph, x: str, w: Window, sizes: Ints, divisor: str) -> str:
    pads = _pads(w, sizes)
    if pads is not None:
        whole = divisor == "full" or (divisor == "bvlc" and any(w.pad) and _exact(w, sizes))
        if whole or divisor == "real" or not any(w.pad):
            if whole and any(pads):
                return padded_average(g, x, pads, **_shape(w))
            return str(g.op("AveragePool", [x], pads=pads, **_shape(w)))
    sums = _sums(g, x, w, sizes)
    by = _divisors(w, sizes, divisor)
    return str(g.op("Div", [sums, g.const(by, "divisor")]))


def padded_average(g: OnnxGraph, x: str, pads: Ints, **attributes: Any) -> str:
    """Average of windows whose padding counts: OpenCV 4.14 does not see count_include_pad."""
    half = len(pads) // 2
    both = g.ints((0, 0, *pads[:half], 0, 0, *pads[half:]), "pads")
    wide = g.op("Pad", [x, both, g.const(0.0, "padding")])
    return str(g.op("AveragePool", [wide], **attributes))


def _divisors(w: Window, sizes: Ints, kind: str) -> np.ndarray:
    """The divisors of all windows, as `caffeio.ops.pooling.divisors` has them: (1, 1, windows)."""
    counts = w.output(sizes)
    out = np.ones((1, 1, *counts), np.float32)
    for i, count in enumerate(counts):
        start = np.arange(count) * w.stride[i] - w.pad[i]
        if kind == "full":
            length = np.full_like(start, w.kernel[i])
        elif kind == "real":
            length = (start + w.kernel[i]).clip(max=sizes[i]) - start.clip(min=0)
        else:
            length = (start + w.kernel[i]).clip(max=sizes[i] + w.pad[i]) - start
        out *= length.astype(np.float32).reshape(-1, *[1] * (len(sizes) - 1 - i))
    return out


def _exact(w: Window, sizes: Ints) -> bool:
    """Whether no window sticks out of the bottom and its padding."""
    rows = zip(w.output(sizes), w.extent, w.stride, w.pad, sizes, strict=True)
    return all((count - 1) * s + e <= n + 2 * p for count, e, s, p, n in rows)


def _sums(g: OnnxGraph, x: str, w: Window, sizes: Ints) -> str:
    """The sum of each window, what sticks out counting 0.

    A window that starts behind the bottom is added to the result: onnxruntime 1.21 takes the Pad
    for the pool's own, which must be smaller than the kernel.
    """
    inside = replace(w, clip=True)
    mean = g.op("AveragePool", [_padded(g, x, inside, sizes, 0.0)], **_shape(w))
    sums = g.scaled(mean, math.prod(w.kernel))
    more = [a - b for a, b in zip(w.output(sizes), inside.output(sizes), strict=True)]
    if not any(more):
        return sums
    ends = g.ints((0, 0, *[0] * len(more), 0, 0, *more), "ends")
    return str(g.op("Pad", [sums, ends, g.const(0.0, "padding")]))
