"""Reports on a terminal: coloured, folded to its width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import IO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from caffeio.converters.report.model import Cell, Line, Picture, Report, Table, Tone
from caffeio.visible import visible

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
            if not isinstance(block, Picture):
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
