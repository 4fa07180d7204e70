"""Logs of several Caffes, metrics and TensorBoard folders read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from caffeio.errors import CaffeIOError
from caffeio.log.runs import Run, Series, is_run, read_run
from tests.paths import GOLDEN

BVLC = GOLDEN / "logs" / "train_basic" / "log.txt"
INTEL = GOLDEN / "fork" / "chain" / "given" / "log" / "init.log"
NVIDIA = """
I0402 13:18:56.347950 30419 solver.cpp:289] [0.0] Solving net Learning Rate Policy: step
I0402 13:18:56.4 30419 solver.cpp:239]     [0.0] Iteration 0 (0.1 s), loss = 2.5
I0402 13:18:56 3041 solver.cpp:258]     [0.0]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I0402 13:18:57 30419 sgd_solver.cpp:180] [0.0] Iteration 0, lr = 0.1, m = 0.9, wd = 0.0005, gs = 1
I0402 13:18:58 3 solver.cpp:23]     [0.0] Iteration 20 (9 iter/s, 2s/20 iter), 0.4/9.6ep, loss = 1.5
I0402 13:18:59.4 30419 solver.cpp:347] [0.0] Iteration 20, Testing net (#0)
I0402 13:18:59.5 30419 solver.cpp:414] [0.0]     Test net output #0: top-1 = 0.25
"""
OLD = """
[3] I0402 13:18:56.347950 30419 solver.cpp:228] Iteration 100, loss = 0.5
[3] I0402 13:18:56.347950 30419 sgd_solver.cpp:106] Iteration 100, lr = 0.01
"""


def both(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.iterations, series.values, strict=True))


def test_bvlcs_log() -> None:
    run = read_run(BVLC)
    assert both(run.loss)[:2] == [(0, 1.60868), (5, 1.29711)]
    assert both(run.rate)[:2] == [(0, 0.05), (5, 0.05)]
    assert both(run.test["accuracy"])[:2] == [(0, 0.25), (10, 0.715)]
    assert both(run.test["loss"])[1] == (10, 1.10221)
    assert both(run.train["loss"])[1] == (5, 1.30133)


def test_intels_log() -> None:
    run = read_run(INTEL)
    assert both(run.loss)[:2] == [(0, 2.30942), (1, 2.27764)]
    assert both(run.rate)[1] == (1, 0.00302734)
    assert run.test["top5"].values[0] == 0.483333


def test_logs_of_other_forms(tmp_path: Path) -> None:
    for name, text in (("nvidia", NVIDIA), ("old", OLD)):
        (tmp_path / name).write_text(text)
        assert is_run(tmp_path / name)
    run = read_run(tmp_path / "nvidia")
    assert both(run.loss) == [(0, 2.5), (20, 1.5)]
    assert both(run.rate) == [(0, 0.1)]
    assert both(run.test["top-1"]) == [(20, 0.25)]
    assert both(run.train["loss"]) == [(0, 2.5)]
    run = read_run(tmp_path / "old")
    assert (both(run.loss), both(run.rate)) == ([(100, 0.5)], [(100, 0.01)])


def test_two_test_nets_are_told_apart() -> None:
    run = read_run(GOLDEN / "solvers" / "two_test_nets" / "log.txt")
    assert "accuracy" in run.test and "#1 accuracy" in run.test


def test_phases_follow_one_another_and_resumed_runs_write_over(tmp_path: Path) -> None:
    line = "I1127 10:00:00.0 1 solver.cpp:1] Iteration {}, loss = {}\n"
    steps = [(0, 5), (10, 4), (20, 3), (10, 3.5), (20, 2), (0, 9), (10, 8)]
    path = tmp_path / "log"
    path.write_text("".join(line.format(*step) for step in steps))
    run = read_run(path)
    assert both(run.loss) == [(0, 5), (10, 3.5), (20, 2), (21, 9), (31, 8)]
    assert run.phases == [(21, "")]


def metrics(path: Path) -> None:
    rows = [
        {"iter": 0, "lr": 0.1, "loss": 2.0, "phase": "a/solver_init.prototxt"},
        {"iter": 1, "lr": 0.1, "loss": None, "phase": "a/solver_init.prototxt"},
        {"iter": 2, "test_net": 1, "test_loss": 1.0, "outputs": {"acc": [0.25, 0.75]},
         "phase": "a/solver_init.prototxt"},
        {"iter": 0, "lr": 0.2, "loss": 1.0, "phase": "a/solver_cyc1.prototxt"},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iter": 1, "lo')


def test_metrics(tmp_path: Path) -> None:
    metrics(tmp_path / "m.jsonl")
    assert is_run(tmp_path / "m.jsonl")
    run = read_run(tmp_path / "m.jsonl")
    assert both(run.rate) == [(0, 0.1), (1, 0.1), (3, 0.2)]
    assert math.isnan(run.loss.values[1])
    assert both(run.test["#1 acc"]) == [(2, 0.5)]
    assert run.phases == [(0, "solver_init"), (3, "solver_cyc1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"iter": 0}\nnonsense\n{"iter": 1}\n', ":2: this line is no JSON"),
     ('{"iter": 0, "loss": [1]}\n', ":1: no metrics"), ("nothing at all\n", "tells nothing of")],
)  # fmt: skip
def test_what_is_no_run(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(CaffeIOError, match=message):
        read_run(path)


def test_solvers_and_nets_are_no_runs() -> None:
    for path in (GOLDEN / "fork" / "lr" / "phase_cyc1" / "solver.prototxt", GOLDEN, GOLDEN / "no"):
        assert not is_run(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from caffeio.cli._board import Board

    board = Board(str(tmp_path / "board"), pytest.fail)
    for phase in range(2):
        board.begin(0)
        for i in range(3):
            board.iteration({"iter": i + 1, "loss": 3.0 - i, "lr": 0.5 + phase}, 100.0)
        board.test(3, 0, {"accuracy": 0.25})
    board.close()
    assert is_run(tmp_path / "board")
    run: Run = read_run(tmp_path / "board")
    assert both(run.loss) == [(0, 3), (1, 2), (2, 1), (3, 3), (4, 2), (5, 1)]
    assert run.rate.values == [0.5] * 3 + [1.5] * 3
    assert both(run.test["accuracy"]) == [(3, 0.25), (6, 0.25)]
