"""Snapshots in the background: the same bytes, a training that goes on, errors that are raised."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffeio import Trainer
from caffeio.cli.main import main
from caffeio.errors import SnapshotError
from caffeio.training import snapshot_pair
from caffeio.training.distributed import World
from caffeio.training.events import Action, Events
from caffeio.training.snapshot_pair import SnapshotPair

SHORT = ["max_iter=6", "snapshot=2", "test_interval=1000", "test_initialization=false"]


def _train(prefix: str, *changes: str, background: bool) -> list[str]:
    told: list[str] = []
    events = Events(snapshot=lambda weights, state: told.extend((weights, state)))
    overrides = [*SHORT, f"snapshot_prefix={prefix}", *changes]
    with Trainer(
        "solver.prototxt",
        weights=["init.caffemodel"],
        overrides=overrides,
        events=events,
        async_snapshots=background,
    ) as trainer:
        assert trainer.solve()
    return told


@pytest.mark.parametrize("changes", [[], ["snapshot_format=HDF5"], ["snapshot_diff=true"]])
def test_the_files_are_the_same(changes: list[str], training_case: Path) -> None:
    told = _train("one", *changes, background=False)
    Path("there").mkdir()
    for name in told:
        Path(name).rename(Path("there") / name)
    again = _train("one", *changes, background=True)
    assert again == told and len(told) == 6
    for name in told:
        if not name.endswith(".h5"):  # HDF5 writes times
            assert Path(name).read_bytes() == (Path("there") / name).read_bytes()
        assert Path(name).stat().st_size == (Path("there") / name).stat().st_size


def test_the_training_goes_on_meanwhile(
    training_case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair of iteration 2 holds its numbers, although the file comes after iteration 5."""
    _train("exact", "max_iter=2", background=False)
    wanted = Path("exact_iter_2.caffemodel").read_bytes()
    later, write = threading.Event(), SnapshotPair.write
    seen: list[int] = []

    def slow(self: SnapshotPair, *rest: object) -> None:
        if self.solver.iter == 2:
            assert later.wait(60)
        write(self)

    def iteration(entry: dict[str, float]) -> None:
        if entry["iter"] == 5:
            seen.append(len(list(Path().glob("exact_iter_2.*"))))
            later.set()

    for name in Path().glob("exact_iter_2.*"):
        name.unlink()
    monkeypatch.setattr(SnapshotPair, "write", slow)
    with Trainer(
        "solver.prototxt",
        weights=["init.caffemodel"],
        overrides=[*SHORT, "snapshot_prefix=exact", "snapshot=0", "snapshot_after_train=false"],
        events=Events(iteration=iteration),
        async_snapshots=True,
    ) as trainer:
        trainer.step(2)
        trainer.snapshot()
        trainer.step(4)
    assert seen == [0]
    assert Path("exact_iter_2.caffemodel").read_bytes() == wanted
    assert Path("exact_iter_2.solverstate").exists()


@pytest.fixture
def full_at_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the state of iteration 4 is written."""
    write = snapshot_pair.write_solverstate

    def full(path: str, state: object, **rest: object) -> None:
        if path.endswith("_4.solverstate"):
            raise SnapshotError("No space left on device", where=path)
        write(path, state, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot_pair, "write_solverstate", full)


@pytest.mark.usefixtures("full_at_4")
def test_an_error_is_raised_and_the_last_pair_stays(training_case: Path) -> None:
    with pytest.raises(SnapshotError, match="No space left"):
        _train("full", background=True)
    assert Path("full_iter_2.solverstate").exists()
    assert not list(Path().glob("full_iter_4.*"))


@pytest.mark.usefixtures("full_at_4")
@pytest.mark.parametrize("stops", [False, True])
def test_an_error_of_the_last_snapshot_is_raised(stops: bool, training_case: Path) -> None:
    """By `close`, or at once where a signal stops the training in a test."""
    polls = iter([Action.NONE] * 4 + [Action.STOP])
    overrides = [
        "snapshot_prefix=full",
        "snapshot=4",
        "test_interval=4",
        "test_initialization=false",
    ]
    trainer = Trainer(
        "solver.prototxt",
        overrides=overrides if stops else [*overrides, "snapshot=0"],
        events=Events(poll=lambda: next(polls, Action.NONE)),
        async_snapshots=True,
    )
    if stops:
        with pytest.raises(SnapshotError, match="No space left"):
            trainer.step(5)
        trainer.close()
    else:
        trainer.step(4)
        trainer.snapshot()
        with pytest.raises(SnapshotError, match="No space left"):
            trainer.close()


def test_workers_wait_for_the_files_once(
    training_case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits while the training goes on; who leaves has the root's files."""
    found: list[int] = []

    def barrier(world: World) -> None:
        found.append(len(list(Path().glob("wait_iter_*"))))

    monkeypatch.setattr(World, "barrier", barrier)
    _train("wait", background=True)
    assert found == [6]


def test_the_command_has_it(training_case: Path) -> None:
    words = [word for change in (*SHORT, "snapshot_prefix=cli") for word in ("--set", change)]
    run = CliRunner().invoke(main, ["train", "solver.prototxt", "--async-snapshots", *words])
    assert run.exit_code == 0, run.output
    assert len(list(Path().glob("cli_iter_*"))) == 6
