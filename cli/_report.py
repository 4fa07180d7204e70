"""`caffeio train --report FILE`: notes what happens, and writes a page when a phase ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffeio.cli._listen import Listener
from caffeio.cli._summary import duration
from caffeio.converters.report.model import count
from caffeio.errors import CaffeIOError
from caffeio.log.runs import Run, Series

if TYPE_CHECKING:
    from caffeio.tools.predictions import Predictions
    from caffeio.training.trainer import Trainer


class Recorder(Listener):
    """Keeps losses, rates and scores of all phases; `finish` runs the test net once more.

    `say` is told that the page is there, `warn` that it cannot be written.
    """

    reads_losses = True

    def __init__(
        self, path: str, say: Callable[[str], None], warn: Callable[[str], None] | None = None
    ) -> None:
        self.path, self.say, self.warn = path, say, warn or say
        self.run = Run(Path(path).stem)
        self.start = self._next = 0  # the axis of a chain's iterations
        self._seconds = self._images = 0.0
        self._began = time.monotonic()
        self._trainer: Trainer | None = None

    def begin(self, trainer: Trainer) -> None:
        """A phase goes on behind the iterations of those before."""
        self.start = max(self._next - trainer.iter, 0)
        name = Path(str(trainer.file.path or trainer.net.name)).stem
        self.run.phases.append((self.start + trainer.iter, name))
        self._trainer = trainer

    def iteration(self, entry: dict[str, Any]) -> None:
        """Note loss and rate."""
        at = self.start + entry["iter"] - 1
        self.run.loss.add(at, float(entry["loss"]))
        self.run.rate.add(at, float(entry["lr"]))
        self._seconds += entry["seconds"]
        self._images += entry["images"]

    def test(self, result: Any) -> None:
        """Note the scores."""
        for name, value in result.outputs.items():
            key = name if not result.net else f"#{result.net} {name}"
            series = self.run.test.setdefault(key, Series())
            series.add(self.start + result.iteration, float(np.mean(value)))

    def finish(self, trainer: Trainer) -> None:
        """Score the test data once more, picture by picture, and write the page."""
        from caffeio.tools.predictions import predict

        self._next = self.start + trainer.iter
        found: Predictions | None = None
        warnings = []
        if trainer.iter < trainer.param.max_iter:
            warnings.append(f"The training was stopped at iteration {trainer.iter:,} of "
                            f"{trainer.param.max_iter:,}.")  # fmt: skip
        if trainer.test_nets:
            try:
                found = predict(trainer.test_nets[0], max(trainer.param.test_iter[0], 1))
            except CaffeIOError as error:
                warnings.append(f"The test net could not be run once more: {error}")
        self._write(trainer, found, warnings)
        self._trainer = None

    def close(self) -> None:
        """Write what is known, if the phase did not end by itself."""
        if self._trainer is not None and self.run.loss.values:
            self._write(self._trainer, None, ["The training ended with an error."])

    def _write(self, trainer: Trainer, found: Predictions | None, warnings: list[str]) -> None:
        from caffeio.converters.run_page import RunFacts, render
        from caffeio.proto.io.atomic import atomic_write

        param = trainer.param
        speed = self._images / self._seconds if self._seconds else 0.0
        facts = {
            "solver": str(trainer.file.path or "-"),
            "net": f"{trainer.net.name} ({param.net or param.train_net or 'in the solver'})",
            "Caffe": f"{trainer.profile.name} (whose numbers these are)",
            "device": f"{trainer.world.device}, {count(trainer.world.size, 'worker')}",
            "iterations": f"{trainer.iter:,} of {param.max_iter:,}",
            "images": f"{self._images:,.0f} at {speed:,.1f} images/s",
            "time": f"{duration(time.monotonic() - self._began)} with tests and snapshots",
            "weights": trainer.job.snapshot_names(trainer.iter)[0],
        }
        title = " + ".join(name for _, name in self.run.phases[-3:])
        page = render(self.run, RunFacts(f"Training of {title}", facts, warnings), found)
        try:
            with atomic_write(self.path, error=CaffeIOError) as file:
                file.write(page.encode("utf-8", "backslashreplace"))
        except CaffeIOError as error:
            self.warn(str(error))
            return
        self.say(f"Report: {self.path}")
