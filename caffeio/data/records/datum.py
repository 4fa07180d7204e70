"""Datum, read in place: a hand scan of the wire format, no copy of the pixels.

Field numbers: BVLC's caffe.proto. Scanning a record costs about 2 us whatever its size; protobuf
copies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import DataError
from caffeio.proto.io.varint import varint as encode_varint

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
        if len(values) < size or min(shape) <= 0:
            raise DataError(
                f"a Datum of {self.channels} x {self.height} x {self.width} (channels, height, "
                f"width) needs {size} values and has {len(values)}"
            )
        return values[:size].reshape(shape)


def bad(what: str) -> DataError:
    """The error for bytes that are no record."""
    return DataError(f"not a Datum: {what}")


def varint(buf: Buffer, pos: int) -> tuple[int, int]:
    """Value of the varint at `pos`, and the place behind it."""
    value = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
        if shift > 63:
            raise bad("a varint is longer than 10 bytes")


def int32(value: int) -> int:
    """The signed number that a varint stands for."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def skip(buf: Buffer, pos: int, wire: int) -> int:
    """The place behind a field of this wire type whose payload is at `pos`."""
    if wire == 0:
        return varint(buf, pos)[1]
    if wire == 1:
        return pos + 8
    if wire == 2:
        size, pos = varint(buf, pos)
        return pos + size
    if wire == 5:
        return pos + 4
    raise bad(f"wire type {wire}")


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
                size, pos = varint(buf, pos)
                data = buf[pos : pos + size]
                pos += size
            elif tag in (0x08, 0x10, 0x18, 0x28, 0x38):
                value = buf[pos]
                pos += 1
                if value >= 0x80:
                    value, pos = varint(buf, pos - 1)
                ints[tag >> 3] = value
                has_label = has_label or tag == 0x28
            elif tag in (0x35, 0x32):
                pos = _floats(buf, pos, tag, floats)
            else:
                tag, pos = varint(buf, pos - 1)
                pos = skip(buf, pos, tag & 7)
    except IndexError:
        raise bad("it is cut off") from None
    if pos != end:
        raise bad("it is cut off")
    return Datum(
        int32(ints[1]), int32(ints[2]), int32(ints[3]), data, int32(ints[5]),
        np.concatenate(floats) if floats else None, bool(ints[7]), has_label,
    )  # fmt: skip


def _floats(buf: memoryview, pos: int, tag: int, out: list[NDArray[np.float32]]) -> int:
    """Read a packed list, or the whole run of single floats that starts here (5 bytes each)."""
    if tag == 0x32:
        size, pos = varint(buf, pos)
        if pos + size > len(buf) or size % 4:
            raise bad("float_data is cut off")
        out.append(np.frombuffer(buf, "<f4", size // 4, pos))
        return pos + size
    pairs = np.frombuffer(buf, np.uint8, (len(buf) - pos + 1) // 5 * 5, pos - 1).reshape(-1, 5)
    other = np.flatnonzero(pairs[:, 0] != 0x35)
    count = int(other[0]) if len(other) else len(pairs)
    if count == 0:
        raise IndexError
    out.append(np.ascontiguousarray(pairs[:count, 1:]).view("<f4").reshape(-1))
    return pos - 1 + 5 * count


# -- writing ---------------------------------------------------------------------------------


def put_varint(tag: int, value: int) -> bytes:
    """A field of wire type 0."""
    return bytes([tag]) + encode_varint(value)


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
        out += put_varint(tag, int(size))
    if data is not None:
        out += b"\x22" + encode_varint(len(data)) + bytes(data)
    if label is not None:
        out += put_varint(0x28, int(label))
    if float_data is not None:
        values = np.asarray(list(float_data) if not isinstance(float_data, np.ndarray)
                            else float_data, "<f4").reshape(-1, 1)  # fmt: skip
        run = np.empty((len(values), 5), np.uint8)
        run[:, 0] = 0x35
        run[:, 1:] = np.ascontiguousarray(values).view(np.uint8)
        out += run.tobytes()
    if encoded is not None:
        out += put_varint(0x38, int(encoded))
    return bytes(out)
