"""AnnotatedDatum: a Datum with boxes, read in place.

Field numbers: caffe.proto of SSD, Intel and NVIDIA, where this message is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from caffeio.data.records.datum import (
    Buffer,
    Datum,
    bad,
    int32,
    put_varint,
    scan_datum,
    skip,
    varint,
)
from caffeio.proto.io.varint import varint as encode_varint


class AnnotatedBox(NamedTuple):
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
    boxes: list[AnnotatedBox]
    has_type: bool = False
    type: int = 0  # 0 is BBOX, the only one


def _fields(buf: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, varint or payload) of a message."""
    pos, end = 0, len(buf)
    try:
        while pos < end:
            tag, pos = varint(buf, pos)
            wire = tag & 7
            if wire == 0:
                value, pos = varint(buf, pos)
                yield tag >> 3, value
                continue
            start = varint(buf, pos)[1] if wire == 2 else pos
            pos = skip(buf, pos, wire)
            if pos > end:
                raise bad("it is cut off")
            yield tag >> 3, buf[start:pos]
    except IndexError:
        raise bad("it is cut off") from None


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise bad("an annotation's number has the wrong wire type")
    return int32(value)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise bad("an annotation has the wrong wire type")
    return value


def _bbox(buf: memoryview) -> tuple[float, float, float, float, bool]:
    corners = [0.0, 0.0, 0.0, 0.0]
    difficult = False
    for number, value in _fields(buf):
        if 1 <= number <= 4:
            payload = _message(value)
            if len(payload) != 4:
                raise bad("a corner of a box is no float")
            corners[number - 1] = struct.unpack("<f", payload)[0]
        elif number == 6:
            difficult = bool(_number(value))
    return corners[0], corners[1], corners[2], corners[3], difficult


def _group(buf: memoryview) -> Iterator[AnnotatedBox]:
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
        yield AnnotatedBox(label, instance, *box)


def scan_annotated(record: Buffer) -> AnnotatedDatum:
    """Read a serialized AnnotatedDatum; its pixels stay a view of `record`."""
    datum, boxes, kind = Datum(), list[AnnotatedBox](), None
    for number, value in _fields(memoryview(record)):
        if number == 1:
            datum = scan_datum(_message(value))
        elif number == 2:
            kind = _number(value)
        elif number == 3:
            boxes += _group(_message(value))
    return AnnotatedDatum(datum, boxes, kind is not None, kind or 0)


def encode_annotated(datum: bytes, boxes: Iterable[AnnotatedBox], *, type: int | None = 0) -> bytes:
    """Serialize an AnnotatedDatum; boxes are grouped by label in order of appearance."""
    out = bytearray(b"\x0a" + encode_varint(len(datum)) + datum)
    if type is not None:
        out += put_varint(0x10, type)
    groups: dict[int, bytearray] = {}
    for box in boxes:
        corners = struct.pack("<BfBfBfBf", 0x0D, box.xmin, 0x15, box.ymin, 0x1D, box.xmax,
                              0x25, box.ymax) + put_varint(0x30, int(box.difficult))  # fmt: skip
        one = put_varint(0x08, box.instance_id) + b"\x12" + encode_varint(len(corners)) + corners
        groups.setdefault(box.group_label, bytearray(put_varint(0x08, box.group_label)))
        groups[box.group_label] += b"\x12" + encode_varint(len(one)) + one
    for group in groups.values():
        out += b"\x1a" + encode_varint(len(group)) + bytes(group)
    return bytes(out)
