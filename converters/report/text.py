"""Reports on a terminal: coloured, folded to its width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import IO, Literal

from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from caffeio.converters.report.fit import GAP, Fitted, Rows, fit
from caffeio.converters.report.model import Cell, Line, Report, Table, Tone
from caffeio.visible import visible

_MANY = 200  # rows; rich takes half a millisecond for each

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


def write(
    report: Report,
    stream: IO[str],
    *,
    width: int | None = None,
    fold: bool = True,
    most: int | None = None,
) -> None:
    """Write `report` to `stream`: colours only on a terminal and without NO_COLOR.

    Without `fold` a paragraph is one line, however long it is. `most`: the rows of all long tables
    together; None shows every row.
    """
    console = make_console(stream, width if fold else 1 << 16)
    most = _share(report, most)
    if report.title:
        console.print(Text(visible(report.title), style="bold"))
    for paragraph in report.headline:
        console.print(_line(paragraph))
    for section in report.sections:
        console.print()
        if section.title:
            console.print(Text(visible(section.title), style="bold underline"))
        for block in section.blocks:
            if isinstance(block, Table):
                _print_table(console, block, most)
            elif isinstance(block, Line):
                console.print(_line(block))


def _share(report: Report, most: int | None) -> int | None:
    """How many rows each of the long tables gets."""
    if most is None:
        return None
    blocks = [block for section in report.sections for block in section.blocks]
    long = [b for b in blocks if isinstance(b, Table) and b.heads and len(b.rows) > most // 2]
    return most if len(long) < 2 else max(most // len(long), 4)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a reader that has gone to the command, which ends as others do (141, not 1)."""
        raise BrokenPipeError


def make_console(stream: IO[str], width: int | None = None) -> Console:
    """A console for `stream`; as wide as its terminal, 100 columns where there is none."""
    if width is None:
        width = shutil.get_terminal_size((100, 40)).columns
    return _Console(
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


def _print_table(console: Console, table: Table, most: int | None) -> None:
    """Print a table; of more than `most` rows the first and the last ones."""
    heads = table.heads and any(table.columns)
    count = len(table.rows)
    if most is None or count <= most or not heads:
        fitted = fit(table, console.width)
        _put(console, table, fitted, fitted.rows, heads=heads)
        return
    first = most * 2 // 3
    last = most - first
    fitted = fit(replace(table, rows=[*table.rows[:first], *table.rows[-last:]]), console.width)
    _put(console, table, fitted, fitted.rows[:first], heads=True)
    console.print(Text(f"... {count - most:,} more (--all)", style="dim"))
    _put(console, table, fitted, fitted.rows[first:], heads=False)


def _put(console: Console, table: Table, fitted: Fitted, rows: Rows, *, heads: bool) -> None:
    """Print rows; many of them as rich would, faster."""
    if len(rows) <= _MANY:
        console.print(_table(table, fitted, rows, heads=heads))
        return
    if heads:
        _put_row(console, table, fitted, [(head, "dim") for head in fitted.heads])
    for row in rows:
        _put_row(console, table, fitted, [(text, STYLES[cell.tone]) for text, cell in row])


def _put_row(
    console: Console, table: Table, fitted: Fitted, row: Sequence[tuple[str, str]]
) -> None:
    cells = [text.split("\n") for text, _ in row]
    for number in range(max(map(len, cells))):
        line = []
        for n, (i, wide) in enumerate(zip(fitted.columns, fitted.widths, strict=True)):
            text = cells[n][number] if number < len(cells[n]) else ""
            space = " " * (wide - cell_len(text))
            text = _styled(console, text, row[n][1])
            line.append(space + text if i in table.right else text + space)
        console.file.write((" " * GAP).join(line) + "\n")


def _styled(console: Console, text: str, style: str) -> str:
    system = console.color_system
    if system is None or not style or not text:
        return text
    parsed = Style.parse(style)
    if console.no_color:
        parsed = parsed.without_color
    return parsed.render(text, color_system=COLOR_SYSTEMS[system])


def _table(table: Table, fitted: Fitted, rows: Rows, *, heads: bool) -> RichTable:
    out = RichTable(
        box=None,
        show_header=heads,
        header_style="dim",
        pad_edge=False,
        padding=(0, GAP, 0, 0),
        collapse_padding=True,
    )
    for i, head, wide in zip(fitted.columns, fitted.heads, fitted.widths, strict=True):
        side: Literal["right", "left"] = "right" if i in table.right else "left"
        out.add_column(Text(head), justify=side, no_wrap=True, min_width=wide)
    for row in rows:
        out.add_row(*(Text(text, style=STYLES[cell.tone]) for text, cell in row))
    return out
