"""What conversions write runs in other programs, within 1e-5 of load_net.

Programs that do not go with our own packages (OpenCV 5, OpenVINO) are run where
CAFFEIO_OPENCV5 or CAFFEIO_OPENVINO name a Python that has them: `make interop`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.interop.run import COLUMNS, Cell, Table, difference, markdown, run
from tests.paths import ROOT, SHARED

pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")
ELSEWHERE = {name: os.environ.get(f"CAFFEIO_{name.upper()}") for name in ("opencv5", "openvino")}


def test_small_nets_in_the_programs_that_are_here() -> None:
    pythons = {"here": sys.executable}
    chosen = [name for name, (_, _, where) in COLUMNS.items() if where == "here"]
    table = run(chosen, pythons, None)
    assert set(table.rows) == {"vgg_like", "googlenet_like"}
    assert not table.bad
    assert all(float(c.text) < 1e-5 for cells in table.rows.values() for c in cells.values())


@pytest.mark.parametrize("where", ELSEWHERE)
def test_small_nets_elsewhere(where: str) -> None:
    python = ELSEWHERE[where]
    if python is None:
        pytest.skip(f"CAFFEIO_{where.upper()} names no Python with that package")
    chosen = [name for name, (_, _, place) in COLUMNS.items() if place == where]
    assert not run(chosen, {where: python}, None).bad


def test_the_page_has_every_public_model() -> None:
    """No model is left out, and no cell is without a number or a reason."""
    page = (ROOT / "docs" / "interop.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    head, models = rows[0], {row[0].strip(): row[2:] for row in rows[1:]}
    assert [cell.strip().rpartition(" (")[0] for cell in head[2:]] == list(COLUMNS)
    for name, cells in models.items():
        for cell in cells:
            text, _, note = cell.strip().partition(" [")
            number = text.replace(".", "").replace("e-", "").replace("e+", "")
            assert note or (number.isdigit() and float(text) <= 1e-4), (name, cell)
            assert not note or f"\n{note.rstrip(']')}. " in page
    folder = SHARED / "corpus" / "caffemodels"
    if folder.exists():
        public = {p.name for p in folder.iterdir() if list(p.glob("*.prototxt*"))}
        assert public <= set(models)


def test_rows_of_detections_are_told_from_other_numbers() -> None:
    rows = np.array([[0, 1, 0.9, 0.1, 0.1, 0.2, 0.2], [0, 2, 0.8, 0.3, 0.3, 0.4, 0.4]], np.float32)
    turned = np.concatenate([rows[::-1], np.zeros((1, 7), np.float32)])
    assert difference(rows.reshape(1, 1, 2, 7), rows.reshape(1, 1, 2, 7)) == (0.0, "")
    off, words = difference(turned.reshape(1, 1, 3, 7), rows.reshape(1, 1, 2, 7))
    assert off == 0 and "order" in words
    moved = rows.copy()
    moved[0, 3] += 0.5
    assert difference(moved.reshape(1, 1, 2, 7), rows.reshape(1, 1, 2, 7))[0] > 0.1
    assert difference(np.array([np.nan]), np.array([1.0]))[0] == float("inf")


def test_a_failure_without_a_reason_is_bad() -> None:
    table = Table({"m": {"a": Cell("fails", bad=True, note="who knows"), "b": Cell("1e-7")}})
    table.versions, table.rounding = {"a": "1", "b": "2"}, {"m": 1e-7}
    assert table.bad == ["m, a: fails who knows"]
    page = markdown(table)
    assert "| m | 1e-07 | fails [1] | 1e-7 |" in page and "1. who knows" in page
    assert Path(__file__).with_name("client.py").exists()
