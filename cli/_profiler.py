"""`caffeio train --profile FILE`: a trace of a few iterations by torch's profiler."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.cli._listen import Listener
from caffeio.visible import visible_lines

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
        """End the trace, and write it; what fails is told, and the training goes on."""
        traced, self._profile, self._over = self._profile, None, True
        traced.stop()  # a second time it would end the process
        part = f"{self.path}.part{'.gz' if self.path.endswith('.gz') else '.json'}"
        try:
            traced.export_chrome_trace(part)
            Path(part).replace(self.path)
        except (OSError, RuntimeError) as error:
            self.warn(f"{self.path}: the trace cannot be written ({_why(error, self.path)})")
            for left in (part, f"{part}.tmp"):  # torch's own
                with contextlib.suppress(OSError):
                    Path(left).unlink()
            return
        self.say(f"Trace of {self._traced} iterations: {self.path} (open it in ui.perfetto.dev)")
        for name, seconds, share in _longest(traced):
            self.say(f"  {share:5.1f} %  {1000 * seconds:9.2f} ms  {name}")

    def close(self) -> None:
        """Write what there is, if the training ended first."""
        if self._profile is not None:
            self._write()


def _why(error: Exception, path: str) -> str:
    """What kept a trace from the disk: torch says nothing of a full one, and leaves no file."""
    folder = Path(path).absolute().parent
    with contextlib.suppress(OSError):
        room = shutil.disk_usage(folder)
        if isinstance(error, FileNotFoundError) and folder.is_dir():
            return f"{room.free} bytes are free on its file system"
    return visible_lines(str(error)).splitlines()[0]


def _longest(profile: Any) -> list[tuple[str, float, float]]:
    """The five operators that took most of the time themselves: name, seconds, share."""
    rows = [(e.key, (e.self_cpu_time_total + getattr(e, "self_device_time_total", 0)) / 1e6)
            for e in profile.key_averages()]  # fmt: skip
    total = sum(seconds for _, seconds in rows) or 1.0
    rows.sort(key=lambda row: -row[1])
    return [(name, seconds, 100 * seconds / total) for name, seconds in rows[:5]]
