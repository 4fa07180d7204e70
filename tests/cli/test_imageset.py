"""caffeio convert-imageset and image-mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.data.db.database import open_db
from caffeio.data.db.lmdb import LmdbDatabase
from tests.paths import GOLDEN

DATA = GOLDEN / "data"


def records(path: Path) -> list[tuple[bytes, bytes]]:
    db = LmdbDatabase(str(path))
    out = [(bytes(key), bytes(db.get(bytes(key)))) for key in db.iter_keys()]
    db.close()
    return out


def test_convert_imageset(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [
        "convert-imageset", "--resize_height=9", "--resize_width=11", "--gray",
        f"{DATA}/images/", str(DATA / "images.txt"), str(tmp_path / "db"),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path}/db: 7 records\n"
    said = [line.split("] ")[1] for line in result.stderr.splitlines()]
    opened = f"Opened lmdb {tmp_path}/db"
    assert said == ["A total of 7 images.", opened, "Processed 7 files."]
    assert records(tmp_path / "db") == records(DATA / "convert" / "resize_gray")


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("none.png 1\n")
    result = CliRunner().invoke(
        main, ["convert-imageset", f"{tmp_path}/", str(tmp_path / "list"), str(tmp_path / "db")]
    )
    assert result.exit_code == 0
    assert "none.png': No such file" in result.output


def test_missing_list(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert-imageset", "", "nowhere", str(tmp_path / "db")])
    assert result.exit_code == 2
    assert "'nowhere' does not exist" in result.output


def test_image_mean(tmp_path: Path) -> None:
    out = tmp_path / "mean.binaryproto"
    result = CliRunner().invoke(main, ["image-mean", str(DATA / "db" / "raw_color"), str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == (DATA / "mean" / "raw_color.binaryproto").read_bytes()
    assert "3 x 12 x 15" in result.output
    assert "mean_value channel [1]: 114.994" in result.stdout
    logged = (DATA / "mean" / "raw_color.log").read_text().splitlines()
    ours = [line.split(maxsplit=3)[3] for line in result.stderr.splitlines()]
    theirs = [line.split(maxsplit=3)[3] for line in logged]
    assert [line for line in ours if "db_" not in line and "Write" not in line] == [
        line for line in theirs if "db_" not in line and "Write" not in line
    ]


def test_gflags_spelling_and_leveldb(tmp_path: Path) -> None:
    pytest.importorskip("plyvel", reason="LevelDB needs the extra leveldb")
    line = "convert-imageset -backend leveldb -resize_height 9 -resize_width=11 --gray=true "
    line += f"{DATA}/images/"
    result = CliRunner().invoke(
        main, [*line.split(), str(DATA / "images.txt"), str(tmp_path / "db")]
    )
    assert result.exit_code == 0, result.output
    db = open_db(str(tmp_path / "db"), "LEVELDB")
    found = [(bytes(key), bytes(db.get(bytes(key)))) for key in db.iter_keys()]
    db.close()
    assert found == records(DATA / "convert" / "resize_gray")
    result = CliRunner().invoke(main, ["image-mean", "-backend=leveldb", str(tmp_path / "db")])
    assert result.exit_code == 0 and "mean_value channel [0]" in result.stdout
