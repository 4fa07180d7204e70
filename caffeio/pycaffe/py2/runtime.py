"""What translated code calls (`__py2__.div(a, b)`), and Python 2's built-in names.

Semantics: the Python 2.7 language and library reference.
"""

from __future__ import annotations

import builtins
import decimal
import functools
import itertools
import math
import operator
from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from types import SimpleNamespace
from typing import Any

import numpy as np

from caffeio.pycaffe.py2.files import File, Str

_VIEWS = (KeysView, ValuesView, ItemsView)


def _whole(value: Any) -> bool:
    """Whether it is an integer, or an array of integers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "iub"
    return isinstance(value, int)


def div(left: Any, right: Any) -> Any:
    """left / right: of integers the whole part downwards, as int / int in Python 2."""
    if _whole(left) and _whole(right):
        return left // right
    return left / right


def whole(value: Any) -> Any:
    """The integer that a float stands for, as NumPy took one for an index until 1.12."""
    floating = isinstance(value, float | np.floating)
    return int(value) if floating and value == int(value) else value


class Divisor:
    """Stands on the right of `/=`, so that the left is evaluated once and changed in place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array_ufunc__(self, ufunc: Any, kind: str, *inputs: Any, **options: Any) -> Any:
        """What arrays and numbers of NumPy ask."""
        if ufunc is np.true_divide and kind == "__call__" and inputs[1] is self:
            return self.__rtruediv__(inputs[0])
        return NotImplemented

    def __rtruediv__(self, left: Any) -> Any:
        both_whole = _whole(left) and _whole(self.value)
        if isinstance(left, np.ndarray) and _whole(left) and not both_whole:
            left[...] = (left / self.value).astype(left.dtype)  # NumPy cast what it computed
            return left
        if both_whole:
            left //= self.value
        else:
            left /= self.value
        return left


def compare(symbol: str, left: Any, right: Any) -> Any:
    """left < right and the like; what has no order is ordered by type, None before all."""
    ask = _ORDERS[symbol]
    try:
        return ask(left, right)
    except TypeError:
        ranks = _rank(left), _rank(right)
        if ranks[0] == ranks[1]:
            raise
        return ask(*ranks)


_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt, "GtE": operator.ge,
}  # fmt: skip


def _rank(value: Any) -> tuple[int, str]:
    if value is None:
        return 0, ""
    return (1, "") if isinstance(value, int | float) else (2, type(value).__name__)


def listed(result: Any) -> Any:
    """What `.keys()`, `.values()` or `.items()` gave: a list, if it is a view of a dict."""
    return list(result) if isinstance(result, _VIEWS) else result


def iterator(owner: Any, old: str, new: str) -> Any:
    """owner.iteritems() and the like."""
    if hasattr(owner, old):
        return getattr(owner, old)()
    return iter(getattr(owner, new)())


def view(owner: Any, old: str, new: str) -> Any:
    """owner.viewitems() and the like."""
    return getattr(owner, old if hasattr(owner, old) else new)()


def next_of(owner: Any) -> Any:
    """owner.next(): the method where there is one, else next(owner)."""
    return owner.next() if hasattr(owner, "next") else next(owner)


def method(owner: Any, name: str) -> Callable[..., Any]:
    """A method of old: the object's own if it has one."""
    if name == "sort" and isinstance(owner, list):
        return functools.partial(_sort, owner)
    own = getattr(owner, name, None)
    if own is not None and not (name == "tostring" and isinstance(owner, np.ndarray | np.generic)):
        found: Callable[..., Any] = own
        return found
    if name == "has_key":
        return functools.partial(operator.contains, owner)
    if name == "tostring" and hasattr(owner, "tobytes"):
        made: Callable[..., Any] = owner.tobytes
        return made
    if name == "decode" and isinstance(owner, str):
        return lambda *codec, **options: owner
    raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")


def _sort(owner: list[Any], cmp: Any = None, key: Any = None, reverse: bool = False) -> None:
    owner.sort(key=_key(cmp, key), reverse=reverse)


def _key(compare: Any, key: Any) -> Any:
    if compare is None:
        return key
    by = functools.cmp_to_key(compare)
    return by if key is None else lambda item: by(key(item))


def _sorted(
    iterable: Iterable[Any], cmp: Any = None, key: Any = None, reverse: bool = False
) -> list[Any]:
    return sorted(iterable, key=_key(cmp, key), reverse=reverse)


def _cmp(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


def _map(function: Any, *iterables: Iterable[Any]) -> list[Any]:
    """map: a list; shorter iterables are filled up with None; without a function, tuples."""
    if len(iterables) == 1:
        return list(iterables[0]) if function is None else [function(x) for x in iterables[0]]
    rows = itertools.zip_longest(*iterables)
    return list(rows) if function is None else [function(*row) for row in rows]


def _filter(function: Any, iterable: Any) -> Any:
    """filter: a str of a str, a tuple of a tuple, a list of anything else."""
    found = list(builtins.filter(function, iterable))
    if isinstance(iterable, str):
        return "".join(found)
    return tuple(found) if isinstance(iterable, tuple) else found


def _zip(*iterables: Iterable[Any]) -> list[Any]:
    return list(builtins.zip(*iterables, strict=False))


def _range(*bounds: int) -> list[int]:
    return list(builtins.range(*bounds))


def _round(number: Any, ndigits: int = 0) -> Any:
    """round: a float; halves go away from zero."""
    if isinstance(number, np.ndarray):
        return np.round(number, ndigits)
    value = float(number)
    if not math.isfinite(value) or ndigits > 300:
        return value
    step = decimal.Decimal((0, (1,), -ndigits))
    exact = decimal.Context(prec=700, rounding=decimal.ROUND_HALF_UP)
    return float(decimal.Decimal(value).quantize(step, context=exact))


def _input(prompt: str = "") -> Any:
    return eval(builtins.input(prompt))


HELPERS = SimpleNamespace(
    div=div, whole=whole, Divisor=Divisor, listed=listed, iterator=iterator, view=view,
    next_of=next_of, method=method, compare=compare,
)  # fmt: skip


def builtin_names() -> dict[str, Any]:
    """Python 2's built-in names, and `__py2__`, over those of today."""
    return {
        **vars(builtins),
        "__py2__": HELPERS,
        "str": Str(),
        "xrange": builtins.range, "range": _range, "map": _map, "filter": _filter, "zip": _zip,
        "reduce": functools.reduce, "cmp": _cmp, "sorted": _sorted, "round": _round,
        "unicode": str, "basestring": (str, bytes), "long": int, "unichr": chr,
        "raw_input": builtins.input, "input": _input, "file": File, "open": File,
        "intern": __import__("sys").intern, "apply": lambda f, a=(), k=None: f(*a, **(k or {})),
        "StandardError": Exception, "buffer": memoryview, "coerce": lambda a, b: (a, b),
    }  # fmt: skip
