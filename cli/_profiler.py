"""`caffeio train --profile FILE`: a trace of a few iterations by torch's profiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.cli._listen import Listener

if TYPE_CHECKING:
    from caffeio.training.trainer import Trainer

_SKIPPED, _TRACED = 2, 5  # iterations: the first ones warm up


class Profiler(Listener):
    """Traces five iterations behind the first two, or all where there are no more.

    The file is Chrome's trace format (https://ui.perfetto.dev), packed if it ends in `.gz`.
    """

    def __init__(
        self, path: str, say: Callable[[str], None], warn: Callable[[str], None] | None = None
    ) -> None:
        self.path, self.say, self.warn = path, say, warn or say
        self._profile: Any = None
        self._over = False
        self._seen = self._traced = 0
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is loaded

    def begin(self, trainer: Trainer) -> None:
        """Trace from the begin if there are too few iterations to leave some out."""
        if trainer.param.max_iter - trainer.iter <= _SKIPPED and not self._over:
            self._start()

    def iteration(self, entry: dict[str, Any]) -> None:
        """Start behind the first iterations, end after some more."""
        if self._over:
            return
        self._seen += 1
        if self._profile is not None:
            self._traced += 1
            self._profile.step()
            if self._traced == _TRACED:
                self._write()
        elif self._seen == _SKIPPED:
            self._start()

    def _start(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities, record_shapes=True)
        self._profile.start()

    def _write(self) -> None:
        self._over = True
        self._profile.stop()
        end = ".gz" if self.path.endswith(".gz") else ".json"
        part = f"{self.path}.part{end}"
        try:
            self._profile.export_chrome_trace(part)
            Path(part).replace(self.path)
        except (OSError, RuntimeError) as error:
            self.warn(f"{self.path}: the trace cannot be written: {error}")
            return
        self.say(f"Trace of {self._traced} iterations: {self.path} (open it in ui.perfetto.dev)")
        for name, seconds, share in self._longest():
            self.say(f"  {share:5.1f} %  {1000 * seconds:9.2f} ms  {name}")
        self._profile = None

    def _longest(self) -> list[tuple[str, float, float]]:
        """The five operators that took most of the time themselves: name, seconds, share."""
        rows = [(e.key, (e.self_cpu_time_total + getattr(e, "self_device_time_total", 0)) / 1e6)
                for e in self._profile.key_averages()]  # fmt: skip
        total = sum(seconds for _, seconds in rows) or 1.0
        rows.sort(key=lambda row: -row[1])
        return [(name, seconds, 100 * seconds / total) for name, seconds in rows[:5]]

    def close(self) -> None:
        """Write what there is, if the training ended first."""
        if self._profile is not None:
            self._write()
