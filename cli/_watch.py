"""The progress bar and the metrics file of `caffeio train`."""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from caffeio._json import to_json
from caffeio.errors import CaffeIOError
from caffeio.proto.io.atomic import atomic_write
from caffeio.training.trainer import Trainer


def as_json(value: Any) -> Any:
    """A float32 as the shortest number that reads back as the same float32; arrays as lists."""
    if isinstance(value, np.ndarray):
        return [as_json(item) for item in value] if value.ndim else as_json(value[()])
    return float(str(np.float32(value)))


class Watcher:
    """The progress bar and the metrics file of one command."""

    def __init__(self, metrics: str | None, show: bool) -> None:
        """`metrics`: the file to append to; `show`: a bar, if stderr is a terminal."""
        self.path = metrics
        self.file: IO[str] | None = None
        if metrics:
            self._open()
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.progress: Progress | None = None
        if show and self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
        self.task: Any = None
        self.phase = ""
        self.speed = 0.0

    def _open(self) -> None:
        assert self.path is not None
        try:
            self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise CaffeIOError(f"cannot write: {error.strerror}", where=self.path) from None

    @property
    def wants_iterations(self) -> bool:
        """Whether anything is to be done after every iteration."""
        return self.file is not None or self.progress is not None

    @property
    def reads_losses(self) -> bool:
        """Whether the loss of every iteration is looked at."""
        return self.file is not None

    def __enter__(self) -> Self:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()
        if self.file:
            self.file.close()

    def line(self, text: str) -> None:
        """One log line: above the bar on a terminal, else plainly to stderr."""
        if self.progress:
            self.console.out(text, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def begin(self, trainer: Trainer) -> None:
        """A new phase, or one that is resumed."""
        self.phase = str(trainer.file.path or trainer.net.name)
        self.speed = 0.0
        if self.file:
            self._forget(trainer.iter)
        if self.progress:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task = self.progress.add_task(
                os.path.basename(self.phase), total=trainer.param.max_iter,
                completed=trainer.iter, speed="",
            )  # fmt: skip

    def _forget(self, start: int) -> None:
        """Take out what this phase wrote from iteration `start` on: it comes once more."""
        assert self.path is not None and self.file is not None
        self.file.close()
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
            kept = [line for line in lines if self._stays(line, start)]
            if kept != lines:
                with atomic_write(self.path, error=CaffeIOError) as out:
                    out.write("".join(kept).encode())
        self._open()

    def _stays(self, line: str, start: int) -> bool:
        try:
            entry = json.loads(line)
        except ValueError:
            return False  # cut off when the run was killed
        return not (entry.get("phase") == self.phase and entry.get("iter", -1) >= start)

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
        if self.progress and self.task is not None:
            speed = f"{self.speed:.1f} images/s"
            self.progress.update(self.task, completed=entry["iter"], speed=speed)

    def test(self, result: Any) -> None:
        """After a test."""
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
            self.file.write(to_json(entry()) + "\n")
            self.file.flush()
