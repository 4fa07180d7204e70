"""Shapes for people: one function, whatever stands between the dimensions."""

from __future__ import annotations

from collections.abc import Iterable


def format_shape(
    shape: Iterable[object] | None, sep: str = "x", *, unknown: int | None = -1
) -> str:
    """Join the dimensions: `32x3x224x224`; `scalar` if there are none, `?` if they are not known.

    `unknown` is the number that stands for an unknown dimension;
    None where a negative number is to be shown.
    """
    if shape is None:
        return "?"
    return sep.join("?" if dim is None or dim == unknown else str(dim) for dim in shape) or "scalar"


def caffe_shape(shape: Iterable[object]) -> str:
    """Join the dimensions as Caffe's messages do: `32 3 224 224`."""
    return format_shape(shape, " ", unknown=None)
