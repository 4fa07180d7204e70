from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.errors import DataError, ParseError, SnapshotError, WeightsError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.io.blobs import BlobInfo, Values, scan_blob, shapes_match, view
from caffeio.proto.io.stream import Numbers, blob_parts
from caffeio.proto.io.varint import varint
from caffeio.proto.io.wire import bytes_field, tag, varint_field
from caffeio.proto.weights.blobproto import read_blobproto, write_blobproto
from tests.paths import GOLDEN

MEANS = sorted(GOLDEN.glob("data/*/*.binaryproto")) + sorted(
    GOLDEN.glob("layers/InfogainLoss/assets/*.binaryproto")
)
Chunk = tuple[int, bool, list[float]]  # field, packed, numbers


def scan(data: bytes) -> BlobInfo:
    return scan_blob(data, 0, len(data))


def array(data: bytes) -> np.ndarray:
    info = scan(data)
    return view(data, info.shape, info.data)


def joined(parts: list) -> bytes:
    return b"".join(
        p.array.astype(p.dtype).tobytes() if isinstance(p, Numbers) else bytes(p) for p in parts
    )


def shape_field(*dims: int) -> bytes:
    return bytes_field(7, bytes_field(1, b"".join(map(varint, dims))))


def floats(number: int, *values: float) -> bytes:
    return bytes_field(number, struct.pack(f"<{len(values)}f", *values))


@pytest.mark.parametrize("path", MEANS, ids=lambda p: p.name)
def test_means_of_caffe(path: Path, tmp_path: Path) -> None:
    mean = read_blobproto(path)
    message = pb.BlobProto.FromString(path.read_bytes())
    shape = (message.num, message.channels, message.height, message.width)
    assert mean.shape == shape
    assert mean.ravel().tolist() == list(message.data)
    write_blobproto(tmp_path / "again", mean)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    write_blobproto(tmp_path / "shape", mean, legacy=False)
    message = pb.BlobProto.FromString((tmp_path / "shape").read_bytes())
    assert tuple(message.shape.dim) == shape
    assert not message.HasField("num")


def test_there_are_means() -> None:
    assert len(MEANS) >= 5


def test_mean_of_doubles(tmp_path: Path) -> None:
    mean = np.arange(6.0).reshape(2, 3)
    write_blobproto(tmp_path / "m", mean)
    back = read_blobproto(tmp_path / "m")
    assert back.dtype == np.float64
    assert np.array_equal(back, mean.reshape(1, 1, 2, 3))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"name: 'x'\n", "is text"),
        (MEANS[0].read_bytes()[:-5], "cut off"),
        (b"\x08\x01\x10\x03\x18\x02\x20\x02", "no values"),
        (shape_field(2) + floats(5, 1), "2 values, but 1 are stored"),
    ],
)
def test_broken_means(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "m.binaryproto"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"m\.binaryproto: .*{text}"):
        read_blobproto(path)


def test_missing_mean(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_blobproto(tmp_path / "m.binaryproto", error=WeightsError)


def test_what_is_no_blob(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="complex128"):
        write_blobproto(tmp_path / "m", np.zeros(3, complex))


chunks = st.lists(
    st.tuples(
        st.sampled_from([5, 6, 8, 9]),
        st.booleans(),
        st.lists(st.floats(width=32, allow_nan=False), max_size=12),
    ),
    max_size=6,
)


def encode(parts: list[Chunk], dims: list[int], shape_at: int, packed_dims: bool) -> bytes:
    """A BlobProto with its numbers in these pieces and its shape somewhere among them."""
    fields = []
    for number, packed, values in parts:
        letter, wire_type = ("d", 1) if number > 7 else ("f", 5)
        if packed:
            fields.append(bytes_field(number, struct.pack(f"<{len(values)}{letter}", *values)))
        else:
            head = tag(number, wire_type)
            fields += [head + struct.pack(f"<{letter}", value) for value in values]
    shape = bytes_field(1, b"".join(map(varint, dims))) if packed_dims else b""
    shape = shape or b"".join(varint_field(1, n) for n in dims)
    fields.insert(min(shape_at, len(fields)), bytes_field(7, shape))
    return b"".join(fields)


@given(chunks, st.integers(0, 30), st.booleans(), st.booleans())
def test_reads_what_protobuf_reads(
    parts: list[Chunk], shape_at: int, packed_dims: bool, wide: bool
) -> None:
    data = [v for n, _, vs in parts if n == 8 for v in vs]
    data = data or [v for n, _, vs in parts if n == 5 for v in vs]
    dims = [1] * 3 + [len(data)] if wide else [len(data)]
    raw = encode(parts, dims, shape_at, packed_dims)
    message = pb.BlobProto.FromString(raw)
    diff = list(message.double_diff) or list(message.diff)
    if diff and len(diff) != len(data):
        with pytest.raises(ParseError, match="its diff has"):
            scan(raw)
        return
    info = scan(raw)
    assert info.shape == tuple(message.shape.dim)
    assert info.count == len(data)
    numbers = view(raw, info.shape, info.data)
    assert numbers.dtype == (np.float64 if message.double_data else np.float32)
    assert numbers.ravel().tolist() == (list(message.double_data) or list(message.data))
    assert not numbers.flags.writeable
    if diff:
        assert view(raw, info.shape, info.diff).ravel().tolist() == diff


@given(st.lists(st.integers(0, 40), max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_writes_what_protobuf_writes(
    dims: list[int], doubles: bool, with_diff: bool, legacy: bool
) -> None:
    dims = [n % 5 for n in dims]
    dtype = np.float64 if doubles else np.float32
    values = np.random.default_rng(1).random(dims).astype(dtype)
    message = pb.BlobProto()
    if legacy:
        padded = [1] * (4 - len(dims)) + dims
        message.num, message.channels, message.height, message.width = padded
    elif dims:
        message.shape.dim.extend(dims)
    (message.double_data if doubles else message.data).extend(values.ravel().tolist())
    diff = None
    if with_diff:
        diff = values + 1
        (message.double_diff if doubles else message.diff).extend(diff.ravel().tolist())
    assert joined(blob_parts(values, diff, legacy=legacy)) == message.SerializeToString()


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 575, 577, 5000])
@pytest.mark.parametrize(("number", "letter", "wire_type"), [(5, "f", 5), (8, "d", 1)])
def test_long_runs_of_unpacked_numbers(
    count: int, number: int, letter: str, wire_type: int
) -> None:
    head = tag(number, wire_type)
    values = np.arange(count, dtype=letter)
    raw = b"".join(head + struct.pack(f"<{letter}", v) for v in values) + shape_field(count)
    info = scan(raw)
    assert len(info.data.pieces) == 1
    numbers = view(raw, info.shape, info.data)
    assert np.array_equal(numbers, values)
    assert not numbers.flags.owndata  # a view with a stride, no copy


def test_double_data_comes_first() -> None:
    raw = floats(5, 1, 2) + shape_field(1) + bytes_field(8, struct.pack("<d", 7))
    assert array(raw).tolist() == [7]


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0, "<f8"), (1, "<f4"), (2, "<f2"), (3, "<i4"), (4, "<u4"), (5, "u1")],
)
def test_raw_data_of_nvidia(code: int, dtype: str) -> None:
    values = np.arange(6).astype(dtype).reshape(2, 3)
    raw = shape_field(2, 3) + varint_field(10, code) + varint_field(11, code)
    raw += bytes_field(12, values.tobytes()) + bytes_field(13, (values + 1).tobytes())
    info = scan(raw)
    assert info.dtype == np.dtype(dtype)
    assert np.array_equal(view(raw, info.shape, info.data), values)
    assert np.array_equal(view(raw, info.shape, info.diff), values + 1)
    if code != 5:
        assert joined(blob_parts(values, (values + 1).astype(dtype), raw=True)) == raw


@pytest.mark.parametrize(("code", "dtype"), [(0, "<f4"), (1, "<f2"), (2, "<f8")])
def test_packed_data_of_the_opencl_branch(code: int, dtype: str) -> None:
    values = np.arange(3).astype(dtype)
    raw = shape_field(3) + bytes_field(11, values.tobytes())
    raw += bytes_field(12, (values + 1).tobytes()) + varint_field(13, code)
    info = scan(raw)
    assert np.array_equal(view(raw, info.shape, info.data), values)
    assert np.array_equal(view(raw, info.shape, info.diff), values + 1)


def test_scalar_blob() -> None:
    """Blob<Dtype>::ToProto writes no shape for a blob without axes."""
    assert joined(blob_parts(np.float32(3).reshape(()))) == floats(5, 3)
    assert array(floats(5, 3)).shape == ()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (shape_field(3) + bytes_field(5, b"123456"), "4 bytes fill 6 bytes"),
        (shape_field(3) + floats(5, 1, 2), "3 values, but 2 are stored"),
        (floats(5, 1, 2) + shape_field(3), "3 values, but 2 are stored"),
        (floats(5, 1, 2), r"none given\) has 1 values, but 2"),
        (floats(5, 1) + shape_field(2**64 - 1, 3), "-1 x 3: a negative dimension"),
        (floats(5, 1) + shape_field(*[1] * 33), "more than 32"),
        (floats(5, 1) + bytes_field(7, varint_field(1, 1) * 33), "more than 32"),
        (floats(5, 1) + bytes_field(7, bytes_field(1, b"\1" * 1000)), "more than 32"),
        (floats(5, 1) + bytes_field(7, bytes_field(1, b"\xff\xff")), "cut off"),
        (floats(5, 1, 2) + floats(6, 1) + shape_field(2), "2 values, but its diff has 1"),
        (b"\x2a\xff\xff\xff\xff\x0f" + b"1234", "only 4 are left"),
        (b"\x2a" + b"\xff" * 12, "10 bytes"),
        (b"\x2a", "cut off"),
        (b"\x2a\x04", "only 0 are left"),
        (tag(5, 1) + b"12345678", "number of 8 bytes"),
        (tag(8, 5) + b"1234", "number of 4 bytes"),
        (b"\x2b", "group"),
        (b"\x00\x01", "field number 0"),
        (shape_field(1) + bytes_field(12, b"1234"), "a type that cannot be read"),
        (shape_field(1) + varint_field(10, 9) + bytes_field(12, b"1234"), "cannot be read"),
        (shape_field(1) + varint_field(10, 0) + bytes_field(12, b"1234"), "fill 4 bytes"),
    ],
)
def test_broken_blobs(raw: bytes, text: str) -> None:
    with pytest.raises(ParseError, match=text):
        scan(raw)


def test_a_shape_alone_is_not_memory() -> None:
    raw = shape_field(1 << 40)
    info = scan(raw)
    assert (info.shape, info.count, info.offset) == ((1 << 40,), 0, -1)
    with pytest.raises(ParseError, match="no values"):
        view(raw, info.shape, info.data)


def test_empty_blob() -> None:
    raw = shape_field(0, 3)
    assert array(raw).shape == (0, 3)
    with pytest.raises(ParseError, match="cannot be made"):
        array(shape_field(0, 2**62, 2**62))


def test_two_byte_dims() -> None:
    raw = floats(5, *range(300)) + shape_field(300)
    assert array(raw).shape == (300,)
    raw = floats(5, *range(128 * 200)) + shape_field(128, 200)
    assert array(raw).shape == (128, 200)


def test_numbers_of_any_layout() -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for values in (base.T, base[:, ::-1], base.astype(">f4"), base.astype(np.int64)):
        assert np.array_equal(array(joined(blob_parts(values))), values)


def info(shape: tuple[int, ...], legacy: bool) -> BlobInfo:
    count = int(np.prod(shape))
    return BlobInfo(shape, legacy, np.dtype("<f4"), count, 0, Values(np.dtype("<f4"), count, ()))


@pytest.mark.parametrize(
    ("shape", "legacy", "target", "same"),
    [
        ((3, 4), False, (3, 4), True),
        ((3, 4), False, (4, 3), False),
        ((1, 3, 4), False, (3, 4), False),
        ((), False, (), True),
        ((1,), False, (), False),
        ((1, 1, 1, 5), True, (5,), True),
        ((1, 1, 2, 5), True, (2, 5), True),
        ((1, 1, 2, 5), True, (1, 1, 2, 5), True),
        ((1, 2, 5, 1), True, (2, 5), False),
        ((5, 1, 1, 1), True, (5,), False),
        ((1, 1, 1, 1), True, (), True),
        ((1, 1, 2, 5), True, (1, 1, 1, 2, 5), False),
    ],
)
def test_shapes_match(
    shape: tuple[int, ...], legacy: bool, target: tuple[int, ...], same: bool
) -> None:
    assert shapes_match(info(shape, legacy), target) is same
