"""`caffeio train --log short`: a calm summary for people; Caffe's own log goes to a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from caffeio.cli._listen import Listener

if TYPE_CHECKING:
    from caffeio.training.job import Job
    from caffeio.training.trainer import Trainer

_MARK = "] "  # between glog's prefix and the text


class Summary(Listener):
    """Takes Caffe's log lines, and says in few words what a person wants to know.

    `say` shows a line; `steps`: also one for each iteration that Caffe displays (there is no bar).
    """

    def __init__(self, say: Callable[[str], None], *, steps: bool) -> None:
        self.say, self.steps = say, steps
        self._file: TextIO | None = None
        self._path = ""
        self._before: list[str] = []  # lines from before there is a file
        self._display = self._last = 0
        self._began = self._done = 0.0
        self._first: float | None = None
        self._images = 0
        self._phase = ""
        self._weights = ""

    # -- Caffe's log -------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """A line of Caffe's log: into the file; a warning or an error is shown as well."""
        level, words = text[:1], text.partition(_MARK)[2]
        if level in "WEF" and words:
            self.say(f"warning: {words}" if level == "W" else words)
        if self._file is None:
            self._before.append(text)
            return
        try:
            self._file.write(text + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self._file, self._before = None, []
        reason = getattr(error, "strerror", None) or str(error)
        self.say(f"warning: {self._path}: Caffe's log cannot be written ({reason})")
        self.line = lambda text: None  # type: ignore[method-assign]

    def prepare(self, job: Job) -> None:
        """Open the phase's log: the snapshots' prefix with `.log`."""
        prefix = job.param.snapshot_prefix
        if not prefix or os.path.isdir(prefix):
            prefix = os.path.splitext(os.fspath(job.file.path or "train"))[0]
        self._close_file()
        self._path = f"{prefix}.log"
        try:
            self._file = open(  # noqa: SIM115 - `close` closes it
                self._path, "a", encoding="utf-8", errors="backslashreplace"
            )
        except OSError as error:
            self._drop(error)
            return
        waiting, self._before = self._before, []
        for text in waiting:
            self._file.write(text + "\n")

    # -- what is said ------------------------------------------------------------------------

    def begin(self, trainer: Trainer) -> None:
        """Say what is trained, on what, for how long, and where the log is."""
        param, world = trainer.param, trainer.world
        self._phase = Path(str(trainer.file.path or trainer.net.name)).name
        self._display, self._last = param.display, param.max_iter
        self._began, self._first, self._done = time.monotonic(), None, 0.0
        values = sum(int(np.prod(p.tensor.shape)) for p in trainer.net.learnable)
        size = f"{values / 1e6:.3g} M" if values >= 1e5 else f"{values:,}"
        workers = f", {world.size} workers" if world.size > 1 else ""
        start = f" from iteration {trainer.iter:,}" if trainer.iter else ""
        self.say(
            f"{self._phase}: net {trainer.net.name or 'without a name'} ({size} parameters) on "
            f"{world.device}{workers}, {trainer.images_per_iteration or '?'} images an iteration, "
            f"{param.max_iter:,} iterations{start}"
        )
        self.say(f"Caffe's log: {self._path} (--log caffe shows it here)")

    def iteration(self, entry: dict[str, Any]) -> None:
        """Say the loss where Caffe displays it, unless a bar does."""
        done = entry["iter"]
        self._done += entry["seconds"]
        self._images += entry["images"]
        shown = self._display and (done - 1) % self._display == 0
        if self._first is None:
            self._first = float(entry["loss"])
        if done == self._last:
            self._end_loss = float(entry["loss"])
        if not self.steps or not shown:
            return
        speed = entry["images"] / entry["seconds"] if entry["seconds"] else 0.0
        self.say(
            f"iteration {done - 1:,} of {self._last:,}: loss {float(entry['loss']):.4g}, rate "
            f"{entry['lr']:.3g}, {speed:.1f} images/s"
        )

    _end_loss: float | None = None

    def test(self, result: Any) -> None:
        """Say the scores of a test."""
        scores = [f"{name} {float(np.mean(value)):.4g}" for name, value in result.outputs.items()]
        net = f" (net #{result.net})" if result.net else ""
        self.say(f"test at iteration {result.iteration:,}{net}: {', '.join(scores)}")

    def snapshot(self, weights: str, state: str) -> None:
        """Say what was written."""
        self._weights = weights
        self.say(f"snapshot: {weights}")

    def finish(self, trainer: Trainer) -> None:
        """Say how it ended."""
        took = duration(time.monotonic() - self._began)
        if trainer.iter < trainer.param.max_iter:
            self.say(f"{self._phase}: stopped at iteration {trainer.iter:,} after {took}")
            return
        losses = ""
        if self._first is not None and self._end_loss is not None:
            losses = f", loss {self._first:.4g} to {self._end_loss:.4g}"
        weights = f"; weights: {self._weights}" if self._weights else ""
        self.say(f"{self._phase}: done in {took}{losses}{weights}")

    def close(self) -> None:
        """Close the log."""
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._drop(error)
            self._file = None


def duration(seconds: float) -> str:
    """`12 s`, `5 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
