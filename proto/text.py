"""Prototxt: text to messages, and where everything in it stands.

`parse` reads what protobuf's C++ TextFormat reads, as Caffe uses it, and refuses what that refuses,
but for fields and enum values that the schema does not have: they are reported and left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from caffeio.errors import ParseError
from caffeio.proto.document import Document, caret, line_and_column
from caffeio.proto.literals import SKIP, BadValue, varint
from caffeio.proto.printer import format_message as format_message
from caffeio.proto.tables import (
    STATEMENT,
    AnyTable,
    Entry,
    ListTable,
    Table,
    UnknownName,
    best_match,
    table,
)

_CLOSERS = {"{": "}", "<": ">", "[": "]"}
_BROKEN = re.compile(rf"([A-Za-z_]\w*+){SKIP}(:?){SKIP}", re.ASCII)
_WORD = re.compile(r"[\w.+-]+|.", re.ASCII | re.DOTALL)
M = TypeVar("M", bound=Message)
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class UnknownField:
    """A field, or the value of an enum field, that the schema does not know.

    `path` names the field from the root on (`layer[3].convolution_param.num_outputs`), `text` is
    what the file holds for it, `suggestion` the known name it may be a slip of.
    """

    name: str
    path: str
    line: int
    column: int
    suggestion: str | None
    text: str
    kind: str = "field"
    message_type: str = ""
    where: str = ""

    def __str__(self) -> str:
        what = f"unknown {'field' if self.kind == 'field' else 'value'} {self.name!r}"
        hint = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return f"{self.where}: {what} in {self.path}{hint}"


class _Frame(NamedTuple):
    """What is kept of an enclosing message while an inner one is read."""

    table: Table | None
    out: list[bytes]
    seen: int
    closer: str
    tag: bytes
    index: int


class ParsedText:
    """A parsed prototxt: the message, the tree of its text, and what the schema does not know."""

    def __init__(
        self, text: str, message: Any, path: str, unknown: list[tuple[int, Table]]
    ) -> None:
        self.text, self.message, self.path = text, message, path
        self._unknown = unknown

    @cached_property
    def document(self) -> Document:
        """The lossless tree over the text."""
        return Document(self.text, type(self.message), path=self.path)

    @cached_property
    def unknown(self) -> list[UnknownField]:
        """The fields and enum values that the schema does not know, in file order."""
        return [self._describe(index, owner) for index, owner in self._unknown]

    def where(self, *path: str | int) -> str:
        """The place, "file:line:column", of a field, of its element, or of what encloses it.

        The path alternates names and, for repeated fields, indices:
        `where("layer", 3, "convolution_param", "kernel_size")`. What the text does not hold is
        placed at the innermost message around it that the text does hold.
        """
        return self.document.where(*path)

    def _describe(self, index: int, owner: Table) -> UnknownField:
        node = self.document.statements[index]
        assert node is not None
        line, column = self.document.position(node.start)
        field = owner.descriptor.fields_by_name.get(node.name)
        if field is None:
            kind, name, known = "field", node.name, owner.descriptor.fields_by_name.keys()
        else:
            kind, name, known = "value", node.value, field.enum_type.values_by_name.keys()
        return UnknownField(
            name,
            node.path,
            line,
            column,
            best_match(name, known),
            node.text,
            kind,
            owner.descriptor.name,
            f"{self.path}:{line}:{column}",
        )


def parse(
    text: str, message_type: type[M], *, path: str = "<text>", dialect: str = "bvlc"
) -> ParsedText:
    """Read a prototxt into a `message_type` of the canonical schema.

    `dialect` says whose numbers enum values are that are given by number.
    Raises ParseError with file, line, column, the line and a caret under the place.
    """
    reader = _Reader(text, table(message_type.DESCRIPTOR, dialect), path)
    data = reader.read()
    try:
        message = message_type.FromString(data)
    except DecodeError as error:  # pragma: no cover - what the reader writes is well-formed
        raise ParseError(str(error), where=path) from None
    return ParsedText(text, message, path, reader.unknown)


_ANYTHING = AnyTable()


class _Reader:
    """One pass over the statements of a text, to the bytes of the message."""

    def __init__(self, text: str, root: Table, path: str) -> None:
        self.text, self.root, self.path = text, root, path
        self.begin = 1 if text.startswith("\ufeff") else 0
        self.statements = STATEMENT.findall(text, self.begin)
        while self.statements and not self.statements[-1]:
            self.statements.pop()
        self.unknown: list[tuple[int, Table]] = []

    def read(self) -> bytes:
        """The message's bytes; the whole text is checked."""
        current, seen, closer, tag, opened = self.root, 0, "", b"", 0
        out: list[bytes] = []
        stack: list[_Frame] = []
        known = current.memo.get
        for index, statement in enumerate(self.statements):
            entry = known(statement)
            if entry is None:
                if statement == closer:
                    data = b"".join(out) if tag else b""
                    done = tag
                    current, out, seen, closer, tag, opened = stack.pop()
                    known = current.memo.get
                    if done:
                        out.append(done + varint(len(data)) + data)
                    continue
                entry = self._learn(index, current, closer, opened)
                if entry is None:
                    continue
            bit, data, inner = entry
            if seen & bit:
                raise self._twice(index)
            seen |= bit
            if inner is None:
                out.append(data)
                continue
            if len(stack) >= MAX_DEPTH:
                raise self._error(index, f"messages are nested deeper than {MAX_DEPTH}")
            stack.append(_Frame(current, out, seen, closer, tag, opened))
            closer, tag, opened = _CLOSERS[statement[-1]], data, index
            if closer != "]":
                out = []
            current, seen = inner, 0
            known = current.memo.get
        if stack:
            raise self._unclosed(opened, closer)
        return b"".join(out)

    def _learn(self, index: int, current: Table, closer: str, opened: int) -> Entry | None:
        """The entry of a statement that is not known yet; None for a separator."""
        statement = self.statements[index]
        try:
            entry = current.learn(statement)
        except BadValue as error:
            raise self._error(index, str(error), error.at) from None
        except UnknownName as error:
            self.unknown.append((index, current))
            opens = error.kind == "field" and statement[-1] in _CLOSERS
            return 0, b"", _ANYTHING if opens else None
        if entry is not None:
            return entry
        before = self.statements[index - 1] if index else ""
        after_field = before[-1:] not in ("", "{", "<", "[", ",", ";")
        if statement in (",", ";") and after_field:
            following = self.statements[index + 1 : index + 2]
            if closer != "]" or (statement == "," and following in (["{"], ["<"])):
                return None
        if statement in ("{", "<") and closer == "]" and not after_field:
            assert isinstance(current, ListTable | AnyTable)
            return current.element
        raise self._diagnosis(index, closer, opened)

    def _diagnosis(self, index: int, closer: str, opened: int) -> ParseError:
        """What is wrong at a statement that is none."""
        statement = self.statements[index]
        offset = self._offset(index)
        if statement in ("}", ">", "]") and closer:
            name = self._name(opened)
            line = line_and_column(self.text, self._offset(opened))[0]
            return self._error(
                index, f'expected "{closer}" to close {name} of line {line}, found "{statement}"'
            )
        if statement in ("}", ">", "]"):
            return self._error(index, f'found "{statement}", but nothing is open here')
        parts = _BROKEN.match(self.text, offset)
        if parts is None:
            return self._error(index, f"expected a field name, found {_shown(self.text, offset)}")
        at = parts.end()
        found = _shown(self.text, at)
        if not parts[2]:
            message = f'expected ":" or "{{" after {parts[1]}, found {found}'
        elif self.text[at : at + 1] in ("'", '"'):
            message = "the string is not closed on its line"
        elif self.text[at : at + 1] == "[":
            message = "the list is not well-formed"
        else:
            message = f"expected the value of {parts[1]}, found {found}"
        return self._error(index, message, at - offset)

    def _twice(self, index: int) -> ParseError:
        return self._error(index, f"{self._name(index)} is given twice, but takes one value")

    def _unclosed(self, opened: int, closer: str) -> ParseError:
        line = line_and_column(self.text, self._offset(opened))[0]
        message = f'expected "{closer}" to close {self._name(opened)} of line {line}'
        return self._at(len(self.text), f"{message}, found the end of the file")

    def _name(self, index: int) -> str:
        match = _BROKEN.match(self.statements[index])
        return match[1] if match else "the list"

    def _offset(self, index: int) -> int:
        matches = STATEMENT.finditer(self.text, self.begin)
        return next(islice(matches, index, None)).start(1)

    def _error(self, index: int, message: str, at: int = 0) -> ParseError:
        return self._at(self._offset(index) + at, message)

    def _at(self, offset: int, message: str) -> ParseError:
        line, column = line_and_column(self.text, offset)
        where = f"{self.path}:{line}:{column}"
        return ParseError(f"{message}\n{caret(self.text, offset)}", where=where)


def _shown(text: str, at: int) -> str:
    """What stands at a place, to be named in a message."""
    found = _WORD.match(text, at)
    if found is None:
        return "the end of the file"
    word = found[0]
    return f'"{word}"' if word.isascii() and word.isprintable() else f"{word!r} (U+{ord(word):04X})"
