"""The commands of `caffeio db`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffeio.cli.main import main
from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.annotated_datum import AnnotatedBox, encode_annotated
from caffeio.data.records.datum import encode_datum
from caffeio.tools.sheet import CELL, GAP, grid
from tests.data.helpers import jpeg_lmdb, photo
from tests.tools.test_create_db import DIGITS, LABELS, folders, mnist


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_create_and_show(tmp_path: Path) -> None:
    made = run("db", "create", mnist(tmp_path), tmp_path / "db")
    assert (
        made.exit_code == 0
        and "12 records of a source of kind idx, in the source's order" in made.stdout
    )
    shown = run("db", "show", tmp_path / "db", "--sheet", tmp_path / "s.png")
    assert shown.exit_code == 0, shown.output
    for words in (
        "12 records",
        "1x5x4 (12)",
        "pixels (12)",
        "labels: 10, from 0 to 9; 1 to 2 each",
    ):
        assert words in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines() if "█" in line]
    assert [(int(r[0]), int(r[-1])) for r in rows] == [(i, 2 if i < 2 else 1) for i in range(10)]
    assert len(rows[0][1]) == 2 * len(rows[9][1]) == 40
    data = json.loads(run("db", "show", tmp_path / "db", "--json").stdout)
    assert data["labels"]["1"] == 2 and data["records"] == 12 and data["bad"] == []


def test_the_sheet_shows_the_pictures(tmp_path: Path) -> None:
    run("db", "create", mnist(tmp_path), tmp_path / "db")
    run("db", "show", tmp_path / "db", "--sheet", tmp_path / "s.png")
    sheet = cv2.imread(str(tmp_path / "s.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape[0] == GAP + 10 * (CELL + GAP)
    left = sheet.shape[1] - 2 * (CELL + GAP)
    for label in range(10):  # a row a class; the second picture of classes 0 and 1 beside the first
        of_class = DIGITS[label == LABELS]
        for column, digit in enumerate(of_class):
            x, y = left + column * (CELL + GAP), GAP + label * (CELL + GAP)
            width = round(4 * CELL / 5)
            x += (CELL - width) // 2
            down = ((np.arange(5) + 0.5) * CELL / 5).astype(int) + y
            right = ((np.arange(4) + 0.5) * width / 4).astype(int) + x
            assert (sheet[np.ix_(down, right)] == digit).all()


def test_sheet_of_many_classes_and_of_odd_pictures(tmp_path: Path) -> None:
    jpeg_lmdb(tmp_path / "many", 40)
    result = run("db", "show", tmp_path / "many", "--sheet", tmp_path / "s.png")
    assert (
        result.exit_code == 0
        and "and 10 more labels" in result.stdout
        and "JPEG (40)" in result.stdout
    )
    assert cv2.imread(str(tmp_path / "s.png")).shape[1] == GAP + 12 * (CELL + GAP)
    assert grid([]).shape[2] == 3
    values = np.full((2, 3, 3), np.nan, np.float32)
    write_lmdb(
        tmp_path / "odd", [("a", encode_datum(shape=(2, 3, 3), float_data=values.reshape(-1)))]
    )
    result = run("db", "show", tmp_path / "odd", "--sheet", tmp_path / "o.png")
    assert result.exit_code == 0 and "without a label: 1" in result.stdout
    assert "float (1)" in result.stdout


def test_classes_have_names(tmp_path: Path) -> None:
    names = tmp_path / "c.txt"
    made = run("db", "create", folders(tmp_path / "p"), tmp_path / "db", "--classes", names)
    assert "shuffled" in made.stdout and "label 0" not in made.stdout
    shown = run("db", "show", tmp_path / "db", "--classes", names)
    assert [line.split()[:2] for line in shown.stdout.splitlines() if "█" in line] == [
        ["0", "cat"], ["1", "dog"],
    ]  # fmt: skip
    assert "label 1: dog" in run("db", "create", tmp_path / "p", tmp_path / "db2").stdout


def test_annotated_records(tmp_path: Path) -> None:
    picture = cv2.imencode(".png", np.zeros((50, 80, 3), np.uint8))[1].tobytes()
    boxes = [AnnotatedBox(2, 0, 0.1, 0.1, 0.9, 0.9), AnnotatedBox(5, 0, 0.4, 0.4, 0.6, 0.6)]
    record = encode_annotated(encode_datum(data=picture, label=-1, encoded=True), boxes)
    write_lmdb(tmp_path / "db", [("0", record), ("1", record)])
    result = run("db", "show", tmp_path / "db", "--sheet", tmp_path / "s.png")
    assert result.exit_code == 0 and "4 boxes" in result.stdout and "2  █" in result.stdout
    assert "labels that never come: 3, the first is 1" in result.stdout
    assert (cv2.imread(str(tmp_path / "s.png"))[:, 30:].max(2) == 0).sum() > 1000


def test_bad_records_are_named(tmp_path: Path) -> None:
    good = encode_datum(data=photo(1, 4, 4).transpose(2, 0, 1), label=1)
    write_lmdb(tmp_path / "db", [("a", good), ("b", good[:-20]), ("c", good)])
    result = run("db", "show", tmp_path / "db")
    assert result.exit_code == 1 and "bad: key b: not a Datum: it is cut off" in result.stdout
    assert run("db", "show", tmp_path / "none").exit_code == 2


def test_forms(tmp_path: Path) -> None:
    run("db", "create", mnist(tmp_path), tmp_path / "db", "--format", "idx")
    for name in ("show", "verify"):
        words = ["db", name, tmp_path / "db"]
        assert run(*words, "--format", "json").stdout == run(*words, "--json").stdout


def test_mean_is_image_mean(tmp_path: Path) -> None:
    run("db", "create", mnist(tmp_path), tmp_path / "db")
    assert run("db", "mean", tmp_path / "db", tmp_path / "a", "-q").exit_code == 0
    assert run("image-mean", tmp_path / "db", tmp_path / "b", "-q").exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resize", "5"), "is not of the form WIDTHxHEIGHT"),
        (("--layout", "NHW"), "--layout means nothing for a source of kind idx"),
        (("--from", "npz"), "damaged or no .npz"),
    ],
)
def test_user_errors(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("db", "create", mnist(tmp_path), tmp_path / "db", *arguments)
    assert result.exit_code == 2 and words in result.output and not (tmp_path / "db").exists()


def test_show_of_an_idx_file_says_what_to_type(tmp_path: Path) -> None:
    result = run("show", mnist(tmp_path))
    assert result.exit_code == 2 and "caffeio db create" in result.output
