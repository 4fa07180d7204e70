"""Curves of trainings as pictures and CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from caffeio.converters.run_plot import csv_text, losses_of, picture, scores_of, smoothed
from caffeio.log.runs import Run, Series, read_run
from tests.paths import GOLDEN

LOG = GOLDEN / "logs" / "train_basic" / "log.txt"
INTEL = GOLDEN / "fork" / "chain" / "given" / "log" / "init.log"


def test_scores_and_losses_are_told_apart() -> None:
    run = read_run(INTEL)
    assert set(losses_of(run)) == {"test loss"}
    assert {"test top1", "test top5", "train top1"} <= set(scores_of(run))


def test_smoothing_leaves_out_what_is_no_number() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_array_equal(smoothed(values, 2), [1, 2, np.nan, 5, 6])
    np.testing.assert_array_equal(smoothed(values, 1), values)


@pytest.mark.parametrize(
    ("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_pictures(kind: str, begin: bytes) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra plot")
    assert picture([read_run(LOG), read_run(INTEL)], kind).startswith(begin)


def test_a_picture_has_a_panel_for_each_quantity_and_names_the_runs() -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra plot")
    text = picture([read_run(LOG, "first"), read_run(INTEL, "$second$")], "svg").decode()
    for group in ("axes_1", "axes_2", "axes_3"):
        assert f'id="{group}"' in text
    assert 'id="axes_4"' not in text
    only = Run("r", loss=Series([0, 1], [1.0, float("nan")]))
    assert 'id="axes_2"' not in picture([only], "svg", log=True).decode()


def test_csv() -> None:
    run = Run("=r", loss=Series([0, 2], [1.5, 0.1]), test={"acc": Series([2], [0.5])})
    assert csv_text([run]).splitlines() == [
        "run,iteration,series,value", "'=r,0,loss,1.5", "'=r,2,loss,0.1", "'=r,2,test acc,0.5",
    ]  # fmt: skip


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra plot")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["plot", str(LOG), str(INTEL)])
    assert result.exit_code == 0, result.output
    assert "log: 26 iterations; loss 1.60868 to 0.623781; test accuracy 0.885" in result.output
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(main, ["plot", str(LOG), "-o", "-"])
    assert result.stdout.splitlines()[1] == "log,0,loss,1.60868"
    solver = GOLDEN / "fork" / "lr" / "phase_cyc1" / "solver.prototxt"
    result = CliRunner().invoke(main, ["plot", str(LOG), str(solver)])
    assert result.exit_code == 2 and "draw solvers by themselves" in result.output
