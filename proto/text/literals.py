"""Values of the text format: from their spelling to the bytes they have on the wire.

The rules are those of protobuf's C++ TextFormat (text_format.cc, tokenizer.cc), which every Caffe
uses to read prototxt: what it refuses is refused here.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable

from caffeio.proto.io.varint import varint

# What repeats in a possessive way is one character, or cannot fail behind its first one: before
# 3.11.5, Python 3.11 forgets to go back where an iteration fails.
SKIP = r"\s*+(?:\#[^\n]*+\s*+)*+"
STRING = r""" (?: "[^"\\\n]*+(?:\\.[^"\\\n]*+)*+" | '[^'\\\n]*+(?:\\.[^'\\\n]*+)*+' ) """.replace(
    " ", ""
)
ATOM = rf"(?:-{SKIP}(?=[\w.]))?[\w.+-]++"

_STRINGS = re.compile(rf"{SKIP}({STRING})", re.ASCII)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv?'\"\\])|([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})"
    r"|u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.?)",
    re.DOTALL,
)
_SIMPLE = dict(zip("abfnrtv?'\"\\", b"\a\b\f\n\r\t\v?'\"\\", strict=True))
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_NUMBER = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?[fF]?"
    r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?[fF]?)"
)
_INFINITE = {"inf": "inf", "infinity": "inf", "nan": "nan", "inff": "", "nanf": ""}
_TRUE, _FALSE = ("true", "True", "t"), ("false", "False", "f")
_MAX_DIGITS = 1000
_FLOAT_MAX, _ROUNDS_TO_MAX = 3.4028234663852886e38, 3.4028235677973366e38
_SPACE = re.compile(SKIP, re.ASCII)


class BadValueError(ValueError):
    """A value that the field cannot take; `at` is its place within the given text."""

    def __init__(self, message: str, at: int = 0) -> None:
        """`at` counts from the begin of the value's text."""
        super().__init__(message)
        self.at = at


def atom(text: str) -> str:
    """A number or a name with the space after its minus sign taken out."""
    if text[0] == "-" and not text[1:2].isalnum() and text[1:2] != ".":
        return "-" + _SPACE.sub("", text[1:], count=1)
    return text


def integer(text: str, low: int, high: int) -> int:
    """A decimal, hexadecimal or octal number within `low` to `high`."""
    text = atom(text)
    if not _INTEGER.fullmatch(text):
        raise BadValueError(f"expected an integer, found {text}")
    digits = text.lstrip("-")
    if len(digits) > _MAX_DIGITS:
        raise BadValueError(f"a number of {len(digits)} digits is out of range")
    value = int(digits, 8 if digits[:1] == "0" and digits.isdigit() else 0)
    value = -value if text[0] == "-" else value
    if text[0] == "-" and low == 0:
        raise BadValueError(f"expected a number that is not negative, found {text}")
    if not low <= value <= high:
        raise BadValueError(f"{text} is out of range: {low} to {high}")
    return value


def real(text: str) -> float:
    """A decimal number with or without fraction, exponent and f, or inf, infinity, nan."""
    text = atom(text)
    if _NUMBER.fullmatch(text):
        return float(text.rstrip("fF"))
    word = _INFINITE.get(text.lstrip("-").lower() if text[:2] != "--" else "")
    if not word:
        raise BadValueError(f"expected a number, found {text}")
    return float("-" + word if text[0] == "-" else word)


def single(value: float) -> bytes:
    """The four bytes of a float; what is too large for it becomes infinite, as in C++."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        largest = _FLOAT_MAX if abs(value) <= _ROUNDS_TO_MAX else math.inf
        return struct.pack("<f", math.copysign(largest, value))


def boolean(text: str) -> bool:
    """A bool by any of its names, 0 or 1."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return bool(integer(text, 0, 1))
    raise BadValueError(f"expected true or false, found {text}")


def string(text: str) -> bytes:
    """Adjacent string literals, joined, their escapes resolved."""
    if "\\" not in text and text.count(text[0]) == 2 and text[-1] == text[0]:
        return _bytes(text[1:-1])
    out, at = bytearray(), 0
    if text[0] not in "\"'":
        raise BadValueError(f"expected a string in quotes, found {text}")
    while match := _STRINGS.match(text, at):
        out += _unescape(match[1][1:-1], match.start(1) + 1)
        at = match.end()
    return bytes(out)


def _unescape(body: str, base: int) -> bytes:
    out, last = bytearray(), 0
    for match in _ESCAPE.finditer(body):
        out += _bytes(body[last : match.start()])
        last = match.end()
        simple, octal, hexa, head, trail, short, long = match.groups()
        if simple:
            out.append(_SIMPLE[simple])
        elif octal or hexa:
            out.append((int(octal, 8) if octal else int(hexa, 16)) & 255)
        elif head:  # a pair of UTF-16 surrogates is one character
            pair = bytes.fromhex(head + trail).decode("utf-16-be")
            out += pair.encode()
        elif (short or long) and int(short or long, 16) <= 0x10FFFF:
            out += chr(int(short or long, 16)).encode("utf-8", "surrogatepass")
        else:
            raise BadValueError(f"unknown escape {match[0]} in a string", base + match.start())
    return bytes(out + _bytes(body[last:]))


def _bytes(text: str) -> bytes:
    """UTF-8, but for bytes of the file that are none: they are what they were."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BadValueError("the string has half of a surrogate pair") from None


def _text(text: str) -> bytes:
    data = string(text)
    try:
        data.decode()
    except UnicodeDecodeError:
        raise BadValueError("the string is not UTF-8") from None
    return data


def _number(text: str) -> str:
    if text[0] in "\"'":
        raise BadValueError(f"expected a number, found the string {text}")
    return text


def _whole(low: int, high: int) -> Callable[[str], bytes]:
    return lambda text: varint(integer(_number(text), low, high))


# protobuf's scalar type (descriptor.h, FieldDescriptor::TYPE_*) -> wire type, encoder
_I32, _I64 = 1 << 31, 1 << 63
SCALARS: dict[int, tuple[int, Callable[[str], bytes]]] = {
    1: (1, lambda text: struct.pack("<d", real(_number(text)))),
    2: (5, lambda text: single(real(_number(text)))),
    3: (0, _whole(-_I64, _I64 - 1)),
    4: (0, _whole(0, 2 * _I64 - 1)),
    5: (0, _whole(-_I32, _I32 - 1)),
    8: (0, lambda text: varint(boolean(text))),
    9: (2, lambda text: _delimited(_text(text))),
    12: (2, lambda text: _delimited(string(text))),
    13: (0, _whole(0, 2 * _I32 - 1)),
}


def _delimited(data: bytes) -> bytes:
    return varint(len(data)) + data
