"""A training goes on when its watchers fail, and leaves a snapshot when it must end."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from caffeio.errors import DataError, SnapshotError
from caffeio.proto.weights.solverstate import (
    SolverState,
    newest_whole_pair,
    read_solverstate,
    write_solverstate,
)
from caffeio.training.events import Events
from caffeio.training.trainer import Trainer
from tests.reliability.forked import one_error, run

SHORT = ["--set", "max_iter=6", "--set", "test_initialization=false", "--set", "test_interval=1000"]


def test_metrics_on_a_full_disk(training_case: Path) -> None:
    """/dev/full takes nothing."""
    ended = run("train", "solver.prototxt", *SHORT, "--metrics", "/dev/full")
    assert ended.code == 0, ended
    assert ended.err.count("training goes on without metrics") == 1
    assert "No space left" in ended.err
    assert newest_whole_pair("snap")[2] == 6  # type: ignore[index]


def test_metrics_that_nobody_reads(training_case: Path) -> None:
    os.mkfifo("fifo")
    message = one_error(run("train", "solver.prototxt", *SHORT, "--metrics", "fifo"))
    assert "a pipe that nothing reads" in message


def test_metrics_whose_reader_goes(training_case: Path) -> None:
    os.mkfifo("fifo")
    reader = threading.Thread(target=lambda: os.close(os.open("fifo", os.O_RDONLY)))
    reader.start()
    ended = run("train", "solver.prototxt", *SHORT, "--metrics", "fifo")
    reader.join()
    assert ended.code == 0
    assert ended.err.count("training goes on without metrics") == 1


@pytest.mark.parametrize("where", ["pipe", "/dev/full"])
def test_a_log_that_cannot_be_written(training_case: Path, where: str) -> None:
    if where == "pipe":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(where, os.O_WRONLY)
    ended = run("train", "solver.prototxt", *SHORT, "--metrics", "m.jsonl", stderr=write)
    os.close(write)
    assert ended.code == 0
    assert newest_whole_pair("snap")[2] == 6  # type: ignore[index]
    text = Path("m.jsonl").read_text()
    assert text.count('"loss"') == 6
    assert "standard error cannot be written to" in text


def test_a_training_that_fails_leaves_a_snapshot(training_case: Path) -> None:
    with Trainer("solver.prototxt") as trainer:
        trainer.step(2)
        reads = iter(range(3))
        read = trainer.net.read_inputs

        def fail() -> object:
            if next(reads) == 2:
                raise DataError("the disk has gone")
            return read()

        trainer.net.read_inputs = fail  # type: ignore[method-assign, assignment]
        with pytest.raises(DataError, match="the disk has gone"):
            trainer.solve()
    assert newest_whole_pair("snap")[2] == 4  # type: ignore[index]


def test_no_snapshot_within_an_update(training_case: Path) -> None:
    with Trainer("solver.prototxt") as trainer:
        trainer.step(1)

        def fail(*_: object) -> None:
            raise MemoryError

        trainer.optimizer.step = fail  # type: ignore[method-assign, assignment]
        with pytest.raises(MemoryError):
            trainer.solve()
    assert newest_whole_pair("snap") is None


def test_the_first_snapshot_on_a_full_disk_leaves_no_half_pair(
    training_case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SnapshotError("cannot be written: No space left on device")

    with Trainer("solver.prototxt") as trainer:
        monkeypatch.setattr("caffeio.training.snapshot_pair.write_solverstate", full)
        with pytest.raises(SnapshotError):
            trainer.snapshot()
        assert not list(Path().glob("snap_iter_*"))


@pytest.fixture
def state(training_case: Path) -> SolverState:
    with Trainer("solver.prototxt") as trainer:
        trainer.step(1)
        path = trainer.snapshot()[1]
    return read_solverstate(path)


@pytest.mark.parametrize("iteration", [-5, 2**31, 2**63 - 1])
def test_states_of_impossible_iterations(state: SolverState, iteration: int) -> None:
    state.iter = iteration
    write_solverstate("odd.solverstate", state)
    with pytest.raises(SnapshotError, match=r"odd.solverstate: iter is .* between 0 and"):
        Trainer("solver.prototxt", snapshot="odd.solverstate")


def test_states_with_transposed_history(state: SolverState) -> None:
    at = next(i for i, blob in enumerate(state.history) if blob.ndim == 2)
    state.history[at] = np.ascontiguousarray(state.history[at].T)
    write_solverstate("odd.solverstate", state)
    with pytest.raises(SnapshotError, match=r"history blob \d+ has shape"):
        Trainer("solver.prototxt", snapshot="odd.solverstate")


def test_states_that_are_not_finite(state: SolverState) -> None:
    state.history[0] = np.full_like(state.history[0], np.nan)
    write_solverstate("odd.solverstate", state)
    ended = run("train", "solver.prototxt", *SHORT, "--snapshot", "odd.solverstate")
    assert "History blob 0 of the state has values that are not finite" in ended.err


def test_reports_replace_a_file_as_a_whole(training_case: Path) -> None:
    """A report of which the disk holds half leaves the old one."""
    Path("page.html").write_text("old")

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    for form in ("--html", "--svg", "--json"):
        words = ("show", "net.prototxt", form, "-o", "page.html")
        message = one_error(run(*words, before=small_disk))
        assert "page.html: cannot be written" in message
        assert Path("page.html").read_text() == "old"
        assert not list(Path().glob(".page*"))


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_in_a_long_iteration(training_case: Path, signals: int) -> None:
    """The batches of an iteration that would last for weeks are given up, and nothing is lost."""
    endless = ["--set", "iter_size=10000000", "--set", "max_iter=9", "--set", "snapshot=0"]

    def interrupt() -> None:
        while signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            time.sleep(0.01)
        for _ in range(signals):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    ended = run(
        "train", "solver.prototxt", *SHORT, *endless,
        before=lambda: threading.Thread(target=interrupt, daemon=True).start(),
    )  # fmt: skip
    assert ended.code == 0, ended
    assert "Optimization stopped early" in ended.err
    assert newest_whole_pair("snap")[2] == 0  # type: ignore[index]


def test_what_an_iteration_changed_is_put_back(training_case: Path) -> None:
    """BatchNorm's statistics of an iteration that was given up are those from before it."""
    net = Path("net.prototxt").read_text()
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "pool1" top: "bn" }\nlayer { name: "ip"'
    net = net.replace('layer { name: "ip"', norm).replace(
        'bottom: "pool1" top: "ip"', 'bottom: "bn" top: "ip"'
    )
    Path("net.prototxt").write_text(net)
    asked = iter([False, False, True])
    events = Events(hurry=lambda: next(asked))
    options = {"overrides": ["iter_size=100", "max_iter=2", "test_initialization=false"]}
    with Trainer("solver.prototxt", events=events, **options) as trainer:  # type: ignore[arg-type]
        before = [b.detach().clone() for b in trainer.net.params["bn"]]
        assert not trainer.step(1)
        after = trainer.net.params["bn"]
        assert trainer.iter == 0
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert next(asked, None) is None  # it went as far as that
