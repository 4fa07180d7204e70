"""Whole training runs against real Caffe: losses, tests, weights, history, resume."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffeio import Trainer, load_weights
from caffeio.proto.weights.solverstate import read_solverstate
from caffeio.training.trainer import Events, Scores
from tests.harness import assert_close
from tests.paths import GOLDEN

LIMIT = 1e-5
SOLVERS = [p for p in sorted((GOLDEN / "solvers").iterdir()) if (p / "info.json").exists()]
CHAIN = GOLDEN / "fork" / "chain" / "given"


class Run:
    """One training in a folder of its own, with everything that it reported."""

    def __init__(self, solver: str, **options: Any) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.tests: list[Scores] = []
        events = Events(iteration=self._iteration, test=self.tests.append)
        self.trainer = Trainer(solver, events=events, **options)

    def _iteration(self, entry: dict[str, Any]) -> None:
        self.losses.append(float(entry["loss"]))
        self.rates.append(entry["lr"])


def check_weights(mine: Path, theirs: Path) -> None:
    a, b = load_weights(mine), load_weights(theirs)
    assert [entry.name for entry in a.layers] == [entry.name for entry in b.layers]
    for layer in b:
        # a bias in front of BatchNorm has gradient zero in exact arithmetic: what moves it is
        # rounding noise, which is bounded by the size of the layer's other blobs
        largest = max(float(np.abs(value).max()) for value in b[layer])
        for i, value in enumerate(b[layer]):
            limit = LIMIT * float(np.abs(value).max()) + 1e-6 * largest
            off = np.abs(np.asarray(a[layer][i], np.float64) - value).max()
            assert off <= limit, f"{layer}/{i}: off by {off:g}"


def check_state(mine: Path, theirs: Path, noise: frozenset[int] = frozenset()) -> None:
    """`noise`: entries whose gradient is zero in exact arithmetic: only rounding is there."""
    a, b = read_solverstate(mine), read_solverstate(theirs)
    assert (a.iter, a.current_step, len(a.history)) == (b.iter, b.current_step, len(b.history))
    largest = max(float(np.abs(h).max()) for h in b.history)
    for i, (x, y) in enumerate(zip(a.history, b.history, strict=True)):
        scale = largest if i in noise else float(np.abs(y).max())
        assert x.shape == y.shape
        off = float(np.abs(np.asarray(x, np.float64) - y).max())
        # a history is a sum of gradients: the limit is that of tests/golden/README.md for these
        assert off <= 5e-5 * scale + 1e-6 * largest, f"history {i}: off by {off:g}"


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the case in which the nets' relative paths hold, and nothing that Caffe wrote."""
    source: Path = request.param
    work = tmp_path / "solvers" / source.name
    shutil.copytree(source, work)
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    for path in work.glob("snap_iter_*"):
        path.unlink()
    monkeypatch.chdir(work)
    return source


@pytest.mark.parametrize("folder", SOLVERS, ids=lambda p: p.name, indirect=True)
def test_solver(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    weights = ["init.caffemodel"] if "-weights" in info["command"] else []
    run = Run("solver.prototxt", weights=weights)
    assert run.trainer.solve()
    assert_close(run.losses, np.load(folder / "losses.npy"), "losses", LIMIT)
    if (folder / "lrs.npy").exists():
        assert_close(run.rates, np.load(folder / "lrs.npy"), "rates", 1e-6)
    final = info["final_model"]
    check_weights(Path(final), folder / final)
    state = final.replace("caffemodel", "solverstate")
    check_state(Path(state), folder / state)
    for result, wanted in zip(
        run.tests, json.loads((folder / "tests.json").read_text()), strict=True
    ):
        assert (result.iteration, result.net) == (wanted["iter"], wanted["net"])
        for name, mean in wanted["mean"].items():
            assert_close(result.outputs[name].reshape(-1), mean, f"test of {name}", LIMIT)


def test_hdf5_snapshot_holds_what_caffes_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups, datasets, shapes and types: of shared params the owner's only."""
    source = GOLDEN / "solvers" / "hdf5_shared"
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    shutil.copytree(source, tmp_path / "solvers" / "run")
    monkeypatch.chdir(tmp_path / "solvers" / "run")
    Run("solver.prototxt", weights=["init.caffemodel"]).trainer.solve()

    def tree(path: Path) -> list[tuple[str, Any, str]]:
        found: list[tuple[str, Any, str]] = []
        with h5py.File(path) as file:
            file.visititems(
                lambda name, o: found.append(
                    (name, getattr(o, "shape", None), str(getattr(o, "dtype", "")))
                )
            )
        return found

    for path in source.glob("snap_iter_*.h5"):
        assert tree(Path(path.name)) == tree(path), path.name


RESUMED = [p for p in SOLVERS if "resume" in json.loads((p / "info.json").read_text())]


@pytest.mark.parametrize("folder", RESUMED, ids=lambda p: p.name, indirect=True)
def test_resume_of_caffes_own_state(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    state = info["resume"]["command"].split()[-1]
    for path in (state, state.replace("solverstate", "caffemodel")):
        shutil.copy(folder / path, path)
    run = Run("solver.prototxt")
    assert run.trainer.solve(state)
    assert_close(run.losses, np.load(folder / "losses_resumed.npy"), "losses", LIMIT)
    final = info["final_model"]
    check_weights(Path(final), folder / final.replace("snap", "resumed"))


# -- the fork: five phases ---------------------------------------------------------------------

PHASES = ["init", "cyc1", "cyc2", "cyc3", "collapse"]
LAST = {"init": 78, "cyc1": 38, "cyc2": 48, "cyc3": 48, "collapse": 16}


def recorded(phase: str) -> list[dict[str, str]]:
    with open(CHAIN / "train.csv") as file:
        return [row for row in csv.DictReader(file) if row["phase"] == phase]


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CHAIN, tmp_path / "given")
    shutil.rmtree(tmp_path / "given" / "snap")
    (tmp_path / "given" / "snap").mkdir()
    monkeypatch.chdir(tmp_path / "given")
    return tmp_path / "given"


def start_of(phase: str) -> Path:
    if phase == "init":
        return CHAIN / "start.caffemodel"
    before = PHASES[PHASES.index(phase) - 1]
    return CHAIN / "snap" / f"{before}_iter_{LAST[before]}.caffemodel"


@pytest.mark.parametrize("phase", PHASES)
def test_phase(phase: str, chain: Path) -> None:
    run = Run(f"solver_{phase}.prototxt", weights=[start_of(phase)])
    assert run.trainer.profile.name == "intel"
    assert run.trainer.solve()
    rows = recorded(phase)[: LAST[phase]]
    losses = np.array([float(row["loss"]) for row in rows])
    assert np.abs(np.array(run.losses) / losses - 1).max() <= LIMIT
    bits = np.array([int(row["lr_bits"], 16) for row in rows], np.uint32).view(np.float32)
    np.testing.assert_allclose(np.array(run.rates, np.float32), bits, rtol=2e-7)
    name = f"snap/{phase}_iter_{LAST[phase]}"
    check_weights(chain / f"{name}.caffemodel", CHAIN / f"{name}.caffemodel")
    stem_bias = frozenset({1})  # BatchNorm takes away whatever it adds
    check_state(chain / f"{name}.solverstate", CHAIN / f"{name}.solverstate", stem_bias)


def test_tests_of_a_phase(chain: Path) -> None:
    run = Run("solver_init.prototxt", weights=[start_of("init")])
    run.trainer.solve()
    with open(CHAIN / "test_batches.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "init"]
    for result in run.tests:
        for name, value in result.outputs.items():
            own = [float(r["value"]) for r in rows
                   if int(r["iter"]) == result.iteration and r["output"] == name]  # fmt: skip
            assert own, name
            assert_close(value.reshape(()), np.mean(own), f"{name} at {result.iteration}", LIMIT)


def test_resume_gives_the_same_bits(chain: Path) -> None:
    whole = Run("solver_init.prototxt", weights=[start_of("init")])
    whole.trainer.solve()
    kept = {p.layer + str(p.index): p.tensor.detach().clone() for p in whole.trainer.net.learnable}
    again = Run("solver_init.prototxt")
    again.trainer.solve("snap/init_iter_39.solverstate")
    assert again.losses == whole.losses[39:]
    for p in again.trainer.net.learnable:
        assert torch.equal(p.tensor, kept[p.layer + str(p.index)]), p.layer


def test_resume_of_the_forks_own_state(chain: Path) -> None:
    for end in ("caffemodel", "solverstate"):
        shutil.copy(CHAIN / "snap" / f"init_iter_39.{end}", chain / "snap")
    run = Run("solver_init.prototxt")
    run.trainer.solve("snap/init_iter_39.solverstate")
    losses = np.array([float(row["loss"]) for row in recorded("init")[39:78]])
    assert np.abs(np.array(run.losses) / losses - 1).max() <= LIMIT
    check_weights(chain / "snap/init_iter_78.caffemodel", CHAIN / "snap/init_iter_78.caffemodel")
