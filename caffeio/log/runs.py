"""What a training has told: losses, rates and scores of logs, metrics and TensorBoard folders.

Sources of the lines: `Solver::Step`, `Solver::UpdateSmoothedLoss`, `Solver::Test` in
src/caffe/solver.cpp of BVLC, Intel and NVIDIA Caffe; `SGDSolver::ApplyUpdate`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto.io.regular import open_regular, read_regular

# "] Iteration 20 (12.3 iter/s, 1.6s/20 iters), loss = 0.5", NVIDIA's with "0.2/12.3ep, " before
# the loss; "] Iteration 20, lr = 0.01"; "] Iteration 20, Testing net (#0)".
_STEP = re.compile(
    r"\] +(?:\[[\d.]+\] +)?Iteration (\d+)(?: \([^()]*\))?, (?:[\d.]+/[\d.]+ep, )?"
    r"(?:loss = (\S+)|lr = ([^\s,]+)|Testing net \(#(\d+)\))"
)
_OUTPUT = re.compile(r"\] +(?:\[[\d.]+\] +)?(Train|Test) net output #(\d+): (.+?) = (\S+)")


@dataclass
class Series:
    """One quantity of a run: values [n] float64 at iterations [n], in order."""

    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, iteration: int, value: float) -> None:
        """Append a value; a run that was resumed writes over what came after."""
        while self.iterations and self.iterations[-1] >= iteration:
            self.iterations.pop()
            self.values.pop()
        self.iterations.append(iteration)
        self.values.append(value)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Both columns as arrays."""
        return np.array(self.iterations, np.int64), np.array(self.values, np.float64)


@dataclass
class Run:
    """What one training has told. Iterations of a chain's phases go on from those before.

    `train` and `test` hold outputs by name ("loss", "accuracy"); of several test nets the second
    and further ones have "#1 accuracy". `phases` are the iterations at which a phase begins.
    """

    name: str
    loss: Series = field(default_factory=Series)
    rate: Series = field(default_factory=Series)
    train: dict[str, Series] = field(default_factory=dict)
    test: dict[str, Series] = field(default_factory=dict)
    phases: list[tuple[int, str]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """One more than the last iteration that is told."""
        every = [self.loss, self.rate, *self.train.values(), *self.test.values()]
        return max((s.iterations[-1] + 1 for s in every if s.iterations), default=0)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether `path` looks like a log, a metrics file or a TensorBoard folder."""
    place = Path(path)
    if place.is_dir():
        return next(place.rglob("events.out.tfevents.*"), None) is not None
    try:
        with open_regular(place) as file:
            head = file.read(1 << 20).decode("utf-8", "replace")
    except (OSError, CaffeIOError):
        return False
    return _is_metrics(head) or any(map(_STEP.search, head.splitlines()))


def _is_metrics(head: str) -> bool:
    first = head.lstrip().split("\n", 1)[0]
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and "iter" in row


def read_run(path: str | os.PathLike[str], name: str | None = None) -> Run:
    """Read a log of any Caffe's, a `--metrics` file or a TensorBoard folder.

    Raises CaffeIOError if there is nothing of a training in it.
    """
    place = Path(path)
    run = Run(name or place.stem or str(place))
    if place.is_dir():
        _read_events(run, place)
    else:
        text = read_regular(place).decode("utf-8", "replace")
        if _is_metrics(text):
            _read_metrics(run, text, str(path))
        else:
            _read_log(run, text.splitlines())
    if not run.length:
        raise CaffeIOError("tells nothing of a training: no iteration, no loss", where=str(path))
    return run


class _Axis:
    """Iterations of a chain on one axis: a phase that begins anew goes on from the last."""

    def __init__(self, run: Run) -> None:
        self.run, self.start, self.last = run, 0, -1

    def at(self, iteration: int) -> int:
        """The place of an iteration; back to 0 means a new phase, back further a resumed one."""
        if iteration == 0 and self.last > 0:
            self.begin("")
        self.last = iteration
        return self.start + iteration

    def begin(self, name: str) -> None:
        """Start a phase behind all that is told."""
        self.start = self.run.length
        self.last = -1
        self.run.phases.append((self.start, name))


def _read_log(run: Run, lines: Iterable[str]) -> None:
    axis, here, net = _Axis(run), 0, 0
    for line in lines:
        if step := _STEP.search(line):
            here = axis.at(int(step[1]))
            if step[2] is not None:
                _add_point(run.loss, here, step[2])
            elif step[3] is not None:
                _add_point(run.rate, here, step[3])
            else:
                net = int(step[4])
        elif output := _OUTPUT.search(line):
            table, name = run.train, output[3]
            if output[1] == "Test":
                table, name = run.test, output[3] if not net else f"#{net} {output[3]}"
            _add_point(table.setdefault(name, Series()), here, output[4])


def _add_point(series: Series, iteration: int, text: str) -> None:
    try:
        series.add(iteration, float(text.rstrip(",")))
    except ValueError:
        return  # a line that was cut off


def _read_metrics(run: Run, text: str, where: str) -> None:
    axis, phase = _Axis(run), None
    for number, row in _rows(text, where):
        if "iter" not in row:
            continue
        if row.get("phase") != phase:
            if phase is not None:
                axis.begin(Path(str(row.get("phase"))).stem)
            else:
                run.phases.append((0, Path(str(row.get("phase"))).stem))
            phase = row.get("phase")
        here = axis.start + int(row["iter"])
        try:
            for key, series in (("loss", run.loss), ("lr", run.rate)):
                if key in row:
                    series.add(here, _number(row[key]))
            for key, value in row.get("outputs", {}).items():
                net = row.get("test_net", 0)
                name = key if not net else f"#{net} {key}"
                flat = np.array(value, np.float64).reshape(-1)
                run.test.setdefault(name, Series()).add(here, float(flat.mean()))
        except (TypeError, ValueError) as error:
            raise CaffeIOError(f"no metrics: {error}", where=f"{where}:{number}") from None


def _rows(text: str, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                return  # the training is writing it
            raise CaffeIOError("this line is no JSON", where=f"{where}:{number}") from None
        if isinstance(row, dict):
            yield number, row


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_events(run: Run, folder: Path) -> None:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise UnsupportedError(
            "TensorBoard folders need the package tensorboard: pip install 'caffeio[tensorboard]'",
            where=str(folder),
        ) from None
    for place in sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}):
        accumulate: Any = EventAccumulator
        events = accumulate(str(place), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            series = _series_of(run, tag)
            for event in events.Scalars(tag):
                series.add(event.step, event.value)


def _series_of(run: Run, tag: str) -> Series:
    """Where a scalar belongs: our own tags, else by the words that people use."""
    group, _, name = tag.rpartition("/")
    if name in ("lr", "learning_rate", "rate"):
        return run.rate
    if group.lower() in ("test", "val", "validation", "eval"):
        return run.test.setdefault(name, Series())
    if name == "loss":
        return run.loss
    return run.train.setdefault(name or tag, Series())
