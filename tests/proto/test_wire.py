from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.errors import ParseError
from caffeio.proto.caffe_pb2 import BlobShape, LayerParameter
from caffeio.proto.io import wire


@given(st.integers(0, 2**64 - 1))
def test_varint_round_trip(value: int) -> None:
    data = wire.varint(value)
    assert wire.read_varint(data, 0, len(data)) == (value, len(data))
    assert wire.varint_size(value) == len(data)


@given(st.integers(-(2**63), 2**63 - 1))
def test_varints_are_protobufs(value: int) -> None:
    data = BlobShape(dim=[value]).SerializeToString()
    (_, _, span), *_ = wire.iter_fields(data)
    assert isinstance(span, tuple)
    assert data[span[0] :] == wire.varint(value)
    assert [wire.signed(v) for v in wire.packed_varints(data, *span)] == [value]


@pytest.mark.parametrize(("bits", "stored", "value"), [(32, -1, -1), (32, 5, 5), (64, -7, -7)])
def test_signed(bits: int, stored: int, value: int) -> None:
    assert wire.signed(stored & (2**64 - 1), bits) == value


def test_fields_of_a_message() -> None:
    data = LayerParameter(name="conv1", phase=1, loss_weight=[2.0]).SerializeToString()
    fields = list(wire.iter_fields(data))
    assert [(number, kind) for number, kind, _ in fields] == [
        (1, wire.BYTES),
        (5, wire.FIXED32),
        (10, wire.VARINT),
    ]
    name, weight, phase = (value for _, _, value in fields)
    assert isinstance(name, tuple)
    assert isinstance(weight, tuple)
    assert data[slice(*name)] == b"conv1"
    assert data[slice(*weight)] == b"\0\0\0\x40"
    assert phase == 1
    places = [data[begin:stop] for *_, begin, stop in wire.iter_places(data)]
    assert b"".join(places) == data


def test_walks_an_mmap(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(wire.bytes_field(3, b"abc") + wire.varint_field(4, -1))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert list(wire.iter_fields(view)) == [(3, 2, (2, 5)), (4, 0, 2**64 - 1)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "byte 1: a varint is cut off"),
        (b"\x08" + b"\xff" * 9, "byte 1: a varint is cut off"),
        (b"\x08" + b"\xff" * 10 + b"\1", "byte 1: a varint is longer than 10 bytes"),
        (b"\x00\x00", "byte 0: field number 0"),
        (wire.varint(1 << 32), "byte 0: field number 536870912"),
        (b"\x0a\x05abc", "byte 0: field 1 has 5 bytes, but only 3 are left"),
        (b"\x08\1\x0a" + wire.varint(2**63), "byte 2: field 1 has 9223372036854775808 bytes"),
        (b"\x0d\0\0\0", "byte 0: field 1 has 4 bytes, but only 3"),
        (b"\x09\0\0\0", "byte 0: field 1 has 8 bytes, but only 3"),
        (b"\x0b", "byte 0: field 1 is a group"),
        (b"\x0c", "byte 0: field 1 is a group"),
        (b"\x0e", "byte 0: field 1 has wire type 6"),
        (b"\x0f", "byte 0: field 1 has wire type 7"),
    ],
)
def test_broken_bytes(data: bytes, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        list(wire.iter_fields(data))


def test_end_is_the_messages_end() -> None:
    with pytest.raises(ParseError, match="only 1 are left"):
        list(wire.iter_fields(b"\x0a\x02ab", 0, 3))


def test_depth() -> None:
    wire.check_depth(wire.RECURSION_LIMIT, 7)
    with pytest.raises(ParseError, match=r"byte 7: .*100 deep"):
        wire.check_depth(wire.RECURSION_LIMIT + 1, 7)


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_fail_with_an_offset(data: bytes) -> None:
    try:
        places = list(wire.iter_places(data))
    except ParseError as error:
        assert error.where is not None
        assert error.where.startswith("byte ")
    else:
        assert b"".join(data[begin:stop] for *_, begin, stop in places) == data
