"""convert_imageset and compute_image_mean: the databases and means that real Caffe's tools made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from caffeio.data.base import read_mean
from caffeio.data.db.lmdb import LmdbDatabase
from caffeio.data.records.datum import scan_datum
from caffeio.errors import DataError
from caffeio.proto.weights.blobproto import write_blobproto
from caffeio.tools.imageset import compute_image_mean, convert_imageset, mean_values
from tests.data.helpers import photo, raw_lmdb
from tests.paths import GOLDEN

DATA = GOLDEN / "data"
CONVERT = [c for c in json.loads((DATA / "convert" / "convert.json").read_text()) if "records" in c]


def records(path: Path | str) -> list[tuple[bytes, bytes]]:
    db = LmdbDatabase(str(path))
    out = [(bytes(key), bytes(db.get(bytes(key)))) for key in db.iter_keys()]
    db.close()
    return out


def options(command: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for word in command.split():
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            out[name] = int(value) if value.isdigit() else value or True
    return out


@pytest.mark.parametrize("case", CONVERT, ids=lambda c: c["name"])
def test_convert_imageset(case: dict[str, Any], tmp_path: Path) -> None:
    listing = case["command"].split()[-2]
    count = convert_imageset(
        f"{DATA}/images/", DATA / listing, tmp_path / "db", **options(case["command"])
    )
    assert count == len(case["records"])
    assert records(tmp_path / "db") == records(DATA / "convert" / case["name"])


@pytest.mark.parametrize(
    ("source", "mean"),
    [("db/raw_color", "raw_color"), ("db/jpeg_color", "jpeg_color"), ("db/float", "float"),
     ("convert/default_same", "default_same")],
)  # fmt: skip
def test_compute_image_mean(source: str, mean: str, tmp_path: Path) -> None:
    found = compute_image_mean(str(DATA / source))
    want = DATA / "mean" / f"{mean}.binaryproto"
    assert np.array_equal(found, read_mean(str(want)))
    write_blobproto(tmp_path / "mean", found)
    assert (tmp_path / "mean").read_bytes() == want.read_bytes()
    log = (DATA / "mean" / f"{mean}.log").read_text()
    for c, value in enumerate(mean_values(found)):
        assert f"mean_value channel [{c}]: {value:.6g}" in log


def test_records_of_two_sizes_have_no_mean() -> None:
    with pytest.raises(DataError, match="incorrect data field size"):
        compute_image_mean(str(DATA / "db" / "varying_size"))


def images(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.jpg"), photo(0, 8, 9))
    cv2.imwrite(str(folder / "b.png"), photo(1, 8, 9))
    cv2.imwrite(str(folder / "g.png"), photo(2, 8, 9)[..., 0])
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "list").write_text("a.jpg 1\nbad.png 2\nnone.png 3\nb.png 4\ng.png 5\n")


def test_unreadable_images_are_skipped_and_told(tmp_path: Path) -> None:
    images(tmp_path)
    told: list[str] = []
    assert convert_imageset(f"{tmp_path}/", tmp_path / "list", tmp_path / "db",
                            skipped=told.append) == 3  # fmt: skip
    assert [key for key, _ in records(tmp_path / "db")] == [
        b"00000000_a.jpg", b"00000003_b.png", b"00000004_g.png",
    ]  # fmt: skip
    assert len(told) == 2
    assert "bad.png" in told[0]


def test_intels_encoded_records(tmp_path: Path) -> None:
    images(tmp_path)
    convert_imageset(f"{tmp_path}/", tmp_path / "list", tmp_path / "png", encode_type="png",
                     intel=True)  # fmt: skip
    found = {key.split(b"_")[1]: scan_datum(value) for key, value in records(tmp_path / "png")}
    b = found[b"b.png"]
    assert bytes(b.data) == (tmp_path / "b.png").read_bytes()
    assert (b.channels, b.height, b.width) == (3, 8, 9)
    again = found[b"g.png"]  # gray becomes colour: encoded again, without sizes
    assert again.channels == 0
    assert cv2.imdecode(np.frombuffer(again.data, np.uint8), -1).shape == (8, 9, 3)
    convert_imageset(
        f"{tmp_path}/", tmp_path / "list", tmp_path / "guess", encoded=True, intel=True
    )
    a = scan_datum(dict(records(tmp_path / "guess"))[b"00000000_a.jpg"])
    assert bytes(a.data) != (tmp_path / "a.jpg").read_bytes()  # its guess never matches


def test_check_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), photo(0, 8, 9))
    cv2.imwrite(str(tmp_path / "b.png"), photo(0, 8, 8))
    (tmp_path / "list").write_text("a.png 0\nb.png 0\n")
    with pytest.raises(DataError, match="incorrect data field size 192, expected 216"):
        convert_imageset(f"{tmp_path}/", tmp_path / "list", tmp_path / "db", check_size=True)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png", "list"]


def test_shuffled_lists_repeat_with_a_seed(tmp_path: Path) -> None:
    images(tmp_path)
    runs = []
    for name in ("one", "two"):
        convert_imageset(f"{tmp_path}/", tmp_path / "list", tmp_path / name, shuffle=True, seed=7)
        runs.append(records(tmp_path / name))
    assert runs[0] == runs[1]
    assert [key[9:] for key, _ in runs[0]] != [b"a.jpg", b"b.png", b"g.png"]


def test_mean_files_that_are_none(tmp_path: Path) -> None:
    from tests.data.helpers import data_layer, make_source

    source = raw_lmdb(tmp_path / "db", 2)
    write_blobproto(tmp_path / "two", np.zeros((2, 3, 8, 9), np.float32))
    (tmp_path / "text").write_bytes(b"hello")
    for name, message in (("two", "2 x 3 x 8 x 9"), ("text", "transform_param.mean_file"),
                          ("none", "does not exist")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            make_source(data_layer(source, f'mean_file: "{tmp_path}/{name}"'))
