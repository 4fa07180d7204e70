"""The indices that ONNX's Slice takes."""

from __future__ import annotations


def slice_ranges(
    shape: tuple[int, ...],
    starts: list[int] | None,
    ends: list[int] | None,
    axes: list[int] | None,
    steps: list[int] | None,
) -> dict[int, range] | None:
    """The indices that a Slice takes of each axis that it changes; None if they are computed."""
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    out = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(shape)
        taken = range(*slice(start, end if end > -(1 << 62) else None, step).indices(shape[axis]))
        if len(taken) != shape[axis] or step != 1:
            out[axis] = taken
    return out
