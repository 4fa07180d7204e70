"""Two learning-rate curves against each other, at every iteration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffeio.converters.report.model import Picture, Section, Tone, short_float, sparkline
from caffeio.errors import SolverError
from caffeio.profiles import Profile
from caffeio.proto.caffe_pb2 import SolverParameter
from caffeio.solver.schedule import Schedule

Floats = NDArray[np.float32]
TOLERANCE = 2e-7  # relative: below one step of float32, as pow() of C libraries differs


@dataclass
class RateCurve:
    """The rates of one solver at iterations 0 to max_iter - 1, or why there are none."""

    rates: Floats | None
    formula: str
    problem: str = ""
    note: str = ""


@dataclass
class RateDiff:
    """How two curves differ; iterations are None where they do not."""

    left: RateCurve
    right: RateCurve
    common: int = 0  # iterations that both have
    differing: int = 0
    first: int | None = None
    last: int | None = None
    largest_ratio: float | None = None  # the larger rate over the smaller
    largest_at: int | None = None
    marks: list[int] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether both curves are known."""
        return self.left.rates is not None and self.right.rates is not None

    @property
    def same(self) -> bool:
        """Whether both runs use the same rates all along."""
        if not self.comparable:
            return False
        assert self.left.rates is not None and self.right.rates is not None
        return self.differing == 0 and len(self.left.rates) == len(self.right.rates)


def curve(solver: SolverParameter, profile: Profile) -> RateCurve:
    """Compute a solver's rates; a policy that follows the loss has none before it runs."""
    formula = formula_of(solver, profile)
    try:
        schedule = Schedule(solver, profile)
        if solver.lr_policy == "plateau":
            note = "the rate follows the training loss: shown as if it never stood still"
            return RateCurve(schedule.at(np.arange(max(solver.max_iter, 0))), formula, note=note)
        return RateCurve(schedule.array(max(solver.max_iter, 0)), formula)
    except SolverError as error:
        return RateCurve(None, formula, str(error))


def formula_of(solver: SolverParameter, profile: Profile) -> str:
    """The policy as a formula of t with this solver's numbers."""
    base, gamma, power = map(short_float, (solver.base_lr, solver.gamma, solver.power))
    steps = ", ".join(map(str, solver.stepvalue))
    text = {
        "fixed": base,
        "step": f"{base} x {gamma}^floor(t/{solver.stepsize})",
        "exp": f"{base} x {gamma}^t",
        "inv": f"{base} x (1 + {gamma} t)^-{power}",
        "multistep": f"{base}, x {gamma} at {steps or 'no iteration'}",
        "poly": f"{base} x (1 - t/{solver.max_iter})^{power}",
        "poly_cyc": f"{base} x (1 - t/{solver.lr_iter})^{power}",
        "sigmoid": f"{base} / (1 + e^(-{gamma} (t - {solver.stepsize})))",
        "plateau": f"{base}, x {gamma} when the loss stands still",
        "multifixed": ", ".join(
            f"{short_float(rate)} to {end}"
            for rate, end in zip(solver.stagelr, solver.stageiter, strict=False)
        ),
    }.get(solver.lr_policy, f"unknown policy {solver.lr_policy!r}")
    if profile.warmup and solver.warmup_iter > 0:
        start = short_float(solver.warmup_start_lr)
        return f"warm-up {start} to {base} over {solver.warmup_iter}, then {text}"
    if profile.nvidia_policies and solver.rampup_interval > 0:
        start = short_float(solver.rampup_lr)
        return f"ramp-up {start} to {base} over {solver.rampup_interval}, {text}"
    return text


def compare(left: RateCurve, right: RateCurve, marks: set[int]) -> RateDiff:
    """Compare two curves over the iterations that both have."""
    diff = RateDiff(left, right)
    if left.rates is None or right.rates is None:
        return diff
    diff.common = common = min(len(left.rates), len(right.rates))
    a, b = left.rates[:common].astype(float), right.rates[:common].astype(float)
    scale = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(all="ignore"):
        both_nan = np.isnan(a) & np.isnan(b)
        unequal = ~((np.abs(a - b) <= TOLERANCE * scale) | (a == b) | both_nan)
        where = np.flatnonzero(unequal)
        if where.size:
            diff.differing, diff.first, diff.last = where.size, int(where[0]), int(where[-1])
            ratios = np.where((a > 0) & (b > 0), np.maximum(a, b) / np.minimum(a, b), 0)
            if ratios.max(initial=0) > 0:
                diff.largest_at = int(ratios.argmax())
                diff.largest_ratio = float(ratios[diff.largest_at])
    diff.marks = _marks(diff, len(left.rates), len(right.rates), marks)
    return diff


def _marks(diff: RateDiff, left: int, right: int, extra: set[int]) -> list[int]:
    """Iterations worth a row: where something happens, and the quarters."""
    longest = max(left, right)
    marks = {0, longest - 1, left - 1, right - 1, diff.first, diff.largest_at}
    marks |= {longest * i // 4 for i in range(1, 4)}
    marks |= extra if len(extra) <= 8 else set(sorted(extra)[:4])
    return sorted(t for t in marks if t is not None and 0 <= t < longest)


def marks_of(solver: SolverParameter, profile: Profile) -> set[int]:
    """Iterations at which the curve bends or jumps."""
    marks: set[int] = set()
    for end in (
        solver.warmup_iter if profile.warmup else 0,
        solver.rampup_interval if profile.nvidia_policies else 0,
        *(solver.stepvalue if solver.lr_policy == "multistep" else ()),
    ):
        if end > 0:
            marks |= {end - 1, end}
    return {t for t in marks if t < solver.max_iter}


def report(diff: RateDiff, section: Section, names: tuple[str, str]) -> None:
    """Fill `section` with the formulas, the curves and the rates where they matter."""
    for name, one in zip(names, (diff.left, diff.right), strict=True):
        if one.problem:
            section.add_paragraph(f"{name}: no rates: {one.problem}", tone="warn")
        if one.note:
            section.add_paragraph(f"{name}: {one.note}", tone="warn")
    overview = section.table("", *names)
    overview.add("formula", diff.left.formula, diff.right.formula)
    if diff.left.rates is not None or diff.right.rates is not None:
        _overview(diff, overview)
        overview.text_only.add(1)  # the row of blocks
        section.blocks.append(_picture(diff, names))
    if not diff.comparable or diff.same:
        return
    table = section.table("iteration", *names, "ratio", "", right=(0, 1, 2, 3))
    for t in diff.marks:
        a, b = _at(diff.left, t), _at(diff.right, t)
        ratio = f"{b / a:.4g}" if a is not None and b is not None and a > 0 and b > 0 else ""
        table.add(f"{t:,}", _rate(a), _rate(b), ratio, _remark(diff, t))


def _picture(diff: RateDiff, names: tuple[str, str]) -> Picture:
    """Both curves as a page draws them."""
    sides: tuple[tuple[str, RateCurve, Tone], ...] = (
        (names[0], diff.left, "left"),
        (names[1], diff.right, "right"),
    )
    curves = [
        (name, one.rates.tolist(), tone)
        for name, one, tone in sides
        if one.rates is not None and len(one.rates)
    ]
    return Picture("learning rate", list(curves))


def _overview(diff: RateDiff, table: Any) -> None:
    curves = [one.rates for one in (diff.left, diff.right)]
    finite = [c[np.isfinite(c)] for c in curves if c is not None and np.isfinite(c).any()]
    high = float(max((c.max() for c in finite), default=0))
    longest = max((len(c) for c in curves if c is not None), default=0)
    rows: dict[str, list[str]] = {"curve": [], "highest": [], "mean": [], "sum": []}
    for rates in curves:
        if rates is None or not len(rates):
            for cells in rows.values():
                cells.append("")
            continue
        width = max(round(32 * len(rates) / longest), 1)
        rows["curve"].append(sparkline(rates.tolist(), 0.0, high, width))
        with np.errstate(all="ignore"):
            top = int(np.nanargmax(rates)) if np.isfinite(rates).any() else 0
            rows["highest"].append(f"{_rate(float(rates[top]))} at {top:,}")
            rows["mean"].append(f"{float(rates.astype(float).mean()):.4g}")
            rows["sum"].append(f"{float(rates.astype(float).sum()):.4g}")
    for head, cells in rows.items():
        table.add(head, *cells)


def _remark(diff: RateDiff, t: int) -> str:
    remarks = []
    if t == diff.first:
        remarks.append("first that differs")
    if t == diff.largest_at:
        remarks.append("largest ratio")
    for name, one in (("left", diff.left), ("right", diff.right)):
        if one.rates is not None and t == len(one.rates) - 1:
            remarks.append(f"last of the {name}")
    return ", ".join(remarks)


def _at(one: RateCurve, t: int) -> float | None:
    return float(one.rates[t]) if one.rates is not None and t < len(one.rates) else None


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def as_data(diff: RateDiff) -> dict[str, Any]:
    """The comparison as plain data."""

    def one(side: RateCurve) -> dict[str, Any]:
        out: dict[str, Any] = {"formula": side.formula}
        if side.rates is None:
            return {**out, "problem": side.problem}
        rates = side.rates
        return {
            **out,
            "iterations": len(rates),
            "first": float(rates[0]) if len(rates) else None,
            "last": float(rates[-1]) if len(rates) else None,
        }

    return {
        "same": diff.same,
        "left": one(diff.left),
        "right": one(diff.right),
        "common_iterations": diff.common,
        "differing_iterations": diff.differing,
        "first_difference": diff.first,
        "last_difference": diff.last,
        "largest_ratio": diff.largest_ratio,
        "largest_ratio_at": diff.largest_at,
    }
