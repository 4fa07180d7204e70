"""Log lines as real Caffe writes them: glog's prefix and Caffe's own text.

Existing tools (tools/extra/parse_log.py, plotters, dashboards) read these lines; the contract is
written down in tests/log/test_log.py. Nothing is printed here: a Log gets a sink.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

import numpy as np

from caffeio.visible import visible_lines

Sink = Callable[[str], None]


def stream_float(value: float) -> str:
    """A float as C++ streams print it by default: six significant digits."""
    value = float(value)
    if np.isnan(value):
        return "-nan" if np.signbit(value) else "nan"
    return f"{value:g}"


class Log:
    """Writes Caffe's log lines to `sink`, one call a line (a line may hold line breaks)."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.sink = sink
        self._thread = threading.get_native_id()
        self._once: set[str] = set()

    def __bool__(self) -> bool:
        return self.sink is not None

    def write(self, level: str, place: str, text: str) -> None:
        """One line of `level` I, W, E or F from `place` ("solver.cpp:45")."""
        if self.sink is not None:
            now = datetime.now()
            stamp = f"{level}{now:%m%d %H:%M:%S.%f} {self._thread:5d} {place}] "
            self.sink(stamp + visible_lines(text.removesuffix("\n")))

    def info(self, place: str, text: str) -> None:
        """An information line."""
        self.write("I", place, text)

    def once(self, place: str, text: str) -> None:
        """An information line that a program prints the first time only."""
        if text not in self._once:
            self._once.add(text)
            self.info(place, text)

    def warning(self, place: str, text: str) -> None:
        """A warning line."""
        self.write("W", place, text)

    def error(self, place: str, text: str) -> None:
        """An error line (Caffe uses this level for a few totals too)."""
        self.write("E", place, text)

    def note(self, text: str, level: str = "I") -> None:
        """A line that no Caffe has: what is worth knowing about this program."""
        self.write(level, "caffeio:1", text)


NULL_LOG = Log()
