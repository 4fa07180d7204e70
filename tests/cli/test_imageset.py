"""caffeio convert-imageset and image-mean."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from caffeio.cli.main import main
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
    assert result.output == f"{tmp_path}/db: 7 records\n"
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
    assert "mean_value channel [1]: 114.994" in result.output
