"""Dilated MaxPool, which Caffe's Pooling has not: the largest of shifted copies."""

from __future__ import annotations

from caffeio.converters.from_onnx.caffe_net import Refused, Writer
from caffeio.converters.from_onnx.exact import crop, take
from caffeio.converters.from_onnx.graph import Dims
from caffeio.converters.from_onnx.ops.shape import strided

Windows = dict[str, list[int]]  # stride, dilation, begin and end of each axis
PADDING = "some of its windows lie in the padding alone"


def dilated_max(w: Writer, x: str, sizes: list[int], window: Windows, out: Dims) -> str:
    """The largest of shifted copies, axis after axis; strides by a convolution that picks.

    A place of a window that lies in the padding is another one of the same window instead, so that
    nothing is compared with zeros.
    """
    steps = {}
    for i in range(2):
        if sizes[i] == 1 and not window["begin"][i] and not window["end"][i]:
            count = (out[2 + i] - 1) * window["stride"][i] + 1
            x = crop(w, x, 2 + i, 0, count)
        else:
            x = _largest(w, x, 2 + i, sizes[i], {k: v[i] for k, v in window.items()}, out[2 + i])
        if window["stride"][i] != 1:
            steps[2 + i] = range(0, w.shape(x)[2 + i], window["stride"][i])
    return strided(w, x, steps) if steps else x


def _largest(w: Writer, x: str, axis: int, kernel: int, window: dict[str, int], out: int) -> str:
    """The largest of each window along one axis, the windows one step apart."""
    size, gap, begin = w.shape(x)[axis], window["dilation"], window["begin"]
    rows = []
    for i in range((out - 1) * window["stride"] + 1):
        places = [i - begin + j * gap for j in range(kernel)]
        inside = [place for place in places if 0 <= place < size]
        if not inside and i % window["stride"] == 0:
            raise Refused(PADDING)
        inside = inside or [0]  # between two windows: nothing reads it
        rows.append([p if 0 <= p < size else inside[0 if p < 0 else -1] for p in places])
    taps = [take(w, x, axis, [row[j] for row in rows], hint="tap") for j in range(kernel)]
    return taps[0] if kernel == 1 else w.eltwise("MAX", taps, hint="largest")
