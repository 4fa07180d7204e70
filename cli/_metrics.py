"""The metrics file of `caffeio train`: one JSON line an iteration, and never a reason to stop."""

from __future__ import annotations

import json
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caffeio._json import to_json
from caffeio.errors import CaffeIOError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.regular import check_name

_PATIENCE = 10.0  # seconds that the reader of a pipe may take


class Metrics:
    """A file, or a pipe that somebody reads, to which lines are appended.

    Raises CaffeIOError if it cannot be opened: that is before the training. Later failures (a full
    disk, a reader that has gone) end the metrics with one warning, and the training goes on.
    """

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path, self.warn = path, warn
        self._descriptor: int | None = None
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            check_name(self.path)
            self._descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            reason = error.strerror
            if self._is_pipe():
                reason = "it is a pipe that nothing reads"
            raise CaffeIOError(f"cannot write: {reason}", where=self.path) from None

    def _is_pipe(self) -> bool:
        try:
            return stat.S_ISFIFO(Path(self.path).stat().st_mode)
        except (OSError, ValueError):
            return False

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line."""
        if self._descriptor is None:
            return
        try:
            self._put((to_json(entry) + "\n").encode())
        except OSError as error:
            self._fail(error)

    def _put(self, data: bytes) -> None:
        assert self._descriptor is not None
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if not select.select([], [self._descriptor], [], _PATIENCE)[1]:
                    raise OSError(None, "nothing reads the pipe") from None

    def _fail(self, error: OSError) -> None:
        self.close()
        self.warn(
            f"{self.path}: cannot be written ({error.strerror}); training goes on without metrics"
        )

    def forget(self, phase: str, start: int) -> None:
        """Take out what this phase wrote from iteration `start` on: it comes once more."""
        if self._descriptor is None or not os.path.isfile(self.path):
            return
        try:
            with Path(self.path).open(encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
            kept = [line for line in lines if _stays(line, phase, start)]
            if kept == lines:
                return
            with atomic_write(self.path, error=CaffeIOError) as out:
                out.write("".join(kept).encode())
            self.close()
            self._open()
        except OSError as error:
            self._fail(error)
        except CaffeIOError as error:
            self._fail(OSError(None, error.message))

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _stays(line: str, phase: str, start: int) -> bool:
    try:
        entry = json.loads(line)
        return not (entry.get("phase") == phase and entry.get("iter", -1) >= start)
    except (ValueError, AttributeError, TypeError):
        return False  # cut off when the run was killed
