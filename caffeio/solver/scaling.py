"""A solver for another number of workers: rates, warm-up and iterations.

With batch_size per worker, N workers make updates of N times as many images (not where the profile
divides batches: NVIDIA's Caffe). Goyal et al. 2017
(arXiv 1706.02677) keep the sum of all updates by multiplying the rate by the same factor (linear
scaling) and starting from the small rate (warm-up); the iterations shrink so that as many images
are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffeio.errors import SolverError

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import SolverParameter

RULES: dict[str, Callable[[float], float]] = {
    "linear": lambda factor: factor,
    "sqrt": math.sqrt,
    "none": lambda factor: 1.0,
}
RATES = ("base_lr", "min_lr", "stagelr")
# Counts of updates: as many images lie between them after scaling.
COUNTS = (
    "max_iter", "lr_iter", "stepsize", "stepvalue", "stageiter", "warmup_iter", "rampup_interval",
    "snapshot", "test_interval", "test_iter",
)  # fmt: skip


@dataclass(frozen=True)
class ScaledField:
    """One value of a solver field before and after; `index` is None for a single field."""

    field: str
    index: int | None
    old: float
    new: float
    note: str = ""

    @property
    def key(self) -> str:
        """The field as an assignment names it: `stepvalue[1]`."""
        return self.field if self.index is None else f"{self.field}[{self.index}]"

    def assignment(self) -> str:
        """`KEY=VALUE`, as `caffeio edit` takes it."""
        value = str(self.new) if isinstance(self.new, int) else f"{self.new:.9g}"
        return f"{self.key}={value}"


def scale_solver(
    solver: SolverParameter,
    factor: float,
    *,
    rule: str = "linear",
    starts: bool = False,
    tests_shared: bool = True,
) -> list[ScaledField]:
    """Return what has to change in `solver` when an update takes `factor` times as many images.

    `rule` says how rates grow: "linear", "sqrt" (for adaptive solvers), "none". With `starts` the
    training begins here, from fillers, and its warm-up keeps the small rate that it starts from;
    a phase that goes on from another scales that rate too. `tests_shared` says whether all workers
    test their share (Intel); elsewhere one worker tests alone, and test_iter stays. Raises
    SolverError for an unknown rule and a factor of 0 or less.
    """
    if not factor > 0:
        raise SolverError(f"the factor must be above 0, not {factor:g}")
    if rule not in RULES:
        raise SolverError(f"no such rule: {rule} (known: {', '.join(RULES)})")
    counts = COUNTS if tests_shared else [name for name in COUNTS if name != "test_iter"]
    changes = [*_rates(solver, RULES[rule](factor), starts), *_counts(solver, factor, counts)]
    changes += _policy(solver, factor)
    return [change for change in changes if change.new != change.old]


def _rates(solver: SolverParameter, gain: float, starts: bool) -> Iterator[ScaledField]:
    for name in RATES:
        for index, old in _values(solver, name):
            yield ScaledField(name, index, old, _rounded(old * gain))
    for name in ("warmup_start_lr", "rampup_lr"):
        for index, old in _values(solver, name):
            if not starts:
                yield ScaledField(name, index, old, _rounded(old * gain))


def _counts(solver: SolverParameter, factor: float, names: Iterable[str]) -> Iterator[ScaledField]:
    for name in names:
        for index, old in _values(solver, name):
            exact = old / factor
            up = name in ("test_iter", "warmup_iter")  # at least as many images as before
            new = max(math.ceil(exact - 1e-9) if up else round(exact), 1) if old else 0
            off = abs(new - exact) / exact if exact else 0.0
            note = f"{100 * off:.0f} % off: {exact:.2f} is no whole number" if off > 0.02 else ""
            yield ScaledField(name, index, int(old), new, note)


def _policy(solver: SolverParameter, factor: float) -> Iterator[ScaledField]:
    """Fields that count by the single update: gamma of exp, inv and sigmoid."""
    if not solver.HasField("gamma") or not solver.HasField("lr_policy"):
        return
    old = float(f"{solver.gamma:.7g}")
    if solver.lr_policy == "exp":
        yield ScaledField("gamma", None, old, _rounded(old**factor))
    elif solver.lr_policy in ("inv", "sigmoid"):
        yield ScaledField("gamma", None, old, _rounded(old * factor))


def _values(solver: SolverParameter, name: str) -> Iterator[tuple[int | None, float]]:
    """The values of a field that the file gives, as a person wrote them (7 digits)."""
    if name not in solver.DESCRIPTOR.fields_by_name:
        return
    field = solver.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        for index, value in enumerate(getattr(solver, name)):
            yield index, float(f"{value:.7g}") if isinstance(value, float) else value
    elif solver.HasField(name):
        value = getattr(solver, name)
        yield None, float(f"{value:.7g}") if isinstance(value, float) else value


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
