"""Datum and AnnotatedDatum, read in place: a hand scan of the wire format, no copy of the pixels.

Field numbers: caffe.proto of BVLC (Datum) and of SSD, Intel and NVIDIA (AnnotatedDatum, the same in
all three). Scanning a record costs about 2 us whatever its size; protobuf copies it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import DataError

Buffer = bytes | bytearray | memoryview


class Datum(NamedTuple):
    """One record: planar CHW pixels, floats of the same order, or an encoded image file."""

    channels: int = 0
    height: int = 0
    width: int = 0
    data: Buffer = b""  # uint8 pixels in CHW order, or the image file where `encoded`
    label: int = 0
    float_data: NDArray[np.float32] | None = None  # C*H*W values; None if there are none
    encoded: bool = False
    has_label: bool = False

    def pixels(self) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The values of a Datum that is not encoded, (C, H, W); `data` wins over `float_data`."""
        shape = (self.channels, self.height, self.width)
        size = self.channels * self.height * self.width
        values: NDArray[np.uint8] | NDArray[np.float32]
        if len(self.data) or self.float_data is None:
            values = np.frombuffer(self.data, np.uint8)
        else:
            values = self.float_data
        if len(values) < size or size <= 0:
            raise DataError(
                f"a Datum of {self.channels} x {self.height} x {self.width} (channels, height, "
                f"width) needs {size} values and has {len(values)}"
            )
        return values[:size].reshape(shape)


class Box(NamedTuple):
    """One annotation: corners in units of the image's width and height."""

    group_label: int
    instance_id: int
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    difficult: bool = False


class AnnotatedDatum(NamedTuple):
    """A Datum with boxes, as SSD's AnnotatedData layer reads it."""

    datum: Datum
    boxes: list[Box]
    has_type: bool = False
    type: int = 0  # 0 is BBOX, the only one


def _bad(what: str) -> DataError:
    return DataError(f"not a Datum: {what}")


def _varint(buf: Buffer, pos: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
        if shift > 63:
            raise _bad("a varint is longer than 10 bytes")


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def _skip(buf: Buffer, pos: int, wire: int) -> int:
    if wire == 0:
        return _varint(buf, pos)[1]
    if wire == 1:
        return pos + 8
    if wire == 2:
        size, pos = _varint(buf, pos)
        return pos + size
    if wire == 5:
        return pos + 4
    raise _bad(f"wire type {wire}")


def scan_datum(record: Buffer) -> Datum:
    """Read a serialized Datum; `data` stays a view of `record`.

    Unknown fields (NVIDIA's record_id ...) are skipped, repeated ones overwritten, as protobuf
    does. Raises DataError if the bytes are not a Datum.
    """
    buf = memoryview(record)
    end = len(buf)
    ints = [0, 0, 0, 0, 0, 0, 0, 0]
    data: Buffer = b""
    floats: list[NDArray[np.float32]] = []
    has_label = False
    pos = 0
    try:
        while pos < end:
            tag = buf[pos]
            pos += 1
            if tag == 0x22:  # data
                size, pos = _varint(buf, pos)
                data = buf[pos : pos + size]
                pos += size
            elif tag in (0x08, 0x10, 0x18, 0x28, 0x38):
                value = buf[pos]
                pos += 1
                if value >= 0x80:
                    value, pos = _varint(buf, pos - 1)
                ints[tag >> 3] = value
                has_label = has_label or tag == 0x28
            elif tag in (0x35, 0x32):
                pos = _floats(buf, pos, tag, floats)
            else:
                tag, pos = _varint(buf, pos - 1)
                pos = _skip(buf, pos, tag & 7)
    except IndexError:
        raise _bad("it is cut off") from None
    if pos != end:
        raise _bad("it is cut off")
    return Datum(
        _int32(ints[1]), _int32(ints[2]), _int32(ints[3]), data, _int32(ints[5]),
        np.concatenate(floats) if floats else None, bool(ints[7]), has_label,
    )  # fmt: skip


def _floats(buf: memoryview, pos: int, tag: int, out: list[NDArray[np.float32]]) -> int:
    """Read a packed list, or the whole run of single floats that starts here (5 bytes each)."""
    if tag == 0x32:
        size, pos = _varint(buf, pos)
        if pos + size > len(buf) or size % 4:
            raise _bad("float_data is cut off")
        out.append(np.frombuffer(buf, "<f4", size // 4, pos))
        return pos + size
    pairs = np.frombuffer(buf, np.uint8, (len(buf) - pos + 1) // 5 * 5, pos - 1).reshape(-1, 5)
    other = np.flatnonzero(pairs[:, 0] != 0x35)
    count = int(other[0]) if len(other) else len(pairs)
    if count == 0:
        raise IndexError
    out.append(np.ascontiguousarray(pairs[:count, 1:]).view("<f4").reshape(-1))
    return pos - 1 + 5 * count


# -- AnnotatedDatum --------------------------------------------------------------------------


def _fields(buf: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, varint or payload) of a message."""
    pos, end = 0, len(buf)
    try:
        while pos < end:
            tag, pos = _varint(buf, pos)
            wire = tag & 7
            if wire == 0:
                value, pos = _varint(buf, pos)
                yield tag >> 3, value
                continue
            start = _varint(buf, pos)[1] if wire == 2 else pos
            pos = _skip(buf, pos, wire)
            if pos > end:
                raise _bad("it is cut off")
            yield tag >> 3, buf[start:pos]
    except IndexError:
        raise _bad("it is cut off") from None


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _bad("an annotation's number has the wrong wire type")
    return _int32(value)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _bad("an annotation has the wrong wire type")
    return value


def _bbox(buf: memoryview) -> tuple[float, float, float, float, bool]:
    corners = [0.0, 0.0, 0.0, 0.0]
    difficult = False
    for number, value in _fields(buf):
        if 1 <= number <= 4:
            payload = _message(value)
            if len(payload) != 4:
                raise _bad("a corner of a box is no float")
            corners[number - 1] = struct.unpack("<f", payload)[0]
        elif number == 6:
            difficult = bool(_number(value))
    return corners[0], corners[1], corners[2], corners[3], difficult


def _group(buf: memoryview) -> Iterator[Box]:
    fields = list(_fields(buf))
    label = 0
    for number, value in fields:
        if number == 1:
            label = _number(value)
    for number, value in fields:
        if number != 2:
            continue
        instance, box = 0, (0.0, 0.0, 0.0, 0.0, False)
        for inner, part in _fields(_message(value)):
            if inner == 1:
                instance = _number(part)
            elif inner == 2:
                box = _bbox(_message(part))
        yield Box(label, instance, *box)


def scan_annotated(record: Buffer) -> AnnotatedDatum:
    """Read a serialized AnnotatedDatum; its pixels stay a view of `record`."""
    datum, boxes, kind = Datum(), list[Box](), None
    for number, value in _fields(memoryview(record)):
        if number == 1:
            datum = scan_datum(_message(value))
        elif number == 2:
            kind = _number(value)
        elif number == 3:
            boxes += _group(_message(value))
    return AnnotatedDatum(datum, boxes, kind is not None, kind or 0)


# -- writing ---------------------------------------------------------------------------------


def _put(tag: int, value: int) -> bytes:
    return bytes([tag]) + _encode(value)


def _encode(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_datum(
    *,
    data: Buffer | NDArray[np.uint8] | None = None,
    label: int | None = None,
    shape: Sequence[int] | None = None,
    float_data: Iterable[float] | NDArray[np.float32] | None = None,
    encoded: bool | None = None,
) -> bytes:
    """Serialize a Datum as protobuf does: fields in order, those that are None left out.

    `shape` is (channels, height, width). An uint8 array of shape (C, H, W) brings its own shape.
    """
    if isinstance(data, np.ndarray):
        shape = data.shape if shape is None else shape
        data = np.ascontiguousarray(data, np.uint8).tobytes()
    out = bytearray()
    for tag, size in zip((0x08, 0x10, 0x18), shape or (), strict=bool(shape)):
        out += _put(tag, int(size))
    if data is not None:
        out += b"\x22" + _encode(len(data)) + bytes(data)
    if label is not None:
        out += _put(0x28, int(label))
    if float_data is not None:
        values = np.asarray(list(float_data) if not isinstance(float_data, np.ndarray)
                            else float_data, "<f4").reshape(-1, 1)  # fmt: skip
        run = np.empty((len(values), 5), np.uint8)
        run[:, 0] = 0x35
        run[:, 1:] = np.ascontiguousarray(values).view(np.uint8)
        out += run.tobytes()
    if encoded is not None:
        out += _put(0x38, int(encoded))
    return bytes(out)


def encode_annotated(datum: bytes, boxes: Iterable[Box], *, type: int | None = 0) -> bytes:
    """Serialize an AnnotatedDatum; boxes are grouped by label in order of appearance."""
    out = bytearray(b"\x0a" + _encode(len(datum)) + datum)
    if type is not None:
        out += _put(0x10, type)
    groups: dict[int, bytearray] = {}
    for box in boxes:
        corners = struct.pack("<BfBfBfBf", 0x0D, box.xmin, 0x15, box.ymin, 0x1D, box.xmax,
                              0x25, box.ymax) + _put(0x30, int(box.difficult))  # fmt: skip
        one = _put(0x08, box.instance_id) + b"\x12" + _encode(len(corners)) + corners
        groups.setdefault(box.group_label, bytearray(_put(0x08, box.group_label)))
        groups[box.group_label] += b"\x12" + _encode(len(one)) + one
    for group in groups.values():
        out += b"\x1a" + _encode(len(group)) + bytes(group)
    return bytes(out)
