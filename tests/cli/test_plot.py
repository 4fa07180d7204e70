"""`caffeio plot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffeio.cli.main import main
from tests.paths import GOLDEN

LR = GOLDEN / "fork" / "lr"
SOLVERS = [str(LR / f"phase_{p}" / "solver.prototxt") for p in ("cyc1", "collapse")]


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["plot", *args])


def test_a_chain_as_a_picture(tmp_path: Path) -> None:
    result = run(*SOLVERS, "-o", str(tmp_path / "lr.png"))
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "phase_cyc1: 3750 iterations, 1.02 to 0.255136, highest 1.02",
        "phase_collapse: 1560 iterations, 0.143 to 5.87648e-08, highest 0.143",
        f"Written: {tmp_path / 'lr.png'}",
    ]
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("option", "last"), [("--chain", 7), ("--overlay", 3)])
def test_csv_on_standard_output(option: str, last: int) -> None:
    result = run(*SOLVERS, option, "--iterations", "4", "-o", "-")
    lines = [line.split(",") for line in result.output.splitlines()]
    assert lines[0] == ["iteration", "phase", "phase_iteration", "lr"]
    assert [np.float32(lines[i][3]) for i in (1, 5)] == [np.float32(1.02), np.float32(0.143)]
    assert lines[-1][:3] == [str(last), "phase_collapse", "3"]


def test_the_rates_are_those_of_a_caffe(tmp_path: Path) -> None:
    solver = tmp_path / "solver.prototxt"
    solver.write_text('base_lr: 1\nlr_policy: "sigmoid"\ngamma: -1\nstepsize: 2\nmax_iter: 4\n')
    assert run(str(solver), "-o", "-").exit_code == 0
    result = run(str(solver), "-o", "-", "--caffe", "bvlc")
    assert result.exit_code == 2
    assert f"Error: {solver}:3:1: gamma: must not be negative" in result.stderr


def test_plateau_needs_losses(tmp_path: Path) -> None:
    solver = str(LR / "plateau_avg1" / "solver.prototxt")
    result = run(solver, "-o", "-")
    assert result.exit_code == 2
    assert "follows the training loss" in result.stderr
    losses = str(LR / "plateau_avg1" / "run.csv")
    assert len(run(solver, "-o", "-", "--losses", losses).output.splitlines()) == 151


def test_user_errors(tmp_path: Path) -> None:
    missing = run(str(tmp_path / "none.prototxt"))
    assert missing.exit_code == 2 and "none.prototxt" in missing.stderr
    assert run().exit_code == 2
    assert run(SOLVERS[0], "-o", str(tmp_path / "lr.gif")).exit_code == 2
    assert run(SOLVERS[0], "--caffe", "cafe").exit_code == 2


def test_help() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "end to end" in result.output and "--iterations" in result.output
