"""Tables in a given width: short forms, then fewer columns, then lines broken between words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from caffeio.converters.report.model import Cell, Table
from caffeio.visible import visible

GAP = 2  # blanks between columns
_PIECES = re.compile(r"(?<=[\s/+])|(?<=,)(?=\D)")  # a line may be broken here
_LEAST = 8  # columns never become narrower, whatever is in them

Rows = list[list[tuple[str, Cell]]]


@dataclass
class Fitted:
    """What is printed of a table: the columns that are kept, their widths, the cells' texts."""

    columns: list[int]
    widths: list[int]
    heads: list[str]
    rows: Rows


def fit(table: Table, width: int) -> Fitted:
    """Choose columns, widths and forms so that no word is broken, as far as `width` allows that."""
    columns = list(range(max([len(table.columns), *(len(row) for row in table.rows)])))
    heads = [visible(h) for h in table.columns] + [""] * (len(columns) - len(table.columns))
    short = False
    if not _fits(table, heads, columns, width, short=False):
        short = True
        for spare in table.spare:
            if _fits(table, heads, columns, width, short=True):
                break
            columns.remove(spare)
    widths = _widths(table, heads, columns, width, short)
    rows = [
        [(broken(_text(row, i, short), widths[n]), row[i] if i < len(row) else Cell(""))
         for n, i in enumerate(columns)]
        for row in table.rows
    ]  # fmt: skip
    shown = [broken(heads[i], wide) for i, wide in zip(columns, widths, strict=True)]
    return Fitted(columns, widths, shown, rows)


def _text(row: Sequence[Cell], i: int, short: bool) -> str:
    if i >= len(row):
        return ""
    return visible(row[i].short if short and row[i].short else row[i].text)


def _natural(table: Table, heads: Sequence[str], i: int, short: bool) -> int:
    """The width of a column without line breaks; the head may be broken."""
    head = _least(heads[i]) if table.heads else 0
    return max([head, *(cell_len(_text(row, i, short)) for row in table.rows)])


def _fits(
    table: Table, heads: Sequence[str], columns: Sequence[int], width: int, *, short: bool
) -> bool:
    return _total([_natural(table, heads, i, short) for i in columns]) <= width


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(len(widths) - 1, 0)


def _least(text: str) -> int:
    """The width of the longest piece that is not broken."""
    return max((cell_len(piece.rstrip()) for piece in _PIECES.split(text)), default=0)


def _widths(
    table: Table, heads: Sequence[str], columns: Sequence[int], width: int, short: bool
) -> list[int]:
    """Natural widths if they fit; else what is left after each column's longest piece is shared."""
    natural = [_natural(table, heads, i, short) for i in columns]
    if _total(natural) <= width:
        return natural
    least = [
        max([_least(heads[i]), *(_least(_text(row, i, short)) for row in table.rows)])
        if i not in table.right
        else n
        for i, n in zip(columns, natural, strict=True)
    ]
    while _total(least) > width and max(least) > _LEAST:  # words are cut: the longest first
        least[least.index(max(least))] -= 1
    free = width - _total(least)
    while free > 0 and any(a < b for a, b in zip(least, natural, strict=True)):
        for n in sorted(range(len(least)), key=lambda n: natural[n] - least[n], reverse=True):
            if free > 0 and least[n] < natural[n]:
                least[n] += 1
                free -= 1
    return least


def broken(text: str, width: int) -> str:
    """The text in lines of at most `width`; what has no place to break at is cut with `…`."""
    if cell_len(text) <= width:
        return text
    lines, line = [], ""
    for piece in _PIECES.split(text):
        if line and cell_len((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += _cut(piece, width)
    return "\n".join([*lines, line.rstrip()])


def _cut(piece: str, width: int) -> str:
    bare = piece.rstrip()
    if cell_len(bare) <= width or width < 4:
        return piece
    tail = (width - 1) * 2 // 3  # the end of a path tells more than its begin
    return f"{bare[: width - 1 - tail]}…{bare[len(bare) - tail :]}"
