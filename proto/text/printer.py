"""Messages to text, byte for byte as protobuf's C++ TextFormat prints them into Caffe's logs.

Sources: protobuf 3.21's text_format.cc (Printer) and stubs/strutil.cc (CEscape, SimpleFtoa,
SimpleDtoa).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.message import Message

from caffeio.proto.dialect import schema

_SMALLEST_NORMAL = 2.0**-126
_ESCAPES = {
    **{byte: f"\\{byte:03o}" for byte in range(256) if not 0x20 <= byte < 0x7F},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    ord('"'): '\\"',
    ord("'"): "\\'",
    ord("\\"): "\\\\",
}
_DOUBLE, _FLOAT, _BOOL, _STRING, _MESSAGE, _BYTES, _ENUM = 1, 2, 8, 9, 11, 12, 14


def format_float(value: float) -> str:
    """A float32 in the six digits that C++ prints, or nine where six are another number.

    Subnormal numbers have nine: C's strtof reports them as out of range, so C++ distrusts six.
    """
    text = f"{value:.6g}"
    if math.isfinite(value):
        subnormal = 0 < abs(value) < _SMALLEST_NORMAL
        if subnormal or struct.pack("<f", value) != _packed(text):
            return f"{value:.9g}"
    return text


def _packed(text: str) -> bytes:
    try:
        return struct.pack("<f", float(text))
    except OverflowError:
        return b""


def format_double(value: float) -> str:
    """A double in fifteen digits, or seventeen where fifteen are another number."""
    text = f"{value:.15g}"
    return text if not math.isfinite(value) or float(text) == value else f"{value:.17g}"


def escape(value: str | bytes) -> str:
    """A string in double quotes with C's escapes; all that is not ASCII in octal."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return '"' + data.decode("latin-1").translate(_ESCAPES) + '"'


def format_scalar(field: Any, value: Any) -> str:
    """One value of a field that is no message, as it stands in text."""
    return _SCALARS.get(field.type, _other)(field, value)


def _enum(field: Any, value: Any) -> str:
    known = field.enum_type.values_by_number.get(value)
    return known.name if known is not None else str(value)


def _other(field: Any, value: Any) -> str:
    return str(value)


_SCALARS: dict[int, Callable[[Any, Any], str]] = {
    _DOUBLE: lambda _, value: format_double(value),
    _FLOAT: lambda _, value: format_float(value),
    _BOOL: lambda _, value: "true" if value else "false",
    _STRING: lambda _, value: escape(value),
    _BYTES: lambda _, value: escape(value),
    _ENUM: _enum,
}


def format_message(message: Message, *, dialect: str = "bvlc", indent: int = 0) -> str:
    """What C++ DebugString prints of a message: a line a field, by field number.

    The numbers that order the fields are those of `dialect`; fields that it does not have come
    after, by their number in the canonical schema. `indent` counts levels of two spaces.
    """
    out: list[str] = []
    _print(message, "  " * indent, dialect, out)
    return "".join(out)


def _print(message: Any, space: str, dialect: str, out: list[str]) -> None:
    fields = message.ListFields()
    order = _order(message.DESCRIPTOR, dialect)
    if order:
        fields.sort(key=lambda item: order.get(item[0].name, item[0].number + schema.OWN))
    for field, value in fields:
        head = f"{space}{field.name}"
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                out.append(f"{head} {{\n")
                _print(inner, space + "  ", dialect, out)
                out.append(f"{space}}}\n")
        elif field.is_repeated:
            show = _SCALARS.get(field.type, _other)
            out.extend(f"{head}: {show(field, item)}\n" for item in value)
        else:
            out.append(f"{head}: {format_scalar(field, value)}\n")


@cache
def _order(descriptor: Any, dialect: str) -> dict[str, int]:
    """A dialect's numbers of a message's fields; bvlc's are the canonical schema's own."""
    if dialect == "bvlc":
        return {}
    name = descriptor.full_name.partition(".")[2]
    return {key: f.number for key, f in schema.load(dialect).messages.get(name, {}).items()}
