"""A file beside an .onnx file whose numbers are mapped, and whether it is still what it was."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from caffeio.converters.from_onnx.graph import Array
from caffeio.errors import CaffeIOError


class HeldFile:
    """A file that is mapped, held open to see whether it is still what it was.

    A map that reaches beyond the end of its file ends the process with a bus error.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError."""
        self.path = path
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.number)
        self._was = self._now()
        self.size = self._was[0]

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self.number)
        return state.st_size, state.st_mtime_ns

    def check(self) -> None:
        """Raise CaffeIOError if the file has been written since it was opened."""
        if self._now() != self._was:
            raise CaffeIOError(
                "was written while it was read: nothing of it can be trusted", where=str(self.path)
            )

    def bytes(self, offset: int, length: int) -> Array:
        """A part of the file, read. Raises CaffeIOError if the file ends before it."""
        with open(os.dup(self.number), "rb") as file:  # noqa: PTH123  (of a number)
            file.seek(offset)
            raw = np.fromfile(file, np.uint8, count=length)
        if raw.size != length:
            raise CaffeIOError("got shorter while it was read", where=str(self.path))
        return raw
