"""Options, events and the time of iterations: what a training and those who watch it share."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from caffeio import Trainer, load_weights
from caffeio.cli._watch import Watcher
from caffeio.errors import SolverError
from caffeio.training.distributed import World
from caffeio.training.events import Action, Events
from caffeio.training.options import TrainFields, TrainOptions

SOLVER = """
net_param {
  layer { name: "data" type: "DummyData" top: "data" top: "label"
    dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { value: 1 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
    inner_product_param { num_output: 2 weight_filler { type: "constant" value: 0.5 } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
}
test_iter: 1 test_interval: 2 test_initialization: false
base_lr: 0.1 lr_policy: "fixed" max_iter: 4 solver_mode: CPU snapshot_after_train: false
snapshot_prefix: "snap" snapshot: 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.prototxt").write_text(SOLVER)


def test_the_keywords_of_a_trainer_are_the_fields_of_its_options() -> None:
    fields = {f.name: f.type for f in dataclasses.fields(TrainOptions)}
    written = TrainFields.__annotations__
    names = {key: getattr(hint, "__forward_arg__", hint) for key, hint in written.items()}
    assert names == fields
    assert typing.get_type_hints(Trainer.__init__, localns={"Any": Any})["fields"]


def test_options_are_checked_when_they_are_made() -> None:
    with pytest.raises(SolverError, match="fp16"):
        TrainOptions(precision="fp16")


def test_options_and_keywords_mean_the_same() -> None:
    options = TrainOptions(overrides=["base_lr=0.5"], level=2)
    with Trainer("s.prototxt", options, overrides=["base_lr=0.25"]) as trainer:
        assert trainer.param.base_lr == 0.25
        assert trainer.param.train_state.level == 2


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("caffeio.training.trainer.perf_counter", clock)
    return clock


def passes(clock: Clock, seconds: float, work: Any = None) -> Any:
    """A function that takes `seconds`."""

    def call(*arguments: Any, **options: Any) -> Any:
        clock.now += seconds
        return work(*arguments, **options) if work else None

    return call


@pytest.mark.parametrize("waits", [True, False])
def test_seconds_are_those_of_whole_iterations(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """A device's queue, the watcher and the poll count; tests and snapshots do not."""
    seconds: list[float] = []

    def watch(entry: dict[str, Any]) -> None:
        seconds.append(entry["seconds"])
        clock.now += 1

    monkeypatch.setattr(World, "synchronize", passes(clock, 10))
    events = Events(watch, poll=passes(clock, 2, lambda: Action.NONE), waits=waits)
    with Trainer("s.prototxt", events=events) as trainer:
        trainer.iteration.update = passes(clock, 100, trainer.iteration.update)  # type: ignore[method-assign]
        trainer.tests.run_all = passes(clock, 5000, trainer.tests.run_all)  # type: ignore[method-assign]
        trainer.snapshots.write = passes(clock, 9000, trainer.snapshots.write)  # type: ignore[method-assign]
        trainer.step(5)
    device = 10 if waits else 0
    # before iteration 3 a test comes, before iteration 4 a snapshot: their own clock begins anew
    assert seconds == [100 + device, 103 + device, 100 + device, 100 + device, 100 + device]


def test_metrics_of_a_lazy_device_add_up_to_the_wall(clock: Clock) -> None:
    """Reading the loss of a GPU waits for it: metrics must not leave that time out."""
    with Watcher("m.jsonl", show=False) as watcher:
        assert watcher.reads_losses

        def iteration(entry: dict[str, Any]) -> None:
            clock.now += 3  # as float(loss) does where nobody has waited before
            watcher.iteration(entry)

        with Trainer("s.prototxt", events=Events(iteration), overrides=["snapshot=0"]) as trainer:
            trainer.step(2)
            trainer.step(2)
    rows = [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()]
    assert [row["seconds"] for row in rows] == [0, 3, 0, 3]


def test_a_trainer_that_fails_leaves_no_source_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close = "caffeio.data.sources.memory_data.DummySource.close"
    monkeypatch.setattr(close, lambda self: closed.append(self.layer.param.name))
    with pytest.raises(SolverError):
        Trainer("s.prototxt", overrides=["type=Nonsense"])
    assert closed == ["data", "data"]


NORM = """
net_param {
  layer { name: "data" type: "DummyData" top: "data"
    dummy_data_param { shape { dim: 4 dim: 3 } data_filler { type: "gaussian" } } }
  layer { name: "norm" type: "BatchNorm" bottom: "data" top: "norm" }
  layer { name: "loss" type: "Reduction" bottom: "norm" top: "loss" loss_weight: 1 }
}
base_lr: 0.1 lr_policy: "fixed" max_iter: 4 solver_mode: CPU snapshot_prefix: "snap"
"""


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A worker of two, whose mean with the other one is always 7."""

    def mean(self: World, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.detach().fill_(7)

    monkeypatch.setattr(World, "all_reduce_mean", mean)
    monkeypatch.setattr(World, "barrier", lambda self: None)
    Path("norm.prototxt").write_text(NORM)
    trainer = Trainer("norm.prototxt", profile="intel")
    trainer.step(1)
    trainer.state.world = World(size=2)
    return trainer


def statistics(trainer: Trainer) -> list[list[float]]:
    return [blob.tolist() for blob in trainer.net.params["norm"][:3]]


def test_a_worker_keeps_its_own_statistics_after_a_snapshot(of_two: Trainer) -> None:
    """The file has the mean of all workers, each goes on from its own."""
    before = statistics(of_two)
    weights, _ = of_two.snapshots.write()
    assert [blob.tolist() for blob in load_weights(weights)["norm"][:3]] == [[7] * 3, [7] * 3, [7]]
    assert statistics(of_two) == before


def test_own_statistics_come_back_after_an_error_too(of_two: Trainer) -> None:
    before = statistics(of_two)
    with pytest.raises(ZeroDivisionError), of_two.snapshots.averaged_statistics():
        assert statistics(of_two) == [[7] * 3, [7] * 3, [7]]
        with of_two.snapshots.averaged_statistics():
            pass
        assert statistics(of_two) == [[7] * 3, [7] * 3, [7]]  # the outer one still holds
        raise ZeroDivisionError
    assert statistics(of_two) == before


@pytest.mark.parametrize("wishes", [[Action.STOP, Action.SNAPSHOT], [Action.SNAPSHOT, Action.STOP]])
def test_all_that_is_asked_for_during_a_test_is_done(wishes: list[Action]) -> None:
    written: list[str] = []
    asked: list[Action] = []
    events = Events(
        poll=lambda: asked.pop(0) if asked else Action.NONE,
        snapshot=lambda weights, state: written.append(weights),
    )
    with Trainer("s.prototxt", events=events) as trainer:
        asked += wishes
        assert trainer.test_all() is False
    assert written == ["snap_iter_0.caffemodel"]


def test_a_snapshot_and_a_stop_of_one_iteration_both_happen() -> None:
    events = Events(poll=lambda: Action.SNAPSHOT | Action.STOP)
    with Trainer("s.prototxt", events=events) as trainer:
        assert trainer.step(4) is False
        assert trainer.iter == 1
    assert Path("snap_iter_1.solverstate").exists()
