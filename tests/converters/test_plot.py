"""Curves of solvers: names, numbers, CSV, pictures."""

from __future__ import annotations

import csv
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from caffeio.converters import plot as lr_plot
from caffeio.errors import CaffeIOError, SolverError, UnsupportedError
from caffeio.profiles import INTEL
from caffeio.solver.schedule import learning_rates
from tests.paths import GOLDEN

LR = GOLDEN / "fork" / "lr"
PHASES = [LR / f"phase_{p}" / "solver.prototxt" for p in ("init", "cyc1", "collapse")]


def test_phases_follow_each_other() -> None:
    curves = lr_plot.read_curves(PHASES)
    assert [(c.name, c.start, len(c.rates)) for c in curves] == [
        ("phase_init", 0, 7800),
        ("phase_cyc1", 7800, 3750),
        ("phase_collapse", 11550, 1560),
    ]
    for curve, path in zip(curves, PHASES, strict=True):
        assert np.array_equal(curve.rates, learning_rates(path, len(curve.rates)))
    assert curves[1].iterations[[0, -1]].tolist() == [7800, 11549]


def test_overlay_begins_at_0() -> None:
    curves = lr_plot.read_curves(PHASES, overlay=True, iterations=10)
    assert [(c.start, len(c.rates)) for c in curves] == [(0, 10)] * 3


def test_names() -> None:
    names = lr_plot.phase_names(["a/solver_cyc1.prototxt", "b/net_solver.prototxt", "c/solver.pt"])
    assert names == ["cyc1", "net", "c"]
    assert lr_plot.phase_names(["a/fast.pt", "b/fast.pt"]) == ["a/fast", "b/fast"]


def test_csv_gives_every_rate_back(tmp_path: Path) -> None:
    curves = lr_plot.read_curves(PHASES, iterations=50)
    lr_plot.write(tmp_path / "lr.csv", curves)
    with (tmp_path / "lr.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["iteration"]) for row in rows] == list(range(150))
    assert [row["phase"] for row in rows[::50]] == ["phase_init", "phase_cyc1", "phase_collapse"]
    assert [int(row["phase_iteration"]) for row in rows[99:101]] == [49, 0]
    got = np.array([row["lr"] for row in rows], np.float32)
    assert np.array_equal(got, np.concatenate([c.rates for c in curves]))


def svg_texts(path: Path) -> list[str]:
    """What matplotlib wrote as text: it leaves it in comments beside the paths."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.parse(path, parser).getroot()
    return [str(e.text).strip() for e in root.iter() if e.tag is ET.Comment]


@pytest.mark.parametrize("overlay", [False, True])
def test_svg_names_its_phases(tmp_path: Path, overlay: bool) -> None:
    curves = lr_plot.read_curves(PHASES, overlay=overlay)
    lr_plot.write(tmp_path / "lr.svg", curves)
    texts = svg_texts(tmp_path / "lr.svg")
    assert {"phase_init", "phase_cyc1", "phase_collapse", "iteration", "learning rate"} <= set(
        texts
    )
    again = lr_plot.picture(curves, "svg")
    assert again == (tmp_path / "lr.svg").read_bytes()  # the same bytes each time


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("PDF", b"%PDF")])
def test_pictures(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"lr.{suffix}"
    lr_plot.write(path, lr_plot.read_curves(PHASES[:1]), log=True)
    assert path.read_bytes().startswith(magic)


def test_odd_curves_can_be_drawn() -> None:
    """Not a number, infinite and negative rates; one iteration; rates of 0 on a log axis."""
    rates = np.array([np.nan, 1, -1, np.inf, 0], np.float32)
    for log in (False, True):
        curves = [lr_plot.Curve("odd", rates), lr_plot.Curve("one", np.float32([1]), 5)]
        assert lr_plot.picture(curves, log=log).startswith(b"\x89PNG")


def test_thinning_keeps_both_sides_of_every_jump() -> None:
    rates = np.full(100_000, 0.1, np.float32)
    rates[31_415:] = 0.01
    kept = lr_plot._thin(rates)
    assert len(kept) < 5000
    assert {0, 31_414, 31_415, 99_999} <= set(kept.tolist())
    assert lr_plot._thin(rates[:100]).tolist() == list(range(100))


@pytest.mark.parametrize(
    "text",
    [
        "3\n2.5\n2\n",
        "iter,loss\n0,3\n1,2.5\n2,2\n",
        '{"iter": 0, "loss": 3}\n{"event": 1}\n{"iter": 1, "loss": 2.5}\n{"loss": 2, "iter": 2}',
    ],
)
def test_losses(tmp_path: Path, text: str) -> None:
    (tmp_path / "losses").write_text(text)
    assert lr_plot.read_losses(tmp_path / "losses") == [3, 2.5, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [("3\nx\n", "not a list of losses"), ("iter,loss\n0,3\n2,2\n", "every iteration"),
     ('{"loss": []}\n', "not a list of losses")],
)  # fmt: skip
def test_what_are_not_losses(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "losses").write_text(text)
    with pytest.raises(CaffeIOError, match=message):
        lr_plot.read_losses(tmp_path / "losses")
    with pytest.raises(CaffeIOError, match="cannot be read"):
        lr_plot.read_losses(tmp_path / "none")


def test_plateau_follows_the_losses() -> None:
    folder = LR / "plateau_noisy_avg5"
    with (folder / "run.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    losses = [float(row["loss"]) for row in rows]
    curve = lr_plot.read_curves([folder / "solver.prototxt"], profile=INTEL, losses=losses)[0]
    want = np.array([row["lr_printed_full"] for row in rows], np.float32)
    np.testing.assert_allclose(curve.rates, want, rtol=2e-7)
    with pytest.raises(SolverError, match="follows the training loss"):
        lr_plot.read_curves([folder / "solver.prototxt"])


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = tmp_path / "solver.prototxt"
    solver.write_text('base_lr: 1\nlr_policy: "fixed"\n')
    with pytest.raises(SolverError, match="max_iter: is not set"):
        lr_plot.read_curves([solver])
    curves = lr_plot.read_curves([solver], iterations=3)
    with pytest.raises(UnsupportedError, match=r"\.csv, \.png, \.svg, \.pdf"):
        lr_plot.write(tmp_path / "lr.bmp", curves)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'caffeio\[plot\]'"):
        lr_plot.write(tmp_path / "lr.png", curves)
    assert not (tmp_path / "lr.png").exists()
    lr_plot.write(tmp_path / "lr.csv", curves)
