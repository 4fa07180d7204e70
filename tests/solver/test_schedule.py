"""Learning rates: against those that real Caffes used, and the checks of the fields."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from caffeio.errors import SolverError
from caffeio.profiles import (
    BVLC,
    INTEL,
    NVIDIA,
    PROFILES,
    Profile,
    get_profile,
    profile_of_solver,
)
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.solverstate import read_solverstate
from caffeio.solver.schedule import (
    FLT_MAX,
    RateState,
    Schedule,
    SmoothedLoss,
    learning_rates,
)
from tests.paths import GOLDEN, SHARED, needs_shared

LR = GOLDEN / "fork" / "lr"
CASES = sorted(path.parent.name for path in LR.glob("*/run.csv"))
RESUMED = sorted(path.parent.name for path in LR.glob("*/resumed.csv"))
TOLERANCE = 2e-7  # of C libraries: float pow, rounded once or twice


def solver_of(text: str) -> pb.SolverParameter:
    return text_format.Parse(text, pb.SolverParameter())


def read(folder: Path) -> pb.SolverParameter:
    return solver_of((folder / "solver.prototxt").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float32)


def assert_rates(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=0, equal_nan=True)


def follow(
    solver: pb.SolverParameter, rows: list[dict[str, str]], state: RateState, log: list[str]
) -> Iterator[tuple[np.float32, np.ndarray]]:
    """The rates of the iterations in `rows`: as printed, and of two blobs."""
    schedule, smoothed = Schedule(solver, INTEL), SmoothedLoss(solver.average_loss)
    for row in rows:
        if row.get("loss"):
            state.smoothed_loss = float(smoothed.update(float(row["loss"])))
            assert np.float32(row["smoothed_loss"]) == np.float32(state.smoothed_loss)
        rates = schedule.rates(int(row["iter"]), state, 2, log.append)
        assert state.current_step == int(row["current_step_after"])
        yield rates.printed, np.broadcast_to(rates.used, 2)


@pytest.mark.parametrize("case", CASES)
def test_the_fork(case: str) -> None:
    """Printed rate, the rates of blob 0 and 1, steps, averaged losses and log lines."""
    rows, log = rows_of(LR / case / "run.csv"), list[str]()
    rates = list(follow(read(LR / case), rows, RateState(), log))
    assert_rates(np.array([r[0] for r in rates]), column(rows, "lr_printed_full"))
    for blob in range(2):
        used = np.array([r[1][blob] for r in rates])
        assert_rates(used, column(rows, f"lr_used_blob{blob}"))
    status = LR / case / "run_status.txt"
    assert log == (status.read_text().splitlines() if status.exists() else [])


@pytest.mark.parametrize("case", RESUMED)
def test_the_fork_resumed(case: str) -> None:
    """The state of a .solverstate goes on as Caffe's; the average of the loss starts anew."""
    saved = read_solverstate(next((LR / case).glob("*.solverstate")))
    state = RateState(saved.current_step, saved.minimum_loss or FLT_MAX, saved.iter_last_event or 0)
    rows, log = rows_of(LR / case / "resumed.csv"), list[str]()
    assert int(rows[0]["iter"]) == saved.iter
    rates = list(follow(read(LR / case), rows, state, log))
    assert_rates(np.array([r[0] for r in rates]), column(rows, "lr_printed_full"))
    status = LR / case / "resumed_status.txt"
    assert log == (status.read_text().splitlines() if status.exists() else [])


@pytest.mark.parametrize("case", CASES)
def test_vectorised(case: str) -> None:
    """`learning_rates` gives at once what the schedule gives step by step."""
    rows = rows_of(LR / case / "run.csv")
    losses = column(rows, "loss").tolist() if rows[0].get("loss") else None
    iterations = np.array([int(row["iter"]) for row in rows])
    want = column(rows, "lr_printed_full")
    rates = learning_rates(read(LR / case), iterations, INTEL, losses)
    assert rates.dtype == np.float32
    assert_rates(rates, want)
    if case != "multistep_equal_values":  # which nothing but its log shows to be a fork's
        file = LR / case / "solver.prototxt"
        assert_rates(learning_rates(file, iterations, losses=losses), want)


@needs_shared
@pytest.mark.parametrize("phase", ["init", "cyc1", "cyc2", "cyc3", "collapse"])
def test_every_iteration_of_the_five_phases(phase: str) -> None:
    folder = SHARED / "golden" / "fork" / "lr" / f"phase_{phase}"
    with gzip.open(folder / "run.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    rates = learning_rates(folder / "solver.prototxt", len(rows))
    assert_rates(rates, column(rows, "lr_printed_full"))


@pytest.mark.parametrize("path", sorted((GOLDEN / "solvers").glob("*/lrs*.npy")), ids=str)
def test_bvlc(path: Path) -> None:
    want = np.load(path)
    solver = read(path.parent)
    start = solver.max_iter - len(want)
    assert profile_of_solver(solver) is BVLC
    got = learning_rates(solver, range(start, solver.max_iter))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=0)


# Formulas in float64, for what no golden file has.


def test_multifixed() -> None:
    solver = solver_of('lr_policy: "multifixed" stagelr: [1, .5, .25] stageiter: [2, 5, 7]')
    want = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert learning_rates(solver, 10, INTEL).tolist() == want
    assert Schedule(solver, INTEL).rate(4, RateState()) == 0.5


NVIDIA_TEXT = "base_lr: 0.4 max_iter: 50 min_lr: 0.01 power: 2 gamma: 0.5 stepsize: 20 "


@pytest.mark.parametrize("policy", ["fixed", "step", "exp", "inv", "poly", "sigmoid"])
@pytest.mark.parametrize("ramp", [0, 10])
def test_nvidia(policy: str, ramp: int) -> None:
    solver = solver_of(NVIDIA_TEXT + f'lr_policy: "{policy}"')
    if ramp:
        solver.rampup_interval, solver.rampup_lr = ramp, 0.1
        assert profile_of_solver(solver) is NVIDIA
    t = np.arange(60.0)
    late = 1 - np.minimum(t, 50) / 50
    want = {
        "fixed": 0.4 + 0 * t,
        "step": 0.4 * 0.5 ** np.floor(t / 20),
        "exp": 0.4 * 0.5**t,
        "inv": 0.4 * (1 + 0.5 * t) ** -2,
        "poly": 0.39 * late**2 + 0.01,
        "sigmoid": 0.4 / (1 + np.exp(-0.5 * (t - 20))),
    }[policy]
    want = np.maximum(np.where(t < ramp, 0.1 + 0.3 * (t / max(ramp, 1)) ** 2, want), 0.01)
    got = learning_rates(solver, 60, NVIDIA)
    stop = 50 if policy == "poly" else 60  # beyond max_iter an even power grows again
    np.testing.assert_allclose(got[:stop], want[:stop], rtol=1e-6)


def test_nvidia_momentum_and_weight_decay() -> None:
    text = 'lr_policy: "fixed" base_lr: 0.09 momentum: 0.5 weight_decay: 0.1 max_iter: 100 '
    poly = 'momentum_policy: "poly" max_momentum: 0.9 momentum_power: 2 '
    poly += 'weight_decay_policy: "poly" max_weight_decay: 0.3 weight_decay_power: 0.5'
    schedule = Schedule(solver_of(text + poly), NVIDIA)
    assert schedule.momentum(50, 0.09) == pytest.approx(0.5 + 0.4 * 0.25)
    assert schedule.weight_decay(25) == pytest.approx(0.1 + 0.2 * 0.5)
    opt = Schedule(solver_of(text + 'momentum_policy: "opt"'), NVIDIA)
    assert opt.momentum(7, 0.09) == pytest.approx(0.85**2)
    capped = Schedule(solver_of(text + 'momentum_policy: "opt" max_momentum: 0.7'), NVIDIA)
    assert capped.momentum(7, 0.09) == pytest.approx(0.7)
    plain = Schedule(solver_of(text), NVIDIA)
    assert (plain.momentum(7, 1), plain.weight_decay(7)) == (0.5, np.float32(0.1))
    assert Schedule(solver_of(text), BVLC).momentum(7, 1) == 0.5


def test_nvidia_asks_again_for_the_log() -> None:
    """Two steps due at once: the rate used passes one, the printed one both."""
    text = 'lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: [3, 3] display: 1'
    rates = Schedule(solver_of(text), NVIDIA).rates(3, RateState())
    assert (rates.used, rates.printed) == (0.5, 0.25)


def test_bvlc_passes_one_step_an_iteration() -> None:
    text = 'lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: [3, 3, 3]'
    solver, state = solver_of(text), RateState()
    schedule = Schedule(solver)
    got = [schedule.rates(t, state, 5).used for t in range(8)]
    assert got == [1, 1, 1, 0.5, 0.25, 0.125, 0.125, 0.125]
    assert learning_rates(solver, 8).tolist() == got


@given(
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(0, 30),
    st.sampled_from([BVLC, INTEL, NVIDIA]),
    st.integers(0, 3),
)
def test_multistep_at_once_is_multistep_by_steps(
    values: list[int], early: int, profile: Profile, params: int
) -> None:
    solver = pb.SolverParameter(lr_policy="multistep", base_lr=1, gamma=0.5, stepvalue=values)
    if profile is INTEL:
        solver.warmup_iter = early
    schedule, state = Schedule(solver, profile), RateState()
    by_steps = [schedule.rates(t, state, params).printed for t in range(45)]
    assert schedule.array(45, params=params).tolist() == by_steps


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=60), st.integers(1, 5))
def test_plateau_at_once_is_plateau_by_steps(losses: list[float], average: int) -> None:
    text = 'lr_policy: "plateau" base_lr: 1 gamma: 0.5 plateau_winsize: [2, 3, 4]'
    solver = solver_of(text)
    solver.average_loss = average
    schedule, state, smoothed = Schedule(solver, INTEL), RateState(), SmoothedLoss(average)
    by_steps = []
    for t, loss in enumerate(losses):
        state.smoothed_loss = float(smoothed.update(loss))
        by_steps.append(schedule.rates(t, state, 2).printed)
    assert schedule.array(len(losses), losses=losses, params=2).tolist() == by_steps


@given(st.integers(0, 10**7), st.sampled_from(["step", "exp", "inv", "poly", "sigmoid"]))
def test_one_rate_is_the_same_as_many(iteration: int, policy: str) -> None:
    text = "base_lr: 0.1 gamma: 0.9999 power: 0.75 stepsize: 1000 max_iter: 10000000 "
    solver = solver_of(text + f'lr_policy: "{policy}"')
    one = Schedule(solver).rate(iteration, RateState())
    assert learning_rates(solver, [iteration, 3, iteration]).tolist()[::2] == [one, one]


# The public function.


def test_iterations_in_any_form() -> None:
    text = 'lr_policy: "step"\nbase_lr: 8 gamma: 0.5 stepsize: 1'
    for form in (3, np.int64(3), range(3), [0, 1, 2], np.arange(3), iter([0, 1, 2])):
        assert learning_rates(text, form).tolist() == [8, 4, 2]
    grid = learning_rates(text, np.array([[2, 0], [1, 1]]))
    assert grid.tolist() == [[2, 8], [4, 4]]
    assert learning_rates(text, 0).shape == learning_rates(text, []).shape == (0,)
    multistep = 'lr_policy: "multistep"\nbase_lr: 8 gamma: 0.5 stepvalue: [1, 2]'
    assert learning_rates(multistep, [[2, 0], [1, 1]]).tolist() == [[2, 8], [4, 4]]
    with pytest.raises(SolverError, match="negative"):
        learning_rates(text, [-1])


def test_a_million_iterations() -> None:
    rates = learning_rates(solver_of('lr_policy: "poly" base_lr: 1 power: 1 max_iter: 4'), 10**6)
    assert rates.shape == (10**6,)


def test_the_public_name() -> None:
    import caffeio

    assert caffeio.learning_rates is learning_rates


def test_torch_is_not_imported() -> None:
    code = "import sys, caffeio.solver.schedule; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# What Caffe refuses.


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ("base_lr: 1", BVLC, "lr_policy: Unknown learning rate policy:"),
        ('lr_policy: "polly"', BVLC, r"Unknown learning rate policy: polly \(.*did you mean poly"),
        ('lr_policy: "step" gamma: 0.1', BVLC, r'stepsize: must be positive for lr_policy "step"'),
        ('lr_policy: "step" gamma: 0.1', INTEL, "stepsize: must be positive"),
        ('lr_policy: "sigmoid" gamma: 0.1', BVLC, "stepsize: must be positive"),
        ('lr_policy: "exp" gamma: -1', BVLC, 'gamma: must not be negative .* "exp", it is -1'),
        ('lr_policy: "multistep" gamma: -1', BVLC, "gamma: must not be negative"),
        ('lr_policy: "plateau"', INTEL, "follows the training loss"),
        ('lr_policy: "multifixed" stagelr: 1', INTEL, "stagelr: .* 1 and 0"),
        ('lr_policy: "multifixed"', INTEL, "stagelr: .* 0 and 0"),
        ('lr_policy: "fixed" warmup_iter: 5', BVLC, "warmup_iter: profile 'bvlc' .*'intel'"),
        ('lr_policy: "fixed" min_lr: 0.1', BVLC, "min_lr: .*'nvidia'"),
        ('lr_policy: "fixed" momentum_policy: "opt"', INTEL, "momentum_policy: .*'nvidia'"),
        ('lr_policy: "fixed" momentum_policy: "up"', NVIDIA, "Unknown momentum policy: up"),
        ('lr_policy: "fixed" min_lr: -1', NVIDIA, "min_lr: must not be negative"),
        ('lr_policy: "poly" min_lr: 1', NVIDIA, "min_lr: 1 is above base_lr, 0"),
        ('lr_policy: "plateau" average_loss: 0', INTEL, "average_loss: must be at least 1"),
    ],
)
def test_errors(text: str, profile: Profile, message: str) -> None:
    losses = [1.0] * 3 if "average_loss" in text else None
    with pytest.raises(SolverError, match=message):
        learning_rates(solver_of(text), 3, profile, losses)


def test_what_intel_and_nvidia_do_not_check() -> None:
    solver = solver_of('lr_policy: "step" base_lr: 1 gamma: -1 stepsize: 1')
    assert learning_rates(solver, 3, INTEL).tolist() == [1, -1, 1]
    assert learning_rates(solver, 3, NVIDIA).tolist() == [1, 0, 1]  # not below min_lr
    assert learning_rates(solver, 3).tolist() == [1, -1, 1]  # nor does an unknown Caffe


def test_errors_say_where(tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text('base_lr: 1\nlr_policy: "step"\nstepsize: -3\n')
    with pytest.raises(SolverError, match=r"solver\.prototxt:3:\d+: stepsize: "):
        learning_rates(path, 3)
    path.write_text('base_lr: 1\nlr_policy: "step"\n')
    with pytest.raises(SolverError, match=r"solver\.prototxt:2:\d+: stepsize: "):
        learning_rates(path, 3)


@pytest.mark.parametrize(
    ("text", "dialect", "profile"),
    [
        ("base_lr: 1", None, "bvlc"),
        ("warmup_iter: 3", None, "intel"),
        ('lr_policy: "poly_cyc"', None, "intel"),
        ("lr_iter: 3", "bvlc", "intel"),
        ("larc: true", None, "nvidia"),
        ('type: "SAG"', None, "nvidia"),
        ('regularization_type: "WD"', None, "nvidia"),
        ("base_lr: 1", "sara", "intel"),
        ("warmup_iter: 3", "nvidia", "nvidia"),
        ("plateau_winsize: 3", "ssd", "bvlc"),
    ],
)
def test_profile_of_solver(text: str, dialect: str | None, profile: str) -> None:
    assert profile_of_solver(solver_of(text), dialect).name == profile


def test_profiles_by_name() -> None:
    assert all(get_profile(name).name == name for name in PROFILES)
