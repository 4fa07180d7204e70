"""What a comparison found: an output at a time, in all runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from caffeio.converters.from_onnx.graph import Array
from caffeio.converters.verify.check import Checked, Row
from caffeio.converters.verify.numbers import absolute_difference


@dataclass
class Compared:
    """One output in all runs: by run the largest difference, and the largest value.

    A run that makes next to nothing of its input is held against a hundredth of what other runs
    make of theirs, since rounding is all that it shows.
    """

    output: str
    shape: tuple[int, ...] = ()
    runs: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, run: str, mine: Array, theirs: Array, scale: float | None = None) -> None:
        """Note a run; `scale` stands for the largest value (1 for probabilities)."""
        finite = theirs[np.isfinite(theirs)]
        if not finite.size:  # nothing to hold it against: other runs must tell
            if not np.array_equal(mine, theirs, equal_nan=True):
                self.runs.append((run, float("inf"), 1.0))
            return
        largest = float(np.abs(finite).max()) if scale is None else scale
        self.runs.append((run, absolute_difference(mine, theirs), largest))

    @property
    def relative(self) -> dict[str, float]:
        """The largest relative difference of each run."""
        largest = max((scale for _, _, scale in self.runs), default=0.0)
        least = max(largest / 100, 1e-6)
        return {run: off / max(scale, least) for run, off, scale in self.runs}

    @property
    def worst(self) -> float:
        """The largest relative difference of all runs; infinite if none had a number."""
        return max(self.relative.values(), default=float("inf"))

    @property
    def run(self) -> str:
        """The run with the largest difference."""
        found = self.relative
        return max(found, key=lambda run: found[run]) if found else ""

    @property
    def absolute(self) -> float:
        """The largest difference of all runs."""
        return max((off for _, off, _ in self.runs), default=self.worst)


@dataclass
class VerifyReport:
    """What was compared: the outputs, the runs, and what could not be.

    `inner` are blobs that an output selects its rows from.
    """

    outputs: list[Compared]
    runs: list[str]
    notes: list[str]
    inner: dict[str, Compared] = field(default_factory=dict)
    by: str = "onnxruntime"

    @property
    def items(self) -> list[Compared]:
        """All that was compared."""
        return [*self.outputs, *self.inner.values()]

    @property
    def worst(self) -> float:
        """The largest difference of all."""
        return max((item.worst for item in self.items), default=float("inf"))

    def lines(self) -> list[str]:
        """The comparison for people: an output a line."""
        head = f"compared with {self.by} on inputs {', '.join(self.runs)}; largest relative"
        return [head + " difference:", *(f"  {o.output}: {o.worst:.2g}" for o in self.items)]

    def checked(self) -> Checked:
        """The comparison as the other conversions report theirs."""
        rows = [Row(o.output, o.shape, "output", o.absolute, o.worst) for o in self.outputs]
        rows += [Row(i.output, i.shape, "selected from", i.absolute, i.worst)
                 for i in self.inner.values()]  # fmt: skip
        return Checked(rows, [f"inputs {', '.join(self.runs)}"], list(self.notes))
