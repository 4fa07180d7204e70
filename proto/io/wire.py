"""The protobuf wire format, low level: fields found in a buffer by their place, never copied.

Works on anything whose items are ints and whose slices are bytes-like (bytes, memoryview, mmap),
so a file of any size can be walked without reading its payload. Format: protobuf's encoding guide.
Every length and every number is checked; what is wrong raises ParseError with the byte offset.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NoReturn

from caffeio.errors import ParseError
from caffeio.proto.io.varint import varint

Buffer = bytes | bytearray | memoryview | mmap.mmap
Span = tuple[int, int]
Value = int | Span

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
KINDS = ("varint", "fixed64", "length-delimited", "start of group", "end of group", "fixed32")

MAX_NUMBER = (1 << 29) - 1
RECURSION_LIMIT = 100  # protobuf's own
_MASK64 = (1 << 64) - 1


def fail(message: str, offset: int) -> NoReturn:
    """Raise ParseError for the byte at `offset` of the file."""
    raise ParseError(message, where=f"byte {offset}")


def check_depth(depth: int, offset: int) -> None:
    """Raise ParseError if messages are nested deeper than protobuf allows."""
    if depth > RECURSION_LIMIT:
        fail(f"messages nested more than {RECURSION_LIMIT} deep", offset)


def read_varint(buf: Buffer, pos: int, end: int) -> tuple[int, int]:
    """Read the varint at `pos`; return its value (0 to 2**64 - 1) and the place behind it."""
    begin, shift, value = pos, 0, 0
    while pos < end:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, pos
        shift += 7
        if shift == 70:
            fail("a varint is longer than 10 bytes", begin)
    fail("a varint is cut off by the end of its message", begin)


def read_tag(buf: Buffer, pos: int, end: int) -> tuple[int, int, int]:
    """Read the tag at `pos`; return field number, wire type and the place behind it."""
    key, after = read_varint(buf, pos, end)
    number, wire_type = key >> 3, key & 7
    if not 0 < number <= MAX_NUMBER:
        fail(f"field number {number} is not between 1 and {MAX_NUMBER}", pos)
    if wire_type > FIXED32:
        fail(f"field {number} has wire type {wire_type}, which does not exist", pos)
    return number, wire_type, after


def read_field(buf: Buffer, pos: int, end: int) -> tuple[int, int, Value, int]:
    """Read the field at `pos`; return number, wire type, value and the place behind it.

    The value is an int for a varint, and (start, stop) of the payload for other wire types.
    Groups are refused: no caffe.proto has them.
    """
    number, wire_type, start = read_tag(buf, pos, end)
    if wire_type == VARINT:
        value, after = read_varint(buf, start, end)
        return number, wire_type, value, after
    if wire_type == BYTES:
        size, start = read_varint(buf, start, end)
    elif wire_type == FIXED32:
        size = 4
    elif wire_type == FIXED64:
        size = 8
    else:
        fail(f"field {number} is a group, which no Caffe file has", pos)
    if size > end - start:
        fail(f"field {number} has {size} bytes, but only {end - start} are left", pos)
    return number, wire_type, (start, start + size), start + size


def iter_fields(
    buf: Buffer, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, Value]]:
    """Yield (number, wire type, value) of each field of the message in buf[start:end].

    The value is as in `read_field`; messages inside are not entered.
    """
    stop = len(buf) if end is None else end
    pos = start
    while pos < stop:
        number, wire_type, value, pos = read_field(buf, pos, stop)
        yield number, wire_type, value


def iter_places(
    buf: Buffer, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, Value, int, int]]:
    """As `iter_fields`, with the places where the field begins (at its tag) and ends."""
    stop = len(buf) if end is None else end
    pos = start
    while pos < stop:
        begin = pos
        number, wire_type, value, pos = read_field(buf, pos, stop)
        yield number, wire_type, value, begin, pos


def packed_varints(buf: Buffer, start: int, end: int) -> list[int]:
    """The varints packed in buf[start:end]."""
    out, pos = [], start
    while pos < end:
        value, pos = read_varint(buf, pos, end)
        out.append(value)
    return out


def signed(value: int, bits: int = 64) -> int:
    """The int32 or int64 that protobuf stores as the varint `value`."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def varint_size(value: int) -> int:
    """The number of bytes of `varint(value)`."""
    return max(1, -(-(value & _MASK64).bit_length() // 7))


def tag(number: int, wire_type: int) -> bytes:
    """Encode a field's tag."""
    return varint(number << 3 | wire_type)


def varint_field(number: int, value: int) -> bytes:
    """Encode a whole varint field."""
    return tag(number, VARINT) + varint(value)


def bytes_header(number: int, size: int) -> bytes:
    """Encode tag and length of a length-delimited field whose `size` bytes of payload follow."""
    return tag(number, BYTES) + varint(size)


def bytes_field(number: int, payload: Buffer) -> bytes:
    """Encode a whole length-delimited field."""
    return b"".join((bytes_header(number, len(payload)), payload))
