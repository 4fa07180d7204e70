"""The net as a tree of text: chains go down, branches are indented, joins come back."""

from __future__ import annotations

from caffeio.converters.report.model import Cell, Section, scaled
from caffeio.converters.show.view import LayerRow, View, shape_words


def report(view: View, section: Section) -> None:
    """Write one line a row: its place in the flow, its name, type, words and shape."""
    for row, depth in zip(view.rows, depths(view), strict=True):
        _line(row, view, depth, section)


def depths(view: View) -> list[int]:
    """How far each row is indented.

    A branch stands one deeper than the row where it starts, a join as deep as the row at which its
    branches parted (its immediate dominator). Labels that go past the net are no branches.
    """
    sources = [_flow(row, view) for row in view.rows]
    readers: dict[int, int] = {}
    for row in sources:
        for source in row:
            readers[source] = readers.get(source, 0) + 1
    parted: list[int | None] = []  # the immediate dominator
    level: list[int] = []  # its distance from the root of the dominators' tree
    out: list[int] = []
    for row in sources:
        dominator = row[0] if row else None
        for other in row[1:]:
            dominator = _common(dominator, other, parted, level)
        parted.append(dominator)
        level.append(0 if dominator is None else level[dominator] + 1)
        if dominator is None:
            out.append(0)
        else:
            out.append(out[dominator] + (len(row) == 1 and readers[dominator] > 1))
    return out


def _flow(row: LayerRow, view: View) -> list[int]:
    """The rows that feed this one, less data layers where there are others (labels)."""
    inner = [source for source in row.sources if view.rows[source].sources]
    return inner or row.sources


def _common(a: int | None, b: int | None, parted: list[int | None], level: list[int]) -> int | None:
    """The last row that both `a` and `b` go through."""
    while a != b:
        if a is None or b is None:
            return None
        if level[a] >= level[b]:
            a = parted[a]
        else:
            b = parted[b]
    return a


def _line(row: LayerRow, view: View, depth: int, section: Section) -> None:
    parts: list[Cell | str] = [Cell("│ " * depth, "dim"), Cell(row.name, "strong"), "  "]
    parts.append(row.type_name)
    if row.summary:
        parts.append(Cell(f"  {row.summary}", "dim"))
    if row.tops:
        parts += ["  ", Cell(shape_words(row.tops), "good")]
    if row.parameters:
        parts.append(Cell(f"  {scaled(row.parameters)}", "dim"))
    if row.sources and row.sources != [row.index - 1]:
        names = ", ".join(view.rows[source].name for source in row.sources)
        parts.append(Cell(f"  <- {names}", "warn"))
    section.add_paragraph(*parts)
