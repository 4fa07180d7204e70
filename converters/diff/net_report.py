"""The differences of two nets in words and tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from caffeio.converters.diff import transforms
from caffeio.converters.diff.messages import rules_text
from caffeio.converters.diff.net_diff import (
    PHASES,
    Change,
    LayerChange,
    NetDiff,
    NetSide,
    summary,
)
from caffeio.converters.report.model import Cell, Report, Section, listed, scaled, size
from caffeio.layers.registry import reads_data
from caffeio.shape_text import format_shape

LIMIT = 40  # rows of one list


def totals(side: NetSide, phase: str) -> dict[str, str]:
    """Sizes of a net in one phase, as text."""
    shapes = side.shapes.get(phase)
    if shapes is None:
        return {}
    layers = sum(node.type != "Split" for node in shapes.graph.nodes)
    parameters = f"{shapes.parameters:,}" + ("" if shapes.parameters_known else " or more")
    out = {"layers": f"{layers}", "parameters": parameters}
    batch = shapes.batch
    if shapes.macs and batch:
        per_image = scaled(shapes.macs / batch)
        out["MACs an image"] = per_image + ("" if shapes.macs_known else " or more")
    held = shapes.data_bytes
    if held:
        out["memory of blobs"] = size(held) + (f" for {batch} images" if batch else "")
    inputs = [
        f"{top} {format_shape(shapes.blobs.get(top))}"
        for node in shapes.graph.nodes
        if not node.bottoms
        for top in node.tops
    ]
    if inputs:
        out["inputs"] = listed(inputs, 3)
    if shapes.graph.outputs:
        out["outputs"] = listed(shapes.graph.outputs, 6)
    return out


def report(diff: NetDiff, out: Report, title: str = "Net") -> None:
    """Add the sections of a net's differences to `out`."""
    section = out.section(title)
    section.add_paragraph(summary(diff)[0].upper() + summary(diff)[1:] + ".")
    names = (diff.left.label, diff.right.label)
    for side in (diff.left, diff.right):
        for phase, problem in side.problems.items():
            section.add_paragraph(
                f"{side.label} cannot be built for {phase}: {problem}", tone="warn"
            )
    _sizes(diff, section, names)
    if diff.same:
        return
    _lists(diff, section)
    _changed(diff, section, names)
    _data(diff, out, names)


def _sizes(diff: NetDiff, section: Section, names: tuple[str, str]) -> None:
    table = section.table("", *names)
    for phase in PHASES:
        if phase in diff.left.problems or phase in diff.right.problems:
            continue
        a, b = totals(diff.left, phase), totals(diff.right, phase)
        for key in dict.fromkeys([*a, *b]):
            left, right = a.get(key, "-"), b.get(key, "-")
            if left == right and phase == "TEST" and key not in ("inputs", "outputs"):
                continue
            tones = ("", "") if left == right else ("left", "right")
            table.add(f"{key} ({phase})", Cell(left, tones[0]), Cell(right, tones[1]))  # type: ignore[arg-type]
    if diff.net_fields:
        for change in diff.net_fields:
            table.add(change.what, Cell(change.left, "left"), Cell(change.right, "right"))


def _lists(diff: NetDiff, section: Section) -> None:
    for title, indices, side, tone in (
        ("only left", diff.alignment.removed, diff.left, "left"),
        ("only right", diff.alignment.added, diff.right, "right"),
    ):
        if not indices:
            continue
        table = section.table(title, "type", "takes part in", "top", "parameters", right=(4,))
        for index in indices[:LIMIT]:
            param = side.message.layer[index]
            shapes = side.of_layer.get(index)
            tops = ", ".join(map(format_shape, shapes.tops)) if shapes else ""
            values = sum(_volume(blob) for blob in shapes.blobs) if shapes else 0
            table.add(
                Cell(param.name, tone),  # type: ignore[arg-type]
                param.type,
                rules_text(param) or "all",
                tops,
                f"{values:,}" if values else "",
            )
        if len(indices) > LIMIT:
            section.add_paragraph(f"... and {len(indices) - LIMIT} more", tone="dim")


def _volume(shape: Sequence[int]) -> int:
    total = 1
    for dim in shape:
        total *= max(dim, 0)
    return total


def _changed(diff: NetDiff, section: Section, names: tuple[str, str]) -> None:
    """Renames, then changes: layers that change in the same way share their rows."""
    renamed = [c for c in diff.changed if c.renamed]
    if renamed:
        table = section.table("renamed", "", "type")
        for pair in renamed[:LIMIT]:
            a, b = Cell(pair.left.name, "left"), Cell(pair.right.name, "right")
            table.add(a, b, pair.right.type)
        if len(renamed) > LIMIT:
            section.add_paragraph(f"... and {len(renamed) - LIMIT} more", tone="dim")
    groups: dict[tuple[Change, ...], list[LayerChange]] = defaultdict(list)
    for change in diff.changed:
        if change.changes:
            groups[tuple(change.changes)].append(change)
    if not groups:
        return
    table = section.table("changed", "field", *names)
    for changes, members in groups.items():
        head = members[0].left.name
        if len(members) > 1:
            types = {m.left.type for m in members}
            kind = f"{types.pop()} layers" if len(types) == 1 else "layers"
            head = f"{len(members)} {kind}: {listed([m.left.name for m in members], 3)}"
        for row, one in enumerate(changes):
            a, b = Cell(one.left, "left"), Cell(one.right, "right")
            table.add(Cell(head if row == 0 else "", "strong"), _short(one.what), a, b)


def _short(path: str) -> str:
    """A field's path without the message that the layer's type implies."""
    first, _, rest = path.partition(".")
    return rest if rest and first.endswith("_param") else path


def _data(diff: NetDiff, out: Report, names: tuple[str, str]) -> None:
    """What the net is shown, where that differs."""
    for phase in PHASES:
        steps = [_pipeline(side, phase) for side in (diff.left, diff.right)]
        if steps[0] == steps[1]:
            continue
        section = out.section(f"What the net sees in {phase}")
        table = section.table("", *names)
        for key in dict.fromkeys([*steps[0], *steps[1]]):
            a, b = steps[0].get(key, "-"), steps[1].get(key, "-")
            if a == b:
                table.add(key, Cell(a, "dim"), Cell("same", "dim"))
            else:
                table.add(key, Cell(a, "left"), Cell(b, "right"))


def _pipeline(side: NetSide, phase: str) -> dict[str, str]:
    shapes = side.shapes.get(phase)
    for node in shapes.graph.nodes if shapes else ():
        if reads_data(node.type):
            return transforms.describe(node.param, phase)
    return {"data": "no data layer in this phase"} if shapes else {}
