"""Pooling that rounds down, for a Caffe that can only round up."""

from __future__ import annotations

from typing import Any

from caffeio.converters.rewrites.piece import CannotRewriteError, Piece
from caffeio.layers.window import axis_values, written_values


def rounds_down(p: Any) -> bool:
    """Whether a PoolingParameter rounds the number of its windows down."""
    if p.HasField("round_mode"):
        return bool(p.round_mode == p.FLOOR)
    return bool(p.HasField("ceil_mode") and not p.ceil_mode)


def floor_pooling(piece: Piece) -> None:
    """The pooling that rounds up, and Slices that cut off the window too many."""
    p = piece.old.pooling_param
    if len(piece.old.top) > 1:
        raise CannotRewriteError("it has a mask")
    sizes, cuts = piece.shape()[2:], []
    if not written_values(p, "kernel_size"):
        raise CannotRewriteError("its windows are not told")
    kernels, strides, pads = (
        axis_values(p, name, len(sizes), default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0))
    )
    windows = zip(sizes, kernels, strides, pads, strict=True)
    for axis, (before, kernel, stride, pad) in enumerate(windows, 2):
        down = (before + 2 * pad - kernel) // stride + 1
        up = -(-(before + 2 * pad - kernel) // stride) + 1
        if pad and (up - 1) * stride >= before + pad:
            up -= 1
        if pad and (down - 1) * stride >= before + pad:
            down -= 1
        if up != down:
            cuts.append((axis, down))
    now = piece.blob("all") if cuts else piece.old.top[0]
    pool = piece.add("Pooling", piece.old.bottom, now, "all" if cuts else "")
    pool.pooling_param.CopyFrom(p)
    pool.pooling_param.ClearField("round_mode")
    pool.pooling_param.ClearField("ceil_mode")
    for number, (axis, size) in enumerate(cuts):
        last = number == len(cuts) - 1
        top = piece.old.top[0] if last else piece.blob(f"axis{axis}")
        rest = piece.blob(f"axis{axis}_rest")
        cut = piece.add("Slice", [now], [top, rest], "" if last else f"cut{axis}")
        cut.slice_param.axis = axis
        cut.slice_param.slice_point.append(size)
        piece.add("Silence", [rest], [], f"rest{axis}")
        now = top
