"""The model of a report: sections that hold lines and tables, however they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# What a piece of text means; the renderers choose colours.
Tone = Literal["", "left", "right", "good", "bad", "warn", "dim", "strong"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text, what it means, and how it is written where there is little room."""

    text: str
    tone: Tone = ""
    short: str = ""


@dataclass(slots=True)
class Line:
    """A paragraph of a report."""

    parts: tuple[Cell, ...]

    @property
    def text(self) -> str:
        """The paragraph without its tones."""
        return "".join(part.text for part in self.parts)


@dataclass(slots=True)
class Table:
    """Rows of cells under column heads; `right` are the columns aligned to the right.

    `spare`: the columns that a narrow screen does without, the first to go first.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    right: frozenset[int] = frozenset()
    heads: bool = True
    spare: tuple[int, ...] = ()
    text_only: set[int] = field(default_factory=set)  # rows that stand for a picture

    def add(self, *cells: str | Cell) -> None:
        """Append a row."""
        self.rows.append(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells))


@dataclass(slots=True)
class Picture:
    """Curves over a common axis; a page draws them, a text has a row of its own for each."""

    title: str
    curves: list[tuple[str, Sequence[float], Tone]]  # name, values, whose it is


@dataclass(slots=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: list[Line | Table | Picture] = field(default_factory=list)

    def add_paragraph(self, *parts: str | Cell, tone: Tone = "") -> None:
        """Append a paragraph."""
        self.blocks.append(line(*parts, tone=tone))

    def table(self, *columns: str, right: Iterable[int] = (), heads: bool = True) -> Table:
        """Append an empty table."""
        table = Table(columns, right=frozenset(right), heads=heads)
        self.blocks.append(table)
        return table


@dataclass(slots=True)
class Report:
    """A whole answer: a title, a headline in plain words, sections, and the same as plain data."""

    title: str
    headline: list[Line] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def add_paragraph(self, *parts: str | Cell, tone: Tone = "") -> None:
        """Append a paragraph to the headline."""
        self.headline.append(line(*parts, tone=tone))

    def section(self, title: str) -> Section:
        """Append an empty section."""
        section = Section(title)
        self.sections.append(section)
        return section


def line(*parts: str | Cell, tone: Tone = "") -> Line:
    """A paragraph; plain strings in it get `tone`."""
    return Line(tuple(part if isinstance(part, Cell) else Cell(part, tone) for part in parts))


def short_names(names: tuple[str, str]) -> tuple[str, str]:
    """Two files' names, with as much of their paths as tells them apart."""
    if names[0] == names[1]:
        return f"{names[0]} (left)", f"{names[1]} (right)"
    a, b = (name.split("/") for name in names)
    for take in range(1, max(len(a), len(b)) + 1):
        left, right = "/".join(a[-take:]), "/".join(b[-take:])
        if left != right:
            return left, right
    return names


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 layer`, `53 layers`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], limit: int = 5) -> str:
    """`a, b, c and 12 more`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def short_float(value: float) -> str:
    """A float as short as it can be and still read back as the same float32."""
    return f"{value:.7g}"


def ratio(value: float) -> str:
    """A factor with three digits: `1.33`, `6,110,000`."""
    return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"


_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float, unit: str = "") -> str:
    """`25.6 M`, `4.09 G`; exact below 1000."""
    for size, letter in _UNITS:
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {letter}{unit}".strip()
    return f"{value:.3g} {unit}".strip() if value != int(value) else f"{int(value)} {unit}".strip()


def size(count: int) -> str:
    """A number of bytes: `102 MB` (10^6)."""
    return scaled(count, "B")


def share(part: float, whole: float) -> str:
    """`12.5 %`."""
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], low: float, high: float, width: int = 40) -> str:
    """A curve in one line of text, from `low` to `high`; `·` where it is not finite."""
    if not len(values):
        return ""
    out = []
    for i in range(min(width, len(values))):
        value = values[i * (len(values) - 1) // max(min(width, len(values)) - 1, 1)]
        if not low <= value <= high:
            out.append("·")
            continue
        level = (value - low) / (high - low) if high > low else 0.5
        out.append(_BLOCKS[min(int(level * len(_BLOCKS)), len(_BLOCKS) - 1)])
    return "".join(out)
