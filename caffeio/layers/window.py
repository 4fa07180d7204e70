"""What convolution and pooling share: kernel, stride, pad and dilation of each spatial axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffeio.layers.base import Layer

Ints = tuple[int, ...]


def per_axis(owner: Layer, p: Any, name: str, field: str, axes: int, default: int | None) -> Ints:
    """Values of field `name` (repeated, or its _h and _w) of message `p` for `axes` spatial axes.

    `default` stands for a field that is not given; None: it must be. Raises LayerError when both
    forms are given, when _h and _w are used without 2 spatial axes, or for a wrong count.
    """
    path = f"{field}.{name}"
    given = getattr(p, name)
    values: Sequence[int] = given
    if isinstance(given, int):  # one fork's field is not repeated
        values = [given] if p.HasField(name) else []
    low, high = name.replace("_size", "") + "_h", name.replace("_size", "") + "_w"
    if hasattr(p, low) and (p.HasField(low) or p.HasField(high)):
        forms = f"{low} and {high}"
        owner.check(axes == 2, f"{forms} need 2 spatial axes, there are {axes}", field=path)
        owner.check(not values, f"give either {name} or {forms}, not both", field=path)
        if default is None:
            return getattr(p, low), getattr(p, high)
        return tuple(getattr(p, key) if p.HasField(key) else default for key in (low, high))
    if not values and default is not None:
        return (default,) * axes
    owner.check(
        len(values) in (1, axes),
        f"needs 1 value, or one for each of the {axes} spatial axes; {len(values)} are given",
        field=path,
    )
    return tuple(values) * axes if len(values) == 1 else tuple(values)


def check_positive(owner: Layer, values: Ints, field: str) -> None:
    """Raise LayerError unless all `values` are above 0."""
    owner.check(all(v > 0 for v in values), f"must be above 0, not {values}", field=field)
