"""Reports on a terminal: coloured, folded to its width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import IO

from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from caffeio.converters.report.model import Cell, Line, Report, Table, Tone
from caffeio.visible import visible

_MANY = 500  # rows: rich takes half a millisecond for each
_GAP = 2  # columns between cells

STYLES: dict[Tone, str] = {
    "": "",
    "left": "red",
    "right": "green",
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "dim": "dim",
    "strong": "bold",
}


def write(report: Report, stream: IO[str], *, width: int | None = None, fold: bool = True) -> None:
    """Write `report` to `stream`: colours only on a terminal and without NO_COLOR.

    Without `fold` a paragraph is one line, however long it is.
    """
    console = make_console(stream, width if fold else 1 << 16)
    if report.title:
        console.print(Text(visible(report.title), style="bold"))
    for paragraph in report.headline:
        console.print(_line(paragraph))
    for section in report.sections:
        console.print()
        if section.title:
            console.print(Text(visible(section.title), style="bold underline"))
        for block in section.blocks:
            if isinstance(block, Table) and len(block.rows) > _MANY:
                _write_rows(block, console)
            else:
                console.print(_table(block) if isinstance(block, Table) else _line(block))


def make_console(stream: IO[str], width: int | None = None) -> Console:
    """A console for `stream`; as wide as its terminal, 100 columns where there is none."""
    if width is None:
        width = shutil.get_terminal_size((100, 40)).columns
    return Console(
        file=stream,
        width=width,
        highlight=False,
        emoji=False,
        markup=False,
        no_color=True if os.environ.get("NO_COLOR") else None,
        legacy_windows=False,
    )


def _line(paragraph: Line) -> Text:
    return _text(paragraph.parts)


def _text(parts: Iterable[Cell]) -> Text:
    text = Text(overflow="fold")
    for part in parts:
        text.append(visible(part.text), style=STYLES[part.tone])
    return text


def _table(table: Table) -> RichTable:
    out = RichTable(
        box=None,
        show_header=table.heads and any(table.columns),
        header_style="dim",
        pad_edge=False,
        padding=(0, 2, 0, 0),
        collapse_padding=True,
    )
    for i, column in enumerate(table.columns):
        out.add_column(
            Text(visible(column)), justify="right" if i in table.right else "left", overflow="fold"
        )
    for row in table.rows:
        out.add_row(*(Text(visible(cell.text), style=STYLES[cell.tone]) for cell in row))
    return out


def _write_rows(table: Table, console: Console) -> None:
    """Write a long table as rich would, faster: what does not fit into a column is folded."""
    heads = [visible(column) for column in table.columns]
    rows = [[visible(cell.text) for cell in row] for row in table.rows]
    widths = [max(map(_width, column)) for column in zip(heads, *rows, strict=True)]
    _shrink(widths, console.width - _GAP * (len(widths) - 1))
    if table.heads and any(heads):
        _write_row(table, console, heads, ["dim"] * len(heads), widths)
    for row, texts in zip(table.rows, rows, strict=True):
        _write_row(table, console, texts, [STYLES[cell.tone] for cell in row], widths)


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _shrink(widths: list[int], room: int) -> None:
    """Make the widest columns narrower until all have room, though none narrower than one."""
    while (excess := sum(widths) - room) > 0 and max(widths) > 1:
        widest = max(widths)
        next_ = max([w for w in widths if w < widest], default=1)
        many = widths.count(widest)
        less = max(1, min(widest - next_, excess // many))
        for i, width in enumerate(widths):
            if width == widest and excess > 0:
                widths[i] = width - less
                excess -= less


def _write_row(
    table: Table, console: Console, texts: list[str], styles: list[str], widths: list[int]
) -> None:
    parts = [_folded(text, width, console) for text, width in zip(texts, widths, strict=True)]
    for number in range(max(map(len, parts))):
        line = []
        for i, (part, width) in enumerate(zip(parts, widths, strict=True)):
            text = part[number] if number < len(part) else ""
            space = " " * (width - _width(text))
            text = _styled(text, styles[i], console)
            line.append(space + text if i in table.right else text + space)
        console.file.write((" " * _GAP).join(line) + "\n")


def _folded(text: str, width: int, console: Console) -> list[str]:
    if _width(text) <= width:
        return [text]
    return [line.plain for line in Text(text).wrap(console, width, overflow="fold")]


def _styled(text: str, style: str, console: Console) -> str:
    system = console.color_system
    if system is None or not style or not text:
        return text
    parsed = Style.parse(style)
    if console.no_color:
        parsed = parsed.without_color
    return parsed.render(text, color_system=COLOR_SYSTEMS[system])
