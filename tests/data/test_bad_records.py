"""Records that lie: limits before memory is taken, `--on-bad-record`, `caffeio db verify`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum, scan_datum
from caffeio.data.registry import make_source
from caffeio.data.transform.image import decode
from caffeio.data.transform.image_header import picture_size, set_max_pixels
from caffeio.errors import DataError
from caffeio.proto import caffe_pb2 as pb
from tests.reliability.hostile import jpeg_header, records

KINDS = ["jpg", "png", "bmp", "gif", "webp", "tiff", "ppm"]
if not cv2.haveImageWriter(".gif"):  # OpenCV has GIF from 4.11 on
    KINDS.remove("gif")


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_by_header(kind: str) -> None:
    ok, data = cv2.imencode(f".{kind}", np.zeros((13, 37, 3), np.uint8))
    assert ok
    assert picture_size(bytes(data)) == (13, 37)
    before = set_max_pixels(13 * 37 - 1)
    try:
        with pytest.raises(DataError, match=r"37 x 13 pixels.*--max-pixels"):
            decode(bytes(data))
        set_max_pixels(13 * 37)
        assert decode(bytes(data)).shape[:2] == (13, 37)
    finally:
        set_max_pixels(before)


def test_headers_that_are_cut_off() -> None:
    for kind in KINDS:
        data = bytes(cv2.imencode(f".{kind}", np.zeros((13, 37, 3), np.uint8))[1])
        for length in range(min(len(data), 200)):
            assert picture_size(data[:length]) in (None, (13, 37))


def test_a_picture_bomb_is_refused() -> None:
    with pytest.raises(DataError, match="65500 x 65500 pixels"):
        decode(jpeg_header(65500, 65500))


@pytest.mark.parametrize("shape", [(-1, -1, 3), (0, 2, 2), (3, -4, -5), (1 << 30, 1 << 30, 1)])
def test_datums_of_impossible_sizes(shape: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=r"needs .* values and has 60"):
        scan_datum(encode_datum(data=bytes(60), shape=shape)).pixels()


def layer(source: Path, batch: int) -> pb.LayerParameter:
    return pb.LayerParameter(
        name="data", type="Data", top=["data", "label"],
        data_param=pb.DataParameter(source=str(source), batch_size=batch, backend="LMDB"),
    )  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Ten records, of which the first, the fifth and the last are bad."""
    good = records(10)
    for i in (0, 4, 9):
        good[i] = (good[i][0], b"\x0a\xff\xff" if i else b"")
    write_lmdb(tmp_path / "db", good)
    return tmp_path / "db"


@pytest.mark.parametrize("threads", [0, 3])
def test_skip_takes_the_record_behind(database: Path, threads: int) -> None:
    notes: list[str] = []
    options = {"on_bad_record": "skip", "note": notes.append, "threads": threads}
    with make_source(layer(database, 10), **options) as source:
        data, labels = source.next()
        assert labels.tolist() == [1, 1, 0, 1, 1, 1, 0, 1, 0, 1]  # 1 for 0, 5 for 4, 1 for 9 and 0
        again = source.next()
        assert np.array_equal(again[0], data)
    wanted = [scan_datum(v).pixels() for _, v in records(10)]
    assert np.array_equal(data[0], wanted[1]) and np.array_equal(data[4], wanted[5])
    assert min(notes).startswith("Skipping a bad record: layer 'data'")
    assert len(notes) == 3 and all("key '0000000" in note for note in notes)


def test_stop_is_the_default(database: Path) -> None:
    with pytest.raises(DataError, match="key '00000000'"):
        make_source(layer(database, 10))


def test_nothing_but_bad_records_is_an_error(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [(b"%d" % i, b"\xff") for i in range(3)])
    with pytest.raises(DataError, match="key '"):
        make_source(layer(tmp_path / "db", 2), on_bad_record="skip")


def test_skip_in_a_list_of_images(tmp_path: Path) -> None:
    for i in (0, 2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((4, 4, 3), i, np.uint8))
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "list").write_text(f"{tmp_path}/0.png 0\n{tmp_path}/1.png 1\n{tmp_path}/2.png 2\n")
    param = pb.LayerParameter(
        name="data", type="ImageData", top=["data", "label"],
        image_data_param=pb.ImageDataParameter(source=str(tmp_path / "list"), batch_size=3),
    )  # fmt: skip
    with make_source(param, on_bad_record="skip") as source:
        assert source.next()[1].tolist() == [0, 2, 2]


def test_verify(database: Path) -> None:
    result = CliRunner().invoke(main, ["db", "verify", str(database)])
    assert result.exit_code == 1
    assert "key 00000004: not a Datum" in result.output
    assert "10 records, 3 bad" in result.output
    result = CliRunner().invoke(main, ["db", "verify", str(database), "--json", "--threads", "2"])
    data = json.loads(result.output)
    assert [row["key"] for row in data["bad"]] == ["00000000", "00000004", "00000009"]
    assert data["shapes"] == {"3x4x5": 7}


def test_verify_a_good_one(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", records(500))
    result = CliRunner().invoke(main, ["db", "verify", str(tmp_path / "db")])
    assert (result.exit_code, result.output.count("500 records, 0 bad")) == (0, 1)


def test_verify_looks_at_pictures(tmp_path: Path) -> None:
    picture = bytes(cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1])
    rows = [
        (b"a", encode_datum(data=picture, encoded=True, label=1)),
        (b"b", encode_datum(data=picture, encoded=True, shape=(3, 30, 20))),
        (b"c", encode_datum(data=b"", encoded=True)),
        (b"d", encode_datum(data=jpeg_header(60000, 60000), encoded=True)),
    ]
    write_lmdb(tmp_path / "db", rows)
    result = CliRunner().invoke(main, ["db", "verify", str(tmp_path / "db")])
    for word in ("key b: the picture has 30 x 20", "key c: cannot decode", "key d: the picture"):
        assert word in result.output
    assert "key a" not in result.output
