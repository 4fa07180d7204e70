"""Solver files of several phases (Intel's params_pair), compared phase by phase."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from caffeio.converters.diff import solver_diff, solver_report
from caffeio.converters.diff.solver_side import SolverSide, load_phases
from caffeio.converters.report.model import Cell, Report, count
from caffeio.converters.source import Source
from caffeio.profiles import get_profile


def report(
    left: Source,
    right: Source,
    options: solver_diff.SolverDiffOptions,
    *,
    dialect: str | None,
    caffe: str | None,
) -> Report:
    """Compare two solver files of which one at least holds several phases."""
    sides = [load_phases(source, dialect) for source in (left, right)]
    for side in (*sides[0], *sides[1]) if caffe else ():
        side.profile = get_profile(caffe or "")
    out = Report(f"{left.label} -> {right.label} (solvers of several phases)")
    table = out.section("").table("phase", "", "")
    data: list[dict[str, Any]] = []
    for number, (a, b) in enumerate(zip_longest(*sides), 1):
        if b is None:
            table.add(str(number), Cell("only left", "left"), "")
            data.append({"phase": number, "same": False, "only": "left"})
        elif a is None:
            table.add(str(number), Cell("only right", "right"), "")
            data.append({"phase": number, "same": False, "only": "right"})
        else:
            words, found = _pair(out, number, a, b, options)
            tone = Cell("same", "good") if found["same"] else Cell("differs", "warn")
            table.add(str(number), tone, "" if found["same"] else words)
            data.append(found)
    differ = sum(not item["same"] for item in data)
    phases = count(len(data), "phase")
    if differ:
        out.add_paragraph(f"{differ} of {phases} {'differs' if differ == 1 else 'differ'}.")
    else:
        out.add_paragraph(Cell(f"The same {phases}.", "good"))
    out.data = {"kind": "phases", "same": not differ, "phases": data}
    return out


def _pair(
    out: Report, number: int, a: SolverSide, b: SolverSide, options: solver_diff.SolverDiffOptions
) -> tuple[str, dict[str, Any]]:
    """Add what is different to the report; returns it in words and as data."""
    one = solver_report.report(solver_diff.diff_solvers(a, b, options))
    batches = a.feed.batch, b.feed.batch  # of the pair, or of the net
    same = bool(one.data["same"]) and batches[0] == batches[1]
    said = [] if one.data["same"] else [paragraph.text for paragraph in one.headline]
    if batches[0] != batches[1]:
        said.append(f"batch_size {batches[0]} -> {batches[1]}.")
    for part in one.sections if not same or options.show_all else ():
        part.title = f"Phase {number}: {part.title}" if part.title else f"Phase {number}"
        out.sections.append(part)
    return " ".join(said), {**one.data, "phase": number, "same": same, "batch_sizes": batches}
