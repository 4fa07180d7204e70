"""From one dialect's bytes to another's, by the names of the fields.

A message is walked once. Each field's number is looked up in the table of the dialect that it is
in, and its value written under the number that the same name has in the other dialect: enum values
by their names too, numbers widened or narrowed. What one side does not know is kept apart
(`Unknown`, `Lost`), nothing is dropped in silence. Fields come out in the order of their numbers
and unknown ones behind them, which is the order of protobuf's C++ serializer.

The numbers of blobs are not touched: they can be left out, their places noted (`Payload`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from caffeio.proto.dialect.plan import (
    CANONICAL,
    PlanStep,
    accepts,
    encode_value,
    plan,
    read_values,
    wire_type,
)
from caffeio.proto.dialect.schema import Field
from caffeio.proto.io.stream import Numbers, Part, field_parts
from caffeio.proto.io.varint import varint
from caffeio.proto.io.wire import (
    BYTES,
    FIXED32,
    Buffer,
    Value,
    bytes_field,
    bytes_header,
    check_depth,
    fail,
    read_field,
    tag,
)

Path = tuple[str | int, ...]
PAYLOAD = frozenset(
    (
        "data",
        "diff",
        "double_data",
        "double_diff",
        "raw_data",
        "raw_diff",
        "packed_data",
        "packed_diff",
    )
)
MAX_FIELDS = 1_000_000  # a net of a thousand layers has some 50,000


class Unknown(NamedTuple):
    """A field that the dialect does not know: the message that holds it, and its bytes.

    `path` leads to that message: names, each followed by an index where the field is repeated.
    """

    path: Path
    message: str
    number: int
    wire: bytes


class Lost(NamedTuple):
    """What the other dialect cannot express: where, the value in canonical text, and why."""

    path: Path
    value: str
    why: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{path_text(self.path)}: {self.value} ({self.why})"


class Payload(NamedTuple):
    """The numbers of a blob as they lie in the file: whole fields, tags included."""

    name: str
    number: int
    start: int
    stop: int


Insert = tuple[int, Sequence[Part]]  # a field's number, and the whole field


def path_text(path: Path) -> str:
    """The path as people write it: layer[3].pooling_param.kernel_size."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


@dataclass
class Transcoder:
    """One file on its way from a dialect to another; what did not fit stands in its lists."""

    buf: Buffer
    source: str
    target: str
    cut: bool = False  # leave the numbers of blobs out and note them in `payload`
    put: Mapping[Path, Sequence[Insert]] = field(default_factory=dict)  # fields of ours to insert
    unknown: list[Unknown] = field(default_factory=list)
    lost: list[tuple[Path, str]] = field(default_factory=list)
    payload: dict[Path, list[Payload]] = field(default_factory=dict)
    blobs: dict[Path, tuple[int, int]] = field(default_factory=dict)  # where whole blobs lie
    budget: int = MAX_FIELDS

    def message(
        self, start: int, end: int, name: str, out: str, path: Path = (), depth: int = 1
    ) -> list[Part]:
        """The message in buf[start:end], of type `name`, as `out` of the target dialect."""
        check_depth(depth, start)
        if self.cut and name == "BlobProto":
            self.blobs[path] = (start, end)
        steps = plan(self.source, self.target, name, out)
        fields = _Fields(self, name, path, depth)
        pos = start
        while pos < end:
            number, kind, value, stop = read_field(self.buf, pos, end)
            self._count(pos)
            step = steps.get(number)
            if step is None or not accepts(step.source, kind):
                fields.keep(number, pos, stop)
            elif self.cut and name == "BlobProto" and step.source.name in PAYLOAD:
                stop = self._note(step.source, kind, pos, stop, end, path)
            elif step.target is None:
                self.lost.append((fields.place(step), f"{self.target} has no such field"))
            else:
                fields.add(step, step.target, kind, value, pos, stop)
            pos = stop
        return fields.parts(self.put.get(path, ()))

    def _count(self, offset: int) -> None:
        self.budget -= 1
        if self.budget < 0:
            fail(f"more than {MAX_FIELDS} fields: this is no net", offset)

    def _note(self, entry: Field, kind: int, pos: int, stop: int, end: int, path: Path) -> int:
        """Note where numbers of a blob lie, a run of unpacked ones at once; the place behind."""
        if kind != BYTES:
            width = 4 if kind == FIXED32 else 8
            lead = re.escape(bytes(self.buf[pos : stop - width]))
            run = re.compile(b"(?:%b.{%d})*+" % (lead, width), re.DOTALL)
            match = run.match(self.buf, pos, end)
            if match:  # whole numbers only: Python 3.11.2 ends within one that is cut off
                stop = max(stop, match.end() - (match.end() - pos) % (stop - pos))
        places = self.payload.setdefault(path, [])
        if places and places[-1].stop == pos and places[-1].number == entry.number:
            pos = places.pop().start
        places.append(Payload(entry.name, entry.number, pos, stop))
        return stop


class _Fields:
    """The fields of one message on their way."""

    def __init__(self, run: Transcoder, name: str, path: Path, depth: int) -> None:
        self.run, self.name, self.path, self.depth = run, name, path, depth
        self.counts: dict[str, int] = {}
        self.found: dict[int, list[Sequence[Part]]] = {}
        self.packed: dict[int, list[bytes]] = {}

    def place(self, step: PlanStep) -> Path:
        """The path of one more occurrence of a field."""
        name = step.source.name
        index = self.counts[name] = self.counts.get(name, -1) + 1
        return (*self.path, name, index) if step.indexed else (*self.path, name)

    def keep(self, number: int, start: int, stop: int) -> None:
        """Keep an unknown field."""
        wire = bytes(self.run.buf[start:stop])
        self.run.unknown.append(Unknown(self.path, self.name, number, wire))

    def add(
        self, step: PlanStep, goal: Field, kind: int, value: Value, start: int, stop: int
    ) -> None:
        """Add a field that both sides know."""
        entry, run, place = step.source, self.run, self.place(step)
        if wire_type(entry) == BYTES:
            assert isinstance(value, tuple)
            if entry.message is not None:
                parts = run.message(
                    *value, entry.message, goal.message or "", place, self.depth + 1
                )
                self._append(goal, field_parts(goal.number, parts), place)
            else:
                data = memoryview(run.buf)[slice(*value)]
                if entry.type == "string":
                    data = _text(data, run.target == CANONICAL)
                self._append(goal, [bytes_header(goal.number, len(data)), data], place)
            return
        pieces, refused = _numbers(run.buf, step, goal, kind, value)
        if refused:
            known = step.names is None or any(number in step.names for number in refused)
            if known and run.target != CANONICAL:
                run.lost.append((place, f"{goal.type.rpartition(':')[2]} of {run.target} lacks it"))
            else:
                self.keep(entry.number, start, stop)
                return
        if goal.packed:
            self.packed.setdefault(goal.number, []).extend(pieces)
            return
        head = tag(goal.number, wire_type(goal))
        for piece in pieces:
            self._append(goal, [head + piece], place)

    def _append(self, goal: Field, new: Sequence[Part], place: Path) -> None:
        group = self.found.setdefault(goal.number, [])
        if group and goal.label != "repeated" and isinstance(place[-1], int):
            if _joined(new) != _joined(group[0]):
                self.run.lost.append((place, f"{self.run.target} has room for one value"))
        else:  # of a singular field that occurs again, readers take the last value
            group.append(new)

    def parts(self, inserts: Sequence[Insert]) -> list[Part]:
        """All fields by their numbers, those to insert among them or (number 0) behind."""
        for number, pieces in self.packed.items():
            self.found[number] = [[bytes_field(number, b"".join(pieces))]]
        tail = [parts for number, parts in inserts if not number]
        for number, parts in inserts:
            if number:
                self.found.setdefault(number, []).append(parts)
        fields = (group for number in sorted(self.found) for group in self.found[number])
        return [part for group in (*fields, *tail) for part in group]


_ESCAPE = 0x10FF00  # private use: these characters stand for the bytes 0x80 to 0xFF
_ESCAPED = re.compile("[\U0010ff80-\U0010ffff]")
_FOREIGN = re.compile("[\udc80-\udcff\U0010ff80-\U0010ffff]")


def _text(data: memoryview, canonical: bool) -> memoryview:
    """A text's bytes. Caffe's texts are of any encoding, canonical ones are UTF-8.

    Bytes that are not UTF-8 become characters of a private range, and bytes again on the way back.
    """
    raw = bytes(data)
    if raw.isascii():
        return data
    text = raw.decode("utf-8", "surrogateescape")
    text = _FOREIGN.sub(_escape, text) if canonical else _ESCAPED.sub(_unescape, text)
    return memoryview(text.encode("utf-8", "surrogateescape"))


def _escape(match: re.Match[str]) -> str:
    return "".join(chr(_ESCAPE + byte) for byte in match[0].encode("utf-8", "surrogateescape"))


def _unescape(match: re.Match[str]) -> str:
    return chr(0xDC00 + ord(match[0]) - _ESCAPE)


def _joined(parts: Iterable[Part]) -> bytes:
    return b"".join(bytes(part) for part in parts if not isinstance(part, Numbers))


def _numbers(
    buf: Buffer, step: PlanStep, goal: Field, kind: int, value: Value
) -> tuple[list[bytes], list[int | float]]:
    """The bytes of a number or of packed numbers as the target has them, and what it refuses.

    Packed numbers that stay as they are, and are packed in the target, are one piece.
    """
    if step.plain and kind == BYTES and goal.packed and isinstance(value, tuple):
        return [bytes(buf[slice(*value)])], []
    pieces, refused = [], []
    for number in read_values(buf, step.source, kind, value):
        if step.enum is not None:
            known = step.enum.get(int(number))
            piece = None if known is None else varint(known)
        else:
            piece = encode_value(number, goal.type)
        if piece is None:
            refused.append(number)
        else:
            pieces.append(piece)
    return pieces, refused


__all__ = [
    "CANONICAL",
    "Insert",
    "Lost",
    "Path",
    "Payload",
    "Transcoder",
    "Unknown",
    "path_text",
]
