"""What a training tells those who watch it, and what they may ask of it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Action(enum.IntFlag):
    """What is asked of a training, looked at once an iteration and before each test batch.

    A poll gives one of them; the wishes of several workers come together as SNAPSHOT | STOP.
    """

    NONE = 0
    SNAPSHOT = 1
    STOP = 2


@dataclass
class Scores:
    """The means of one test net's outputs."""

    net: int
    iteration: int
    loss: float
    outputs: dict[str, np.ndarray]  # by blob, in the net's order; float32


@dataclass
class Events:
    """Callbacks of whoever watches the training (metrics file, progress bar).

    `iteration` gets a dict after every iteration: "iter" (updates done so far), "lr", "loss" (a
    scalar tensor, maybe on a GPU), "seconds" (since the end of the iteration before, or of the
    test or snapshot after that) and "images" (of all workers). A GPU works on a queue: with
    `waits` it is waited for, so that the seconds are those of this iteration; without, only
    their mean is right, and nothing waits.
    """

    iteration: Callable[[dict[str, Any]], None] | None = None
    test: Callable[[Scores], None] | None = None  # after every test, on workers that test
    snapshot: Callable[[str, str], None] | None = None  # paths of weights and state
    poll: Callable[[], Action] = field(default=lambda: Action.NONE)
    hurry: Callable[[], bool] = field(default=lambda: False)  # stop within an iteration?
    waits: bool = True
