"""Reports as Markdown, for the description of a pull request or a comment on one."""

from __future__ import annotations

from collections.abc import Iterable

from caffeio.converters.report.model import Cell, Line, Picture, Report, Table
from caffeio.visible import visible

# What would be markup in a table or paragraph.
_ESCAPED = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<|#~"})


def render(report: Report) -> str:
    """The report as Markdown; sections after the first are folded away."""
    out = [f"### {_text(report.title)}", ""]
    for paragraph in report.headline:
        out += [_line(paragraph), ""]
    for i, section in enumerate(report.sections):
        if not section.blocks:
            continue
        folded = i > 0 and bool(section.title)
        if folded:
            out += [f"<details><summary>{_text(section.title)}</summary>", ""]
        elif section.title:
            out += [f"#### {_text(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                out += [*_table(block), ""]
            elif isinstance(block, Line):
                out += [_line(block), ""]
            else:
                assert isinstance(block, Picture)  # Markdown of a comment shows none
        if folded:
            out += ["</details>", ""]
    return "\n".join(out).rstrip() + "\n"


def _text(text: str) -> str:
    text = visible(text).translate(_ESCAPED)
    return f"\\{text}" if text.startswith(">") else text  # no quotation


def _line(paragraph: Line) -> str:
    return "".join(map(_cell, paragraph.parts))


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    strong = cell.tone in ("bad", "strong") and text.strip()
    return f"**{text}**" if strong else text


def _table(table: Table) -> list[str]:
    width = max([len(table.columns), *(len(row) for row in table.rows)])
    heads = [*table.columns, *[""] * (width - len(table.columns))]
    rule = ["---:" if i in table.right else "---" for i in range(width)]
    rows = [
        [_cell(cell) for cell in row] + [""] * (width - len(row))
        for i, row in enumerate(table.rows)
        if i not in table.text_only
    ]
    return [_row(map(_text, heads)), _row(rule), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
