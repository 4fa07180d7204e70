"""What workers are asked for, and how often they tell each other."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from caffeio.training.events import Action

LAG, MOST_LEFT_OUT = 50_000, 64  # microseconds and iterations between two exchanges of wishes


@dataclass
class Wishes:
    """What a worker was asked for and the others do not know yet.

    An exchange takes some 0.2 ms of processor time. Workers tell each other how long their
    iterations take, and all leave out as many exchanges as fit into `LAG`.
    """

    pending: list[tuple[dist.Work, Tensor]] = field(default_factory=list)  # on their way
    held: Action = Action.NONE
    calls: int = 0  # since the last exchange
    every: int = 1  # iterations
    last: float = -math.inf  # when the last exchange began

    def due(self, action: Action, *, now: bool) -> bool:
        """Keep the wish; whether this iteration exchanges them."""
        self.held |= action
        self.calls += 1
        return now or self.calls >= self.every

    def arrived(self) -> Action:
        """What the exchange that is on its way brings, if there is one."""
        if not self.pending:
            return Action.NONE
        work, flags = self.pending.pop()
        work.wait()
        self.every = max(1, min(MOST_LEFT_OUT, LAG // max(1, int(flags[2]))))
        return action_of(flags[:2])

    def take(self) -> Action:
        """The wishes that are exchanged now."""
        taken, self.held = self.held, Action.NONE
        return taken

    def pace(self) -> Tensor:
        """Microseconds of an iteration since the last exchange, int64 [1]: many for the first."""
        now = time.perf_counter()
        seconds = min(1e6, (now - self.last) / self.calls)
        self.last, self.calls = now, 0
        return torch.tensor([int(1e6 * seconds)])


def flags_of(action: Action) -> Tensor:
    """The action as numbers of which the largest of all workers counts: int64 [2]."""
    return torch.tensor([int(flag in action) for flag in (Action.SNAPSHOT, Action.STOP)])


def action_of(flags: Tensor) -> Action:
    """The action that such numbers say."""
    snapshot, stop = flags.tolist()
    return Action((Action.SNAPSHOT if snapshot else 0) | (Action.STOP if stop else 0))
