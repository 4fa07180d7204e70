"""JSON that every reader takes: RFC 8259 has no NaN and no Infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON; numbers that are not finite become null.

    Texts are written as they are, but for those that no encoding has (a path of odd bytes): then
    all that is not ASCII is escaped.
    """
    value = _finite(value)
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= c <= "\udfff" for c in text):
        text = json.dumps(value, indent=indent, allow_nan=False)
    return text


def _finite(value: Any) -> Any:
    """The same value with None for what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_finite_key(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _finite_key(key: Any) -> Any:
    """A key that json.dumps would write as NaN, as its text."""
    return repr(key) if isinstance(key, float) and not math.isfinite(key) else key
