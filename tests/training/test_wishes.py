"""How often workers tell each other what they are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from caffeio.training.events import Action
from caffeio.training.wishes import LAG, Wishes, action_of, flags_of

ARRIVED: Any = SimpleNamespace(wait=lambda: None)


@pytest.mark.parametrize(
    ("microseconds", "every"),
    [(0, 64), (781, 64), (782, 63), (1_000, 50), (25_000, 2), (25_001, 1), (10**6, 1)],
)
def test_as_many_exchanges_are_left_out_as_fit(microseconds: int, every: int) -> None:
    wishes = Wishes()
    for _ in range(2):
        wishes.pending.append((ARRIVED, torch.tensor([0, 1, microseconds])))
        assert wishes.arrived() == Action.STOP
        assert wishes.every == every
    assert wishes.arrived() == Action.NONE
    assert wishes.every == every


def test_what_is_asked_for_between_exchanges_is_kept() -> None:
    wishes = Wishes(every=4)
    asked = [Action.NONE, Action.SNAPSHOT, Action.NONE, Action.STOP]
    assert [wishes.due(each, now=False) for each in asked] == [False, False, False, True]
    assert wishes.take() == Action.SNAPSHOT | Action.STOP
    assert wishes.take() == Action.NONE


def test_an_exchange_that_is_waited_for_takes_what_is_kept() -> None:
    wishes = Wishes(every=64)
    assert not wishes.due(Action.SNAPSHOT, now=False)
    assert wishes.due(Action.NONE, now=True)
    assert wishes.take() == Action.SNAPSHOT


def test_the_pace_is_that_of_the_iterations_since_the_last_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([100.0, 100.5])
    clock = SimpleNamespace(perf_counter=lambda: next(times))
    monkeypatch.setattr("caffeio.training.wishes.time", clock)
    wishes = Wishes()
    assert wishes.due(Action.NONE, now=False)
    assert int(wishes.pace()) > LAG  # nobody knows yet: the next iteration exchanges again
    wishes.every = 5
    assert [wishes.due(Action.NONE, now=False) for _ in range(5)] == [False] * 4 + [True]
    assert wishes.pace().tolist() == [100_000]


@pytest.mark.parametrize("action", [Action(n) for n in range(4)])
def test_flags_say_the_action(action: Action) -> None:
    assert action_of(flags_of(action)) == action
