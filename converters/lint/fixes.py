"""Fixes of findings, put into the text one by one; none is kept that makes it worse."""

from __future__ import annotations

from collections.abc import Sequence

from caffeio.converters.lint.model import Finding
from caffeio.errors import CaffeIOError
from caffeio.proto.rewrite import edit_text, message_type_of
from caffeio.proto.text.text_format import parse

Rename = tuple[int, int, str, str]  # line, column, old name, new name


def fixed_text(text: str, found: Sequence[Finding], path: str) -> tuple[str, int]:
    """The text after all fixes of `found`, comments kept, and how many were made.

    A fix after which the text does not parse, or has more that is unknown than before, is left
    out.
    """
    fixes = [f.fix for f in found if f.fix is not None]
    done = 0
    for rename in sorted((fix.rename for fix in fixes if fix.rename), reverse=True):
        if reads_better(text, rename):
            text, done = renamed(text, rename), done + 1
    for fix in fixes:
        if not (fix.changes or fix.removals):
            continue
        new, _ = edit_text(text, fix.changes, fix.removals, path=path)
        if (count := _unknown(new)) is not None and count <= (_unknown(text) or 0):
            text, done = new, done + 1
    return text, done


def renamed(text: str, rename: Rename) -> str:
    """The text with one name replaced at its place."""
    line, column, old, new = rename
    lines = text.split("\n")
    before = lines[line - 1]
    if before[column - 1 : column - 1 + len(old)] != old:
        return text
    lines[line - 1] = before[: column - 1] + new + before[column - 1 + len(old) :]
    return "\n".join(lines)


def reads_better(text: str, rename: Rename) -> bool:
    """Whether the text parses after a renaming, with less that is unknown than before."""
    before, after = _unknown(text), _unknown(renamed(text, rename))
    return before is not None and after is not None and after < before


def _unknown(text: str) -> int | None:
    """How many names of a text no Caffe knows; None if it does not parse."""
    try:
        return len(parse(text, message_type_of(text)).unknown)
    except CaffeIOError:
        return None
