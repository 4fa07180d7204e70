"""Datum and AnnotatedDatum against protobuf, and broken ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.data.records.annotated_datum import AnnotatedBox, encode_annotated, scan_annotated
from caffeio.data.records.datum import encode_datum, scan_datum
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb

INT32 = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=30)


@given(
    channels=INT32, height=INT32, width=INT32, label=INT32, data=st.binary(max_size=300),
    floats=FLOATS, encoded=st.booleans(), record=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_scan_reads_what_protobuf_writes(
    channels: int, height: int, width: int, label: int, data: bytes, floats: list[float],
    encoded: bool, record: int,
) -> None:  # fmt: skip
    message = pb.Datum(channels=channels, height=height, width=width, label=label, data=data,
                       encoded=encoded, record_id=record)  # fmt: skip
    message.float_data.extend(floats)
    datum = scan_datum(message.SerializeToString())
    assert datum[:3] == (channels, height, width)
    assert (datum.label, bytes(datum.data), datum.encoded) == (label, data, encoded)
    found = [] if datum.float_data is None else datum.float_data.tolist()
    assert found == list(message.float_data)


@given(st.binary(max_size=40), INT32, FLOATS, st.booleans())
def test_encode_writes_protobufs_bytes(
    data: bytes, label: int, floats: list[float], encoded: bool
) -> None:
    message = pb.Datum(channels=1, height=2, width=3, data=data, label=label, encoded=encoded)
    message.float_data.extend(floats)
    mine = encode_datum(data=data, label=label, shape=(1, 2, 3), float_data=floats, encoded=encoded)
    assert mine == message.SerializeToString(deterministic=True)


@given(st.binary(max_size=60))
def test_garbage_is_a_data_error_or_a_datum(record: bytes) -> None:
    try:
        scan_datum(record)
        scan_annotated(record)
    except DataError:
        pass


def test_cut_off() -> None:
    record = encode_datum(data=bytes(150), label=700, shape=(3, 5, 10))
    whole = record.index(b"\x28", 150)  # where the label begins: nothing before it is missing
    for length in set(range(len(record))) - {whole}:
        with pytest.raises(DataError, match=r"cut off|needs"):
            scan_datum(record[:length]).pixels()
    assert scan_datum(record[:whole]).pixels().size == 150


def test_pixels_are_a_view() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    record = encode_datum(data=pixels, label=1)
    datum = scan_datum(record)
    assert np.array_equal(datum.pixels(), pixels)
    assert np.shares_memory(datum.pixels(), np.frombuffer(record, np.uint8))


def test_bytes_win_over_floats() -> None:
    record = encode_datum(data=bytes([7, 8]), shape=(1, 1, 2), float_data=[1.0, 2.0])
    assert scan_datum(record).pixels().tolist() == [[[7, 8]]]
    record = encode_datum(data=b"", shape=(1, 1, 2), float_data=[1.0, 2.0])
    assert scan_datum(record).pixels().tolist() == [[[1.0, 2.0]]]


def test_packed_floats() -> None:
    record = encode_datum(shape=(1, 1, 2)) + b"\x32\x08" + np.array([3, 4], "<f4").tobytes()
    assert scan_datum(record).pixels().tolist() == [[[3.0, 4.0]]]


def test_last_of_repeated_fields_counts() -> None:
    record = encode_datum(label=3) + encode_datum(label=9)
    assert scan_datum(record).label == 9


BOX = st.builds(
    AnnotatedBox,
    st.integers(0, 3),
    INT32,
    *[st.floats(-1, 2, width=32) for _ in range(4)],
    st.booleans(),
)


@given(st.lists(BOX, max_size=6))
def test_annotations_come_back(boxes: list[AnnotatedBox]) -> None:
    datum = encode_datum(data=b"abc", label=4, encoded=True)
    found = scan_annotated(encode_annotated(datum, boxes))
    order = list(dict.fromkeys(box.group_label for box in boxes))
    assert found.boxes == sorted(boxes, key=lambda box: order.index(box.group_label))
    assert (bytes(found.datum.data), found.has_type, found.type) == (b"abc", True, 0)


def test_annotated_message_of_ssd() -> None:
    # datum {label: 5} type: BBOX annotation_group { group_label: 2 annotation { instance_id: 1
    # bbox { xmin: 0.25 ymin: 0.5 xmax: 0.75 ymax: 1 label: 9 difficult: true score: 0.5 } } }
    bbox = bytes.fromhex("0d0000803e 150000003f 1d0000403f 250000803f 2809 3001 3d0000003f")
    annotation = b"\x08\x01\x12" + bytes([len(bbox)]) + bbox
    group = b"\x08\x02\x12" + bytes([len(annotation)]) + annotation
    record = b"\x0a\x02\x28\x05\x10\x00\x1a" + bytes([len(group)]) + group
    found = scan_annotated(record)
    assert found.boxes == [AnnotatedBox(2, 1, 0.25, 0.5, 0.75, 1.0, True)]
    assert found.datum.label == 5
