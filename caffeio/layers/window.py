"""What convolution and pooling share: kernel, stride, pad and dilation of each spatial axis.

Sources: src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp, pooling_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import trunc
from typing import Any, Protocol

from caffeio.shape_text import format_shape

Ints = tuple[int, ...]
Shape = tuple[int, ...]


class WindowOwner(Protocol):
    """The layer whose window it is: it makes the errors."""

    def check(self, ok: bool, message: str, *, field: str | None = None) -> None:
        """Raise an error of the layer unless `ok`."""


def written_values(p: Any, name: str) -> Ints:
    """Values of a window's field as message `p` has them; none where none is given.

    They are those of `name` (repeated, or one), or of its _h and _w, with Caffe's default for the
    one of the two that is not given.
    """
    stem = name.removesuffix("_size")
    if _has_forms(p, stem):
        return getattr(p, f"{stem}_h"), getattr(p, f"{stem}_w")
    given = getattr(p, name, ())
    if isinstance(given, int):  # one fork's field is not repeated
        return (given,) if p.HasField(name) else ()
    return tuple(given)


def axis_values(p: Any, name: str, axes: int, default: int) -> Ints:
    """Values of a window's field for each of `axes` spatial axes, of a message that fits them.

    `default` stands for what is not given; the last value is that of all further axes.
    """
    stem = name.removesuffix("_size")
    values = written_values(p, name) or (default,)
    if _has_forms(p, stem):
        forms = f"{stem}_h", f"{stem}_w"
        values = tuple(getattr(p, form) if p.HasField(form) else default for form in forms)
    return (*values, *values[-1:] * axes)[:axes]


def window_words(p: Any) -> list[str]:
    """Say what message `p` makes of a window: `3x3`, `/2`, `pad 1`, `dilation 2`."""
    words = [_written_size(p, "kernel_size", 0)]
    rest = ("stride", 1, "/"), ("pad", 0, "pad "), ("dilation", 1, "dilation ")
    for name, default, word in rest:
        size = _written_size(p, name, default)
        first, *others = size.split("x")
        words.append(size and word + (size if set(others) - {first} else first))
    return [word for word in words if word]


def _written_size(p: Any, name: str, default: int) -> str:
    """Say `3x3`; empty for the default."""
    values = written_values(p, name)
    if len(values) == 1:
        values *= 2
    return "" if not values or set(values) == {default} else format_shape(values)


def _has_forms(p: Any, stem: str) -> bool:
    """Whether one of _h and _w is given; dilation has no such forms."""
    return hasattr(p, f"{stem}_h") and (p.HasField(f"{stem}_h") or p.HasField(f"{stem}_w"))


def per_axis(
    owner: WindowOwner, p: Any, name: str, field: str, axes: int, default: int | None,
    *, both: bool = False,
) -> Ints:  # fmt: skip
    """Values of field `name` (repeated, or its _h and _w) of message `p` for `axes` spatial axes.

    `default` stands for a field that is not given; None: it must be. Raises LayerError when both
    forms are given, when _h and _w are used without 2 spatial axes, for a wrong count, and, with
    `both`, for one of _h and _w without the other.
    """
    path = f"{field}.{name}"
    given = getattr(p, name)
    values: Sequence[int] = given
    if isinstance(given, int):  # one fork's field is not repeated
        values = [given] if p.HasField(name) else []
    stem = name.removesuffix("_size")
    low, high = f"{stem}_h", f"{stem}_w"
    if _has_forms(p, stem):
        forms = f"{low} and {high}"
        owner.check(axes == 2, f"{forms} need 2 spatial axes, there are {axes}", field=path)
        owner.check(not values, f"give either {name} or {forms}, not both", field=path)
        if both:
            alone = p.HasField(low) != p.HasField(high)
            owner.check(not alone, f"give both {low} and {high}, not one alone", field=path)
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


def positions(sizes: Shape, kernel: Ints, stride: Ints, pad: Ints, dilation: Ints) -> Ints:
    """Count the positions of the kernel along each axis of `sizes`.

    Source: conv_layer.cpp, with C++'s division that truncates toward 0.
    """
    rows = zip(sizes, kernel, stride, pad, dilation, strict=True)
    return tuple(trunc((n + 2 * p - (d * (k - 1) + 1)) / s) + 1 for n, k, s, p, d in rows)


def least_sizes(kernel: Ints, pad: Ints, dilation: Ints) -> Ints:
    """Find the sizes of the bottom from which on the kernel does not stick out of the padding."""
    return tuple(d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, pad, dilation, strict=True))


def check_positive(owner: WindowOwner, values: Ints, field: str) -> None:
    """Raise LayerError unless all `values` are above 0."""
    owner.check(all(v > 0 for v in values), f"must be above 0, not {values}", field=field)


@dataclass(frozen=True)
class Window:
    """Windows over 2 or 3 spatial axes; every tuple has one value an axis."""

    kernel: Ints
    stride: Ints
    pad: Ints
    dilation: Ints
    ceil: bool = True  # the last window may stick out
    clip: bool = True  # a last window that starts behind the image is left out

    @property
    def extent(self) -> Ints:
        """Length of the window along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def output(self, sizes: Ints) -> Ints:
        """Number of windows along each axis."""
        rows = zip(sizes, self.extent, self.stride, self.pad, strict=True)
        return tuple(_count(*row, ceil=self.ceil, clip=self.clip) for row in rows)

    def is_native(self, sizes: Ints) -> bool:
        """Whether PyTorch's pooling places exactly these windows."""
        if any(2 * p > e for p, e in zip(self.pad, self.extent, strict=True)):
            return False
        rows = zip(sizes, self.extent, self.stride, self.pad, strict=True)
        native = tuple(_count(*row, ceil=self.ceil, clip=True) for row in rows)
        return native == self.output(sizes)

    def padding(self, sizes: Ints) -> list[int]:
        """F.pad's argument that makes room for all windows (negative: unused values)."""
        rows = zip(sizes, self.output(sizes), self.extent, self.stride, self.pad, strict=True)
        pairs = [(p, (count - 1) * s + e - n - p) for n, count, e, s, p in rows]
        return [v for pair in reversed(pairs) for v in pair]


def _count(size: int, extent: int, stride: int, pad: int, *, ceil: bool, clip: bool) -> int:
    room = size + 2 * pad - extent
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if clip and (count - 1) * stride >= size + pad else count
