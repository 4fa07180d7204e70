"""Where the numbers of a blob lie in a file, and views of them: no copy, no protobuf.

`scan_blob` finds the values of a BlobProto (caffe.proto; every age and fork of it) in a buffer and
checks them against the blob's shape; `view` makes a read-only array of them, which is a view of the
buffer unless the file stores them in several pieces. Nothing is allocated that the file does not
hold: a shape alone never becomes memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import ParseError
from caffeio.proto.io.wire import BYTES, Buffer, fail, packed_varints, read_field, signed
from caffeio.shape_text import format_shape

Array = NDArray[Any]
Piece = tuple[int, int, int]  # offset of the first value, how many, bytes from one to the next

MAX_AXES = 32  # kMaxBlobAxes of include/caffe/blob.hpp

FLOAT, DOUBLE = np.dtype("<f4"), np.dtype("<f8")
# enum Type of NVIDIA's fork (raw_data_type) and DataType of the OpenCL branch (data_type)
RAW_TYPES: tuple[np.dtype[Any], ...] = (
    DOUBLE,
    FLOAT,
    np.dtype("<f2"),
    np.dtype("<i4"),
    np.dtype("<u4"),
    np.dtype("u1"),
)
PACKED_TYPES: tuple[np.dtype[Any], ...] = (FLOAT, np.dtype("<f2"), DOUBLE)

_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_LEGACY = (1, 2, 3, 4)  # num, channels, height, width


@dataclass(slots=True)
class Values:
    """One repeated number field of a blob: the type, how many values, and where they lie."""

    dtype: np.dtype[Any]
    count: int
    pieces: tuple[Piece, ...]


NOTHING = Values(FLOAT, 0, ())  # shared: never changed


@dataclass(slots=True)
class BlobInfo:
    """A blob as a file has it.

    `shape` is (num, channels, height, width) where the file gives these old fields (`legacy`).
    `dtype` and `count` are those of the values that are stored, `offset` is the place of the first
    one in the file (-1 if there is none, or if only the HDF5 library can find it).
    """

    shape: tuple[int, ...]
    legacy: bool
    dtype: np.dtype[Any]
    count: int
    offset: int
    data: Values
    diff: Values = field(default_factory=lambda: NOTHING)
    start: int = 0  # the whole BlobProto in the file: buffer[start:end]
    end: int = 0


def shapes_match(blob: BlobInfo, target_shape: Sequence[int]) -> bool:
    """Whether Caffe copies `blob` into a parameter of `target_shape`: `Blob::ShapeEquals`.

    Shapes must be the same, rank included. A legacy 4-D shape is compared with the target's last
    four axes, missing leading ones being 1: (1, 1, 1, N) fits [N] and (1, 1, M, N) fits [M, N].
    """
    target = tuple(target_shape)
    if blob.legacy:
        return len(target) <= 4 and (1,) * (4 - len(target)) + target == blob.shape
    return target == blob.shape


def scan_blob(buf: Buffer, start: int, end: int) -> BlobInfo:
    """Find shape and values of the BlobProto in buf[start:end].

    Raises ParseError, with the byte, for whatever is not a BlobProto or does not fit together.
    A shape without any value is let through (`count` 0); `view` refuses it.
    """
    try:
        return _scan_plain(buf, start, end) or _scan_any(buf, start, end)
    except IndexError:
        fail("a blob is cut off", len(buf))


def _scan_plain(buf: Buffer, start: int, end: int) -> BlobInfo | None:
    """Read what today's Caffe writes for a float blob (packed data, then shape), else None."""
    if end - start < 4 or buf[start] != 0x2A:
        return None
    pos, size, shift = start + 1, 0, 0
    while True:
        byte = buf[pos]
        pos += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            return None
    after = pos + size
    rest = end - after
    if not 4 <= rest < 128 or size & 3:
        return None
    tail = buf[after:end]
    if tail[0] != 0x3A or tail[1] != rest - 2 or tail[2] != 0x0A or tail[3] != rest - 4:
        return None
    shape = tuple(_dims(tail, 4, rest, after))
    count = size >> 2
    _check_shape(shape, count, start)
    values = Values(FLOAT, count, ((pos, count, 4),) if count else ())
    return BlobInfo(shape, False, FLOAT, count, pos if count else -1, values, NOTHING, start, end)


def _dims(buf: Buffer, pos: int, end: int, origin: int = 0) -> list[int]:
    """The packed dims in buf[pos:end] (which stands at byte `origin` of the file)."""
    dims: list[int] = []
    while pos < end:
        low = buf[pos]
        pos += 1
        if low > 0x7F:
            high = buf[pos] if pos < end else 0x80
            pos += 1
            if high > 0x7F:
                try:
                    return dims + [signed(n) for n in packed_varints(buf, pos - 2, end)]
                except ParseError as error:
                    fail(error.message, origin + pos - 2)
            low += (high - 1) << 7
        dims.append(low)
    return dims


class _Fields:
    """What has been met of a BlobProto."""

    def __init__(self) -> None:
        self.legacy: dict[int, int] = {}
        self.dims: list[int] = []
        self.pieces: dict[int, list[Piece]] = {}
        self.spans: dict[int, tuple[int, int]] = {}  # fields 10 to 13, if bytes
        self.numbers: dict[int, int] = {}  # fields 10 to 13, if varints


def _scan_any(buf: Buffer, start: int, end: int) -> BlobInfo:
    fields = _Fields()
    pos = start
    while pos < end:
        number, _, value, after = read_field(buf, pos, end)
        if isinstance(value, int):
            if number in _LEGACY:
                fields.legacy[number] = signed(value)
            elif 10 <= number <= 13:
                fields.numbers[number] = value
        elif number in (_DATA, _DIFF, _DOUBLE_DATA, _DOUBLE_DIFF):
            after = _add_piece(fields, buf, number, pos, value, after, end)
        elif number == _SHAPE:
            if value[1] - value[0] > 12 * MAX_AXES:
                fail(f"a blob has more than {MAX_AXES} axes", pos)
            _add_dims(fields.dims, buf, *value)
        elif 10 <= number <= 13:
            fields.spans[number] = value
        pos = after
    return _blob_of(fields, start, end)


def _add_piece(
    fields: _Fields,
    buf: Buffer,
    number: int,
    pos: int,
    value: tuple[int, int],
    after: int,
    end: int,
) -> int:
    """Note the values of one occurrence, or of a run of unpacked ones; return the place behind."""
    width = 8 if number in (_DOUBLE_DATA, _DOUBLE_DIFF) else 4
    first, last = value
    pieces = fields.pieces.setdefault(number, [])
    wire_type = buf[pos] & 7
    if wire_type == BYTES:
        if (last - first) % width:
            fail(f"packed numbers of {width} bytes fill {last - first} bytes", first)
        if last > first:
            pieces.append((first, (last - first) // width, width))
        return after
    if last - first != width:
        fail(f"field {number} of a blob has a number of {last - first} bytes", pos)
    count, stride = _field_run(buf, pos, first - pos, width, end)
    pieces.append((first, count, stride))
    return pos + count * stride


def _field_run(buf: Buffer, pos: int, tag_size: int, width: int, end: int) -> tuple[int, int]:
    """How many unpacked numbers with the same tag stand in a row at `pos`, and their stride."""
    stride = tag_size + width
    wanted, count, block = buf[pos], 0, 64
    if tag_size > 1 or pos + stride >= end or buf[pos + stride] != wanted:
        return 1, stride
    while True:
        room = min(block, (end - pos) // stride - count)
        if room <= 0:
            return count, stride
        tags = np.frombuffer(buf, np.uint8, room * stride, pos + count * stride)[::stride]
        other = np.flatnonzero(tags != wanted)
        if other.size:
            return count + int(other[0]), stride
        count += room
        block = min(block * 8, 1 << 22)


def _add_dims(dims: list[int], buf: Buffer, start: int, end: int) -> None:
    """Append the dims of the BlobShape in buf[start:end], packed or not."""
    pos = start
    while pos < end:
        number, _, value, pos = read_field(buf, pos, end)
        if number == 1:
            if isinstance(value, int):
                dims.append(signed(value))
            else:
                dims += [signed(n) for n in packed_varints(buf, *value)]
        if len(dims) > MAX_AXES:
            fail(f"a blob has more than {MAX_AXES} axes", start)


def _blob_of(fields: _Fields, start: int, end: int) -> BlobInfo:
    legacy = bool(fields.legacy)
    shape = tuple(fields.legacy.get(n, 0) for n in _LEGACY) if legacy else tuple(fields.dims)
    data = _raw(fields, diff=False) or _typed(fields, _DOUBLE_DATA, _DATA)
    diff = _raw(fields, diff=True) or _typed(fields, _DOUBLE_DIFF, _DIFF)
    _check_shape(shape, data.count, start)
    if diff.count and diff.count != data.count:
        fail(f"a blob has {data.count} values, but its diff has {diff.count}", start)
    offset = data.pieces[0][0] if data.pieces else -1
    return BlobInfo(shape, legacy, data.dtype, data.count, offset, data, diff, start, end)


def _typed(fields: _Fields, doubles: int, floats: int) -> Values:
    """The values of `double_data` if there are any, else those of `data`, as Caffe reads them."""
    for number, dtype in ((doubles, DOUBLE), (floats, FLOAT)):
        if pieces := fields.pieces.get(number):
            return Values(dtype, sum(count for _, count, _ in pieces), tuple(pieces))
    return NOTHING


def _raw(fields: _Fields, diff: bool) -> Values | None:
    """The values of NVIDIA's raw_data, or of the OpenCL branch's packed_data, if there are any.

    Both branches chose the numbers 10 to 13; the wire types tell them apart: NVIDIA's 10 and 11
    are enums, 12 and 13 bytes; the OpenCL branch's 10 to 12 are bytes and 13 is its enum.
    """
    spans, numbers = fields.spans, fields.numbers
    if 10 in spans or 11 in spans or 13 in numbers:
        place, code, types = (12 if diff else 11), numbers.get(13, 0), PACKED_TYPES
    else:
        place, types = (13 if diff else 12), RAW_TYPES
        code = numbers.get(11 if diff else 10, -1)
    if place not in spans:
        return None
    first, last = spans[place]
    if not 0 <= code < len(types):
        fail(f"a blob has raw values of a type that cannot be read (number {code})", first)
    dtype = types[code]
    count, odd = divmod(last - first, dtype.itemsize)
    if odd:
        fail(f"raw values of type {dtype} fill {last - first} bytes", first)
    return Values(dtype, count, ((first, count, dtype.itemsize),) if count else ())


def _check_shape(shape: tuple[int, ...], count: int, offset: int) -> None:
    if len(shape) > MAX_AXES:
        fail(f"a blob has {len(shape)} axes, more than {MAX_AXES}", offset)
    if shape and min(shape) < 0:
        fail(f"a blob has the shape {_text(shape)}: a negative dimension", offset)
    wanted = math.prod(shape)
    if count and count != wanted:
        fail(f"a blob of shape {_text(shape)} has {wanted} values, but {count} are stored", offset)


def _text(shape: tuple[int, ...]) -> str:
    return format_shape(shape, " x ", unknown=None) if shape else "() (none given)"


def view(buf: Buffer, shape: tuple[int, ...], values: Values) -> Array:
    """The values as a read-only array of `shape`: a view of `buf` (perhaps not aligned) if it can.

    Raises ParseError if the file does not hold the values that the shape asks for.
    """
    if values.count != math.prod(shape):
        raise ParseError(f"the shape {_text(shape)} is given, but no values")
    if len(values.pieces) == 1:
        array = _piece(buf, values.dtype, values.pieces[0])
    elif values.pieces:
        array = np.concatenate([_piece(buf, values.dtype, piece) for piece in values.pieces])
    else:
        array = np.empty(0, values.dtype)
    try:
        array = array.reshape(shape)
    except ValueError as error:  # no values, and a dimension that numpy cannot express
        raise ParseError(f"the shape {_text(shape)} cannot be made: {error}") from None
    array.flags.writeable = False
    return array


def _piece(buf: Buffer, dtype: np.dtype[Any], piece: Piece) -> Array:
    offset, count, stride = piece
    if stride == dtype.itemsize:
        return np.frombuffer(buf, dtype, count, offset)
    span = (count - 1) * stride + dtype.itemsize
    return np.ndarray((count,), dtype, np.frombuffer(buf, np.uint8, span, offset), 0, (stride,))


__all__ = [
    "MAX_AXES",
    "NOTHING",
    "Array",
    "BlobInfo",
    "Values",
    "scan_blob",
    "shapes_match",
    "view",
]
