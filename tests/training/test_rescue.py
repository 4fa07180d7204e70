"""The snapshot of a training that fails: of a whole iteration, written once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffeio import load_weights
from caffeio.errors import DataError
from caffeio.proto.weights.solverstate import read_solverstate
from caffeio.pycaffe import solvers
from caffeio.training.snapshot_pair import SnapshotPair
from caffeio.training.trainer import Trainer
from caffeio.training.watchdog import Watchdog

NET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
        hdf5_data_param { source: "d.txt" batch_size: 3 } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "one" top: "bn" }
layer { name: "two" type: "InnerProduct" bottom: "bn" top: "two"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "two" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "n.prototxt" base_lr: 0.05 momentum: 0.9 max_iter: 6 snapshot: 100 random_seed: 3
lr_policy: "fixed" snapshot_prefix: "snap" type: "SGD"
"""
DONE = 3  # whole iterations before the one that fails


@pytest.fixture(autouse=True)
def _case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.RandomState(0)
    with h5py.File("d.h5", "w") as file:
        file["data"] = values.randn(12, 5).astype(np.float32)
        file["label"] = values.randint(0, 3, (12, 1)).astype(np.float32)
    Path("d.txt").write_text("d.h5\n")
    Path("n.prototxt").write_text(NET)
    Path("s.prototxt").write_text(SOLVER)


def fail_in(trainer: Trainer, layer: str, forward: int) -> None:
    """Let the `forward`-th forward of a layer fail."""
    left = [forward]
    module = next(step.layer for step in trainer.net.steps if step.node.name == layer)

    def hook(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise DataError("the disk has gone")

    module.register_forward_pre_hook(hook)


def blobs(path: str) -> list[np.ndarray]:
    found = load_weights(path)
    return [np.array(a) for i in range(len(found.layers)) for a in found.arrays(i)]


def same_as_uninterrupted(options: list[str], suffix: str) -> None:
    """The pair that is there is what a training that stops at DONE leaves."""
    with Trainer("s.prototxt", overrides=[*options, "snapshot_prefix='whole'"]) as trainer:
        trainer.step(DONE)
        trainer.snapshot()
    ours, theirs = (blobs(f"{name}_iter_{DONE}.caffemodel{suffix}") for name in ("snap", "whole"))
    assert len(ours) == 7
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    states = [
        read_solverstate(f"{name}_iter_{DONE}.solverstate{suffix}") for name in ("snap", "whole")
    ]
    mine, other = (replace(state, history=[], learned_net="") for state in states)
    assert mine == other
    pairs = zip(states[0].history, states[1].history, strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("iter_size", [1, 3])
@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_statistics_are_those_of_the_last_whole_iteration(iter_size: int, suffix: str) -> None:
    """BatchNorm has run when the next layer fails, in the last batch of an iteration."""
    options = [f"iter_size={iter_size}"] + ["snapshot_format=HDF5"] * bool(suffix)
    with Trainer("s.prototxt", overrides=options) as trainer:
        fail_in(trainer, "two", (DONE + 1) * iter_size)
        with pytest.raises(DataError):
            trainer.solve()
        moved = trainer.net.params["bn"][0].detach().numpy()
        kept = blobs(f"snap_iter_{DONE}.caffemodel{suffix}")[2]
        assert not np.array_equal(moved, kept)  # it had moved
    same_as_uninterrupted(options, suffix)


def test_the_state_of_the_rate_is_that_of_the_last_whole_iteration() -> None:
    """The rate of an iteration is asked for, and moves, before the update fails."""
    options = ["lr_policy=plateau", "gamma=0.5", "plateau_winsize=[1,1,1]"]
    with Trainer("s.prototxt", overrides=options) as trainer:
        ask, left = trainer.iteration._ask_rates, iter(range(DONE, -1, -1))

        def fail() -> object:
            rates = ask()
            if next(left) == 0:
                raise DataError("no more")
            return rates

        trainer.iteration._ask_rates = fail  # type: ignore[method-assign, assignment]
        with pytest.raises(DataError):
            trainer.solve()
    same_as_uninterrupted(options, "")


def test_a_solver_of_pycaffe_is_rescued_whole() -> None:
    solver = solvers.SGDSolver("s.prototxt")
    fail_in(solver._trainer, "two", DONE + 1)
    with pytest.raises((RuntimeError, DataError)):
        solver.solve()
    kept = blobs(f"snap_iter_{DONE}.caffemodel")
    again = solvers.SGDSolver("s.prototxt")
    again.step(DONE)
    again.snapshot()
    whole = blobs(f"snap_iter_{DONE}.caffemodel")
    assert all(np.array_equal(a, b) for a, b in zip(kept, whole, strict=True))


@pytest.fixture
def slow_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pairs are being written at each begin; writing takes a while."""
    begun: list[int] = []
    running = [0]
    write = SnapshotPair.write

    def slow(pair: SnapshotPair, *rest: object) -> None:
        running[0] += 1
        begun.append(running[0])
        time.sleep(0.2)
        write(pair, *rest)  # type: ignore[arg-type]
        running[0] -= 1

    monkeypatch.setattr(SnapshotPair, "write", slow)
    return begun


@pytest.mark.parametrize("background", [False, True])
def test_a_rescue_beside_a_snapshot_writes_no_pair_twice(
    slow_writes: list[int], background: bool
) -> None:
    """Threads that rescue while the main thread snapshots, settles and closes."""
    with Trainer("s.prototxt", async_snapshots=background) as trainer:
        trainer.step(2)
        threads = [threading.Thread(target=trainer.snapshots.rescue) for _ in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            if number == 0:
                trainer.snapshot()
            trainer.snapshots.settle()
        for thread in threads:
            thread.join()
    assert slow_writes in ([1], [1, 1])  # the rescue's and the snapshot's: one after the other


def test_a_rescue_waits_for_an_update(slow_writes: list[int]) -> None:
    """What it saves is the state behind the update, not half of it."""
    with Trainer("s.prototxt") as trainer:
        inside, rescue = threading.Event(), trainer.snapshots.rescue
        thread = threading.Thread(target=lambda: (inside.wait(), rescue()))
        thread.start()
        update = trainer.optimizer.step

        def slow(*arguments: object) -> object:
            result = update(*arguments)  # type: ignore[arg-type]
            if trainer.iter == DONE - 1:
                inside.set()
                time.sleep(0.3)
            return result

        trainer.optimizer.step = slow  # type: ignore[method-assign, assignment]
        trainer.step(DONE)
        thread.join()
    assert slow_writes == [1]
    same_as_uninterrupted([], "")


def test_a_rescue_that_never_ends_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer: the lost run is ended all the same."""
    monkeypatch.setattr("caffeio.training.snapshots._RESCUE", 0.2)
    released, ended = threading.Event(), threading.Event()
    with Trainer("s.prototxt") as trainer:
        trainer.step(1)
        monkeypatch.setattr(SnapshotPair, "write", lambda *_: released.wait())
        dog = Watchdog(0, 2, 0.2, lambda _: ended.set())
        dog.rescue = trainer.snapshots.rescue_in_time
        watching = threading.Thread(target=dog._watch)
        watching.start()
        assert ended.wait(20)
        watching.join()
        released.set()


def test_copies_cost_nothing_where_nothing_moves() -> None:
    """A net without statistics has nothing to copy."""
    Path("n.prototxt").write_text(NET.replace('"BatchNorm"', '"Sigmoid"'))
    with Trainer("s.prototxt") as trainer:
        trainer.step(1)
        trainer.state.kept.begin()
        assert list(trainer.state.kept.moved()) == []
        assert torch.is_tensor(trainer.net.loss)
