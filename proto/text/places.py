"""Lines, columns and carets for offsets into a text."""

from __future__ import annotations


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset; a BOM does not count."""
    line = text.count("\n", 0, offset) + 1
    begin = text.rfind("\n", 0, offset) + 1
    if begin == 0 and text.startswith("\ufeff"):
        begin = 1
    return line, max(offset - begin, 0) + 1


def caret(text: str, offset: int) -> str:
    """The line around an offset, and under it a caret at the offset; long lines are cut."""
    begin = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    line = text[begin : end if end >= 0 else len(text)].rstrip("\r")
    at = offset - begin
    if line.startswith("\ufeff"):
        line, at = line[1:], max(at - 1, 0)
    if len(line) > _WIDTH:
        first = max(0, min(at - _WIDTH // 2, len(line) - _WIDTH))
        cut = line[first : first + _WIDTH]
        line = ("..." if first else "") + cut + ("..." if first + _WIDTH < at + len(cut) else "")
        at += (3 if first else 0) - first
    shown = "".join(c if c == "\t" or c.isprintable() else "?" for c in line)
    under = "".join(c if c == "\t" else " " for c in shown[:at])
    return f"  {shown}\n  {under}^"


_WIDTH = 120
