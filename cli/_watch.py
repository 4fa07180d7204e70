"""The progress bar and the metrics file of `caffeio train`."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from caffeio.cli._board import Board
from caffeio.cli._metrics import Metrics
from caffeio.cli._terminal import discard
from caffeio.log.glog import Log
from caffeio.visible import visible

if TYPE_CHECKING:
    from caffeio.cli._listen import Listener
    from caffeio.training.job import Job
    from caffeio.training.trainer import Trainer


def as_json(value: Any) -> Any:
    """A float32 as the shortest number that reads back as the same float32; arrays as lists."""
    if isinstance(value, np.ndarray):
        return [as_json(item) for item in value] if value.ndim else as_json(value[()])
    return float(str(np.float32(value)))


class Watcher:
    """The progress bar and the metrics file of one command."""

    def __init__(self, metrics: str | None, show: bool, board: str | None = None) -> None:
        """`metrics`: the file to append to; `show`: a bar, if stderr is a terminal.

        `board`: a folder for TensorBoard.
        """
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.progress: Progress | None = None
        if show and self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[said]}", markup=False),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
        self.task: Any = None
        self.deaf = False
        self.phase = ""
        self.speed = 0.0
        self.file = Metrics(metrics, self.warn) if metrics else None
        self.board = Board(board, self.warn) if board else None
        self.listeners: list[Listener] = []
        self.shown = 0.0  # when the bar's figures were last read
        self.scores = ""

    @property
    def reads_iterations(self) -> bool:
        """Whether anything is to be done after every iteration."""
        asked = any(listener.reads_iterations for listener in self.listeners)
        return self.reads_losses or self.progress is not None or asked

    @property
    def reads_losses(self) -> bool:
        """Whether the loss of every iteration is looked at."""
        asked = any(listener.reads_losses for listener in self.listeners)
        return self.file is not None or self.board is not None or asked

    def __enter__(self) -> Self:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress:
            with contextlib.suppress(OSError, ValueError):
                self.progress.stop()
        if self.file:
            self.file.close()
        if self.board:
            self.board.close()
        for listener in self.listeners:
            listener.close()

    def prepare(self, job: Job) -> None:
        """A phase is about to be built."""
        for listener in self.listeners:
            listener.prepare(job)

    def snapshot(self, weights: str, state: str) -> None:
        """Tell a snapshot to all listeners."""
        for listener in self.listeners:
            listener.snapshot(weights, state)

    def finish(self, trainer: Trainer) -> None:
        """Tell all listeners that a phase has ended."""
        for listener in self.listeners:
            listener.finish(trainer)

    def line(self, text: str) -> None:
        """One log line: above the bar on a terminal, else plainly to stderr.

        A terminal that has gone, or a log file on a full disk, ends the lines, not the training.
        """
        if self.deaf:
            return
        try:
            if self.progress:
                self.console.out(text, highlight=False)
            else:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):
            self._lose_stderr()

    def warn(self, text: str) -> None:
        """A warning of this command, in the form of a log line."""
        Log(self.line).note(text, level="W")

    def _lose_stderr(self) -> None:
        """Standard error cannot be written to: say so in the metrics, and be silent from now on."""
        self.deaf = True
        discard(sys.stderr)
        if self.progress:
            self.progress.stop()
            self.progress = None
        if self.file:
            self.file.write({"warning": "standard error cannot be written to", "phase": self.phase})

    def begin(self, trainer: Trainer) -> None:
        """A new phase, or one that is resumed."""
        self.phase = str(trainer.file.path or trainer.net.name)
        self.speed = 0.0
        if self.file:
            self.file.forget(self.phase, trainer.iter)
        if self.progress:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task = self.progress.add_task(
                visible(Path(self.phase).name), total=trainer.param.max_iter,
                completed=trainer.iter, speed="", said="",
            )  # fmt: skip
        if self.board:
            self.board.begin(trainer.iter)
        for listener in self.listeners:
            listener.begin(trainer)

    def iteration(self, entry: dict[str, Any]) -> None:
        """After every iteration."""
        rate = entry["images"] / entry["seconds"] if entry["seconds"] else 0.0
        self.speed = rate if not self.speed else 0.9 * self.speed + 0.1 * rate
        self._write(
            lambda: {
                "iter": entry["iter"] - 1,
                "lr": as_json(entry["lr"]),
                "loss": as_json(float(entry["loss"])),
                "images_per_s": round(rate, 3),
                "seconds": round(entry["seconds"], 6),
                "phase": self.phase,
            }
        )
        if self.board:
            self.board.iteration(entry, rate)
        for listener in self.listeners:
            listener.iteration(entry)
        if self.progress and self.task is not None:
            self._show(self.progress, self.task, entry)

    def _show(self, progress: Progress, task: Any, entry: dict[str, Any]) -> None:
        """Move the bar; its figures are read twice a second, since that waits for a GPU."""
        fields: dict[str, Any] = {"speed": f"{self.speed:.1f} images/s"}
        now = time.monotonic()
        if now - self.shown > 0.5:
            self.shown = now
            fields["said"] = f"loss {float(entry['loss']):.4g}  lr {entry['lr']:.3g}{self.scores}"
        try:
            progress.update(task, completed=entry["iter"], **fields)
        except (OSError, ValueError):
            self._lose_stderr()

    def test(self, result: Any) -> None:
        """Tell a test's scores to all listeners."""
        means = {name: float(np.mean(value)) for name, value in result.outputs.items()}
        best = [f"{name} {value:.4g}" for name, value in list(means.items())[:2]]
        self.scores = f"  test: {visible(', '.join(best))}" if best else ""
        if self.board:
            self.board.test(result.iteration, result.net, means)
        for listener in self.listeners:
            listener.test(result)
        self._write(
            lambda: {
                "iter": result.iteration,
                "test_net": result.net,
                "test_loss": as_json(result.loss),
                "outputs": {name: as_json(value) for name, value in result.outputs.items()},
                "phase": self.phase,
            }
        )

    def _write(self, entry: Any) -> None:
        if self.file:
            self.file.write(entry())
