"""Arithmetic with dimensions that are not known yet (the height of a missing LMDB's images)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Shape = tuple[int, ...]


class UnknownDimError(Exception):
    """Raised where a number is needed and the dimension is not known; ends the inference."""


class UnknownDim:
    """A dimension that may be any number.

    Every calculation with it gives an unknown dimension again, and every comparison is true:
    "it may be so", so that the checks of a layer pass. What needs the number itself (`range`,
    an index, a truth value) raises UnknownDimError. Beware of `max(dim, 0)` and of branches on a
    comparison: ask `known` first.
    """

    def _same(self, *_: object) -> UnknownDim:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _same
    __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = __mod__ = __rmod__ = _same
    __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = _same
    __floor__ = __ceil__ = __trunc__ = _same

    def _maybe(self, _: object) -> bool:
        return True

    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = _maybe

    def __eq__(self, _: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def _needs_value(self) -> Any:
        raise UnknownDimError

    __index__ = __int__ = __bool__ = __float__ = _needs_value

    def __repr__(self) -> str:
        return "?"


ANY: Any = UnknownDim()


def known(*dims: Any) -> bool:
    """Whether none of `dims` (numbers, or shapes) is, or holds, an unknown dimension."""
    return all(
        known(*dim) if isinstance(dim, (tuple, list)) else not isinstance(dim, UnknownDim)
        for dim in dims
    )


def agreed(*shapes: Shape) -> Shape:
    """Merge equal shapes: of each axis the dimension that is known, if one of them is."""
    return tuple(
        next((dim for dim in dims if known(dim)), dims[0]) for dims in zip(*shapes, strict=True)
    )


def with_unknown(shape: Iterable[int]) -> Shape:
    """`shape`, whose unknown dimensions are -1, for calculation: with ANY in their place."""
    return tuple(ANY if dim < 0 else dim for dim in shape)


def without_unknown(shape: Sequence[Any]) -> Shape:
    """`shape` with -1 in the place of every unknown dimension."""
    return tuple(-1 if isinstance(dim, UnknownDim) else int(dim) for dim in shape)
