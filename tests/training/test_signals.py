"""SIGINT, SIGTERM and SIGHUP: what real Caffe does with them, and its log lines."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from caffeio import Trainer
from caffeio.cli._signals import Signals
from caffeio.log.glog import Log
from caffeio.training.distributed import World
from caffeio.training.trainer import Action, Events
from tests import warm
from tests.log.test_log import normalized
from tests.paths import GOLDEN

LOGS = GOLDEN / "logs"


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a recorded run that was interrupted, and its data, without snapshots."""
    source = LOGS / request.param
    shutil.copytree(GOLDEN / "solvers" / "lmdb", tmp_path / "solvers" / "lmdb")
    shutil.copytree(source, tmp_path / "logs" / source.name)
    monkeypatch.chdir(tmp_path / "logs" / source.name)
    for path in Path().glob("snap_iter_*"):
        path.unlink()
    return source


class Process:
    """`caffeio train` in a process of its own, and the lines that it has written."""

    def __init__(self, *arguments: str) -> None:
        self.log = Path("own.log")
        with self.log.open("w") as out:
            self.process = subprocess.Popen(**warm.caffeio("train", *arguments), stderr=out)

    def wait_for(self, word: str, count: int = 1) -> None:
        """Wait until the log has `word` that many times."""
        deadline = time.monotonic() + 60
        while self.log.read_text().count(word) < count:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> str:
        """The whole log; the exit code must be 0."""
        assert self.process.wait(60) == 0, self.log.read_text()[-2000:]
        return self.log.read_text()


ITERATION = re.compile(r"\d+")


def shape(lines: Iterable[str]) -> list[str]:
    """The lines without numbers."""
    return [ITERATION.sub("#", line) for line in lines]


def end_of(log: str) -> list[str]:
    """What comes from the last snapshot on."""
    lines = normalized(log)
    last = max(i for i, line in enumerate(lines) if "Snapshotting to binary" in line)
    return shape(lines[last:])


LONG = ("--set", "max_iter=10000000")


@pytest.mark.parametrize("case", ["sigint_stop"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sigint_and_sigterm_snapshot_and_stop(case: Path, number: int) -> None:
    run = Process("-solver", "solver.prototxt", "-weights", "init.caffemodel", *LONG)
    run.wait_for("lr = ", 3)
    run.process.send_signal(number)
    log = run.end()
    assert end_of(log) == end_of((case / "log.txt").read_text())
    [state] = Path().glob("snap_iter_*.solverstate")
    assert state.with_suffix(".caffemodel").exists()


@pytest.mark.parametrize("case", ["sighup_snapshot"], indirect=True)
def test_sighup_snapshots_and_goes_on(case: Path) -> None:
    arguments = ("-solver", "solver.prototxt", "-weights", "init.caffemodel", *LONG)
    run = Process(*arguments, "-sighup_effect", "snapshot")
    run.wait_for("lr = ", 3)
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("Snapshotting solver state")
    seen = run.log.read_text().count("lr = ")
    run.wait_for("lr = ", seen + 2)
    run.process.send_signal(signal.SIGINT)
    log = run.end()
    theirs = (case / "log.txt").read_text()
    assert end_of(log) == end_of(theirs)
    assert log.count("Snapshotting to") == theirs.count("Snapshotting to") == 2
    assert len(list(Path().glob("snap_iter_*.solverstate"))) == 2


# -- the rules of the poll, without processes --------------------------------------------------


def test_sighup_comes_first_and_sigint_stays_pending() -> None:
    signals = Signals("stop", "snapshot")
    with signals.watch():
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGINT):
            signal.raise_signal(number)
        polls = [signals.poll() for _ in range(3)]
    assert polls == [Action.SNAPSHOT, Action.STOP, Action.NONE]


def test_effects_can_be_chosen() -> None:
    signals = Signals("none", "stop")
    with signals.watch():
        signal.raise_signal(signal.SIGINT)
        assert signals.poll() is Action.NONE
        signal.raise_signal(signal.SIGHUP)
        assert signals.poll() is Action.STOP


def test_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals("stop", "none").watch():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def asked(*actions: Action) -> Callable[[], Action]:
    """A poll that gives these answers, then nothing."""
    left = list(actions)
    return lambda: left.pop(0) if left else Action.NONE


def texts(poll: Callable[[], Action], *changes: str) -> tuple[list[str], Trainer]:
    lines: list[str] = []
    trainer = Trainer(
        "solver.prototxt", overrides=changes, log=Log(lines.append), events=Events(poll=poll)
    )
    with trainer:
        trainer.solve()
    solving = next(i for i, line in enumerate(lines) if "Learning Rate Policy" in line)
    return [line.partition("] ")[2] for line in lines[solving + 1 :]], trainer


TESTING = ("test_interval=2", "test_iter=3", "display=0", "max_iter=4", "snapshot=0")


@pytest.mark.parametrize("case", ["sigint_stop"], indirect=True)
@pytest.mark.parametrize(
    "pending", [(Action.SNAPSHOT, Action.STOP), (Action.STOP, Action.SNAPSHOT)]
)
def test_stop_during_a_test(case: Path, pending: tuple[Action, Action]) -> None:
    """Both are pending: the snapshot is written at once, then the test ends without results."""
    none = Action.NONE
    poll = asked(none, none, none, none, none, none, *pending)
    lines, trainer = texts(poll, *TESTING)
    assert trainer.iter == 2
    at = lines.index("Iteration 2, Testing net (#0)")
    assert lines[at + 1 :] == [
        "Snapshotting to binary proto file snap_iter_2.caffemodel",
        "Snapshotting solver state to binary proto file snap_iter_2.solverstate",
        "Test interrupted.",
        "Snapshotting to binary proto file snap_iter_2.caffemodel",
        "Snapshotting solver state to binary proto file snap_iter_2.solverstate",
        "Optimization stopped early.",
    ]


@pytest.mark.parametrize("case", ["sigint_stop"], indirect=True)
def test_snapshot_while_training_is_that_of_the_new_iteration(case: Path) -> None:
    poll = asked(Action.NONE, Action.SNAPSHOT, Action.STOP)
    lines, trainer = texts(poll, "test_interval=1000", "test_initialization=false", *TESTING[1:])
    assert trainer.iter == 3
    assert lines == [
        "Snapshotting to binary proto file snap_iter_2.caffemodel",
        "Snapshotting solver state to binary proto file snap_iter_2.solverstate",
        "Snapshotting to binary proto file snap_iter_3.caffemodel",
        "Snapshotting solver state to binary proto file snap_iter_3.solverstate",
        "Optimization stopped early.",
    ]


@pytest.mark.parametrize("case", ["sigint_stop"], indirect=True)
def test_stop_in_the_first_iteration_of_a_run_without_snapshots(case: Path) -> None:
    changes = ("snapshot_after_train=false", "test_interval=1000", "test_initialization=false")
    lines, trainer = texts(asked(Action.STOP), *TESTING[1:], *changes)
    assert trainer.iter == 1
    assert lines == ["Optimization stopped early."]
    assert not list(Path().glob("snap_iter_*"))


@pytest.fixture
def an_iteration_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions arrive as they do among several workers: one iteration later, if nobody waits."""
    on_their_way = [Action.NONE]

    def exchange_actions(self: World, action: Action, *, now: bool) -> Action:
        arrived = on_their_way.pop()
        on_their_way.append(Action.NONE if now else action)
        return arrived | action if now else arrived

    monkeypatch.setattr(World, "exchange_actions", exchange_actions)


@pytest.mark.usefixtures("an_iteration_late")
@pytest.mark.parametrize("case", ["sigint_stop"], indirect=True)
def test_a_stop_among_workers_does_not_wait_for_a_test(case: Path) -> None:
    poll = asked(Action.NONE, Action.STOP)
    lines, trainer = texts(poll, "test_initialization=false", *TESTING)
    assert trainer.iter == 2
    assert not any("Testing net" in line for line in lines)


@pytest.mark.usefixtures("an_iteration_late")
@pytest.mark.parametrize("case", ["sigint_stop"], indirect=True)
@pytest.mark.parametrize("left", [0, 1])
def test_an_iteration_that_is_given_up_loses_no_snapshot(case: Path, left: int) -> None:
    """It was asked for before (and is on its way among workers), or meanwhile."""
    hurry = iter([False] * (4 * left + 2) + [True])
    poll = asked(Action.SNAPSHOT)
    changes = (
        "iter_size=4",
        "snapshot_after_train=false",
        "test_initialization=false",
        "snapshot=0",
    )
    events = Events(poll=poll, hurry=lambda: next(hurry))
    with Trainer("solver.prototxt", overrides=changes, events=events) as trainer:
        assert not trainer.step(5)
        assert trainer.iter == left
    assert Path(f"snap_iter_{left}.solverstate").exists()
