"""The differences of two solvers in words, tables and plain data."""

from __future__ import annotations

from typing import Any

from caffeio.converters.diff import net_diff, net_report, rates
from caffeio.converters.diff.solver_diff import SolverDiff
from caffeio.converters.diff.solver_side import SolverSide, value_of
from caffeio.converters.diff.training import (
    SeenImages,
    coverage,
    snapshot_iterations,
    spans,
    test_iterations,
)
from caffeio.converters.report.model import Cell, Report, Section, listed, ratio, short_names


def headline(diff: SolverDiff) -> list[str]:
    """What to know first, in a few phrases."""
    phrases = []
    if diff.rates.comparable and diff.rates.first is not None:
        largest = diff.rates.largest_ratio
        extra = f", up to {ratio(largest)} x" if largest else ""
        phrases.append(f"the learning rate (from iteration {diff.rates.first:,} on{extra})")
    elif not diff.rates.comparable:
        phrases.append("the learning rate")
    for change in diff.fields:
        name = change.rule.name
        if change.rule.harmless or not change.matters or change.rule.group == "rate":
            continue
        if name == "max_iter":
            phrases.append(change.effect)
        elif change.rule.group != "net":
            phrases.append(f"{name} ({change.left} -> {change.right})")
    if diff.nets is not None and not diff.nets.same:
        phrases.append(f"the net ({net_diff.summary(diff.nets)})")
    elif diff.nets is None and any(change.rule.group == "net" for change in diff.fields):
        phrases.append("the net's file")
    return [*phrases, *diff.other]


def report(diff: SolverDiff) -> Report:
    """The whole comparison as a report."""
    names = (diff.left.label, diff.right.label)
    out = Report(f"{names[0]} -> {names[1]} (solvers)", data=as_data(diff))
    if diff.same:
        out.add_paragraph("The two solvers mean the same.", tone="good")
    elif diff.trains_alike:
        changed = [c.rule.name for c in diff.fields if c.matters] or ["nothing that counts"]
        out.add_paragraph("They train alike. What differs: ", listed(changed, 8) + ".")
    else:
        out.add_paragraph("They train differently: ", "; ".join(headline(diff)) + ".")
    short = short_names(names)
    if diff.fields or diff.options.show_all:
        _fields(diff, out.section("Fields"), short)
    section = out.section("Learning rate at every iteration")
    section.add_paragraph(_rate_words(diff.rates, short))
    rates.report(diff.rates, section, short)
    _training(diff, out.section("Run"), short)
    _net(diff, out, short)
    return out


def _fields(diff: SolverDiff, section: Section, names: tuple[str, str]) -> None:
    table = section.table("", *names, "")
    for change in diff.fields:
        cells = []
        for text, is_set, counts, tone in (
            (change.left, change.left_set, change.left_counts, "left"),
            (change.right, change.right_set, change.right_counts, "right"),
        ):
            shown = text if is_set or text == "-" else f"{text} (default)"
            cells.append(Cell(shown, tone if counts else "dim"))  # type: ignore[arg-type]
        table.add(change.rule.name, *cells, Cell(change.effect, "" if change.matters else "dim"))
    if diff.options.show_all:
        for name, value, is_set in diff.equal:
            if is_set:
                table.add(Cell(name, "dim"), Cell(value, "dim"), Cell("same", "dim"), "")
    if diff.respelled:
        section.add_paragraph(
            "Written differently, same meaning: " + listed(diff.respelled, 8), tone="dim"
        )
    for text in diff.other:
        section.add_paragraph(text)


def _rate_words(diff: rates.RateDiff, names: tuple[str, str]) -> str:
    if not diff.comparable:
        return "The rates cannot be compared."
    assert diff.left.rates is not None and diff.right.rates is not None
    a, b = len(diff.left.rates), len(diff.right.rates)
    longer = ""
    if a != b:
        which = names[1] if b > a else names[0]
        longer = f" {which} goes on for {abs(b - a):,} more iterations."
    if diff.first is None:
        return f"The same at all {diff.common:,} common iterations." + longer
    words = [f"First differs at iteration {diff.first:,}; differs at {diff.differing:,}"]
    words.append(f"of {diff.common:,} common iterations")
    text = " ".join(words)
    if diff.largest_ratio is not None:
        text += f"; largest ratio {ratio(diff.largest_ratio)} at iteration {diff.largest_at:,}"
    return text + "." + longer


def _training(diff: SolverDiff, section: Section, names: tuple[str, str]) -> None:
    table = section.table("", *names)
    assert diff.seen is not None
    seen = [one.summary_rows() for one in diff.seen]
    rows: dict[str, tuple[str, str]] = {
        "iterations": (f"{diff.left.message.max_iter:,}", f"{diff.right.message.max_iter:,}")
    }
    for key in dict.fromkeys([*seen[0], *seen[1]]):
        rows[key] = (seen[0].get(key, "-"), seen[1].get(key, "-"))
    sides = (diff.left, diff.right)
    tests = [test_iterations(side.message, side.profile) for side in sides]
    rows["tests at"] = (spans(tests[0]), spans(tests[1]))
    if any(side.message.test_iter for side in sides):
        covers = [coverage(side.message, side.test_feed) for side in sides]
        if any(covers):
            rows["one test"] = (covers[0] or "-", covers[1] or "-")
    snapshots = [snapshot_iterations(side.message) for side in sides]
    rows["snapshots at"] = (spans(snapshots[0]), spans(snapshots[1]))
    finals = [
        f"{value_of('snapshot_prefix', side)}_iter_{at[-1]}.caffemodel" if at else "-"
        for side, at in zip(sides, snapshots, strict=True)
    ]
    rows["final weights"] = (finals[0], finals[1])
    for name, (a, b) in rows.items():
        same = a == b
        table.add(name, Cell(a, "" if same else "left"), Cell(b, "" if same else "right"))
    if diff.seen[0].batch and diff.seen[0].dataset is None:
        hint = "Epochs are not known: give --dataset-size"
        if diff.options.workers == 1:
            hint += ", and --workers if several processes train at once"
        section.add_paragraph(hint + ".", tone="dim")


def _net(diff: SolverDiff, out: Report, names: tuple[str, str]) -> None:
    if not diff.options.follow_nets:
        return
    if diff.nets is not None:
        assert diff.left.net is not None and diff.right.net is not None
        labels = short_names((diff.left.net.label, diff.right.net.label))
        diff.left.net.label, diff.right.net.label = labels
        net_report.report(diff.nets, out)
        return
    section = out.section("Net")
    if diff.same_net_file and diff.left.net is not None:
        section.add_paragraph(f"Both train the same net, {diff.left.net.label}.")
    else:
        for name, side in zip(names, (diff.left, diff.right), strict=True):
            section.add_paragraph(
                f"{name}: {side.net_name}" + (f": {side.net_problem}" if side.net_problem else "")
            )


def as_data(diff: SolverDiff) -> dict[str, Any]:
    """The comparison as plain data."""
    assert diff.seen is not None

    def side(one: SolverSide, seen: SeenImages) -> dict[str, Any]:
        return {
            "file": one.label,
            "profile": one.profile.name,
            "net": one.net_name,
            "snapshots": snapshot_iterations(one.message),
            "tests": test_iterations(one.message, one.profile),
            "data": seen.as_data(),
        }

    return {
        "kind": "solver",
        "same": diff.same,
        "trains_alike": diff.trains_alike,
        "left": side(diff.left, diff.seen[0]),
        "right": side(diff.right, diff.seen[1]),
        "fields": [
            {
                "name": c.rule.name,
                "left": c.left,
                "right": c.right,
                "left_is_default": not c.left_set,
                "right_is_default": not c.right_set,
                "counts": c.matters,
                "trains_alike": c.rule.harmless or not c.matters,
                "effect": c.effect,
            }
            for c in diff.fields
        ],
        "other_fields": diff.other,
        "learning_rate": rates.as_data(diff.rates),
        "nets": None if diff.nets is None else net_diff.as_data(diff.nets),
    }
