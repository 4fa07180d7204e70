"""Whoever is told of a training: what a watcher passes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffeio.training.job import Job
    from caffeio.training.trainer import Trainer


class Listener:
    """Gets what happens in a training, in this order; by default nothing is done with it.

    `reads_losses`: the loss of every iteration is looked at, which waits for a GPU.
    """

    reads_losses = False
    reads_iterations = True

    def prepare(self, job: Job) -> None:
        """A phase is about to be built."""

    def begin(self, trainer: Trainer) -> None:
        """A phase has been built and begins, or goes on."""

    def iteration(self, entry: dict[str, Any]) -> None:
        """After an iteration; see `caffeio.training.events.Events`."""

    def test(self, result: Any) -> None:
        """Take the scores of a test."""

    def snapshot(self, weights: str, state: str) -> None:
        """Take the paths of a snapshot."""

    def finish(self, trainer: Trainer) -> None:
        """A phase has ended, at max_iter or by a signal; its nets are still there."""

    def close(self) -> None:
        """Nothing more comes. May be called after an error, too."""
