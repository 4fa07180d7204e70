"""Two LMDBs: keys and records, in one walk over both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffeio.converters.report.model import Cell, Report, count
from caffeio.data.db.buffer import Buffer
from caffeio.proto.caffe_pb2 import Datum
from caffeio.shape_text import format_shape

SHOWN = 10


@dataclass
class LmdbDiff:
    """How two LMDBs differ; `examples` are the first keys of each kind."""

    labels: tuple[str, str]
    entries: tuple[int, int]
    bytes: tuple[int, int]
    only_left: int = 0
    only_right: int = 0
    changed: int = 0
    equal: int = 0
    labels_changed: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    same_in_order: bool | None = None  # other keys, the same records in the same order

    @property
    def same(self) -> bool:
        """Whether all keys and records are equal."""
        return not (self.only_left or self.only_right or self.changed)


Records = Iterator[tuple[Buffer, Buffer]]


def diff_lmdbs(left: Path, right: Path, labels: tuple[str, str]) -> LmdbDiff:
    """Compare two LMDB folders key by key. Raises DataError."""
    from caffeio.data.db.lmdb import LmdbDatabase

    with (
        closing(LmdbDatabase(str(left), may_be_empty=True)) as a,
        closing(LmdbDatabase(str(right), may_be_empty=True)) as b,
    ):
        assert a.size is not None and b.size is not None
        diff = LmdbDiff(labels, (a.size, b.size), (a.nbytes, b.nbytes))
        _walk(diff, a.records(), b.records())
        if a.size == b.size and diff.only_left:
            pairs = zip(a.records(), b.records(), strict=True)
            diff.same_in_order = all(x[1] == y[1] for x, y in pairs)
    return diff


def _walk(diff: LmdbDiff, left: Records, right: Records) -> None:
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        keys = (bytes(a[0]) if a else None, bytes(b[0]) if b else None)
        if keys[1] is None or (keys[0] is not None and keys[0] < keys[1]):
            assert keys[0] is not None
            diff.only_left += 1
            _example(diff, "only left", keys[0])
            a = next(left, None)
        elif keys[0] is None or keys[1] < keys[0]:
            diff.only_right += 1
            _example(diff, "only right", keys[1])
            b = next(right, None)
        else:
            assert a is not None and b is not None
            _record(diff, keys[0], bytes(a[1]), bytes(b[1]))
            a, b = next(left, None), next(right, None)


def _record(diff: LmdbDiff, key: bytes, left: bytes, right: bytes) -> None:
    if left == right:
        diff.equal += 1
        return
    diff.changed += 1
    words = _words(left, right)
    diff.labels_changed += "label" in words
    _example(diff, "changed", key, f": {words}" if words else "")


def _words(left: bytes, right: bytes) -> str:
    """What differs in two Datums; "" if they are none."""
    from google.protobuf.message import DecodeError

    try:
        a, b = Datum.FromString(left), Datum.FromString(right)
    except DecodeError:
        return ""
    out = []
    if a.label != b.label:
        out.append(f"label {a.label} -> {b.label}")
    shapes = [(d.channels, d.height, d.width) for d in (a, b)]
    if shapes[0] != shapes[1]:
        out.append(" -> ".join(format_shape(shape) for shape in shapes))
    if a.encoded != b.encoded:
        out.append("encoded" if b.encoded else "no longer encoded")
    if a.data != b.data or a.float_data != b.float_data:
        out.append("other pixels" if len(a.data) == len(b.data) else "other data")
    return ", ".join(out)


def _example(diff: LmdbDiff, kind: str, key: bytes, words: str = "") -> None:
    shown = diff.examples.setdefault(kind, [])
    if len(shown) < SHOWN:
        shown.append(key.decode("utf-8", "backslashreplace") + words)


def report(diff: LmdbDiff) -> Report:
    """The comparison as a report."""
    out = Report(f"{diff.labels[0]} -> {diff.labels[1]} (LMDB)", data=as_data(diff))
    if diff.same:
        out.add_paragraph(Cell(f"The same {count(diff.equal, 'record')}.", "good"))
        return out
    words = [
        f"{number:,} {what}"
        for number, what in (
            (diff.equal, "records equal"),
            (diff.changed, "changed"),
            (diff.only_left, "only left"),
            (diff.only_right, "only right"),
        )
        if number
    ]
    out.add_paragraph(", ".join(words) + ".")
    if diff.labels_changed:
        out.add_paragraph(
            f"{count(diff.labels_changed, 'record')} with another label.", tone="warn"
        )
    if diff.same_in_order:
        out.add_paragraph("The records are the same in the same order: only the keys differ.")
    table = out.section("Sizes").table("", *diff.labels)
    table.add("records", f"{diff.entries[0]:,}", f"{diff.entries[1]:,}")
    table.add("bytes", f"{diff.bytes[0]:,}", f"{diff.bytes[1]:,}")
    for kind, keys in diff.examples.items():
        section = out.section(kind.capitalize())
        for key in keys:
            section.add_paragraph(key)
        total = {"only left": diff.only_left, "only right": diff.only_right}.get(kind, diff.changed)
        if total > len(keys):
            section.add_paragraph(f"... and {total - len(keys):,} more", tone="dim")
    return out


def as_data(diff: LmdbDiff) -> dict[str, Any]:
    """The comparison as plain data."""
    return {"kind": "lmdb", "same": diff.same, **vars(diff)}
