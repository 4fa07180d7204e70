"""One pass over a prototxt, from its statements to the bytes of the message."""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from caffeio.errors import ParseError
from caffeio.proto.io.varint import varint
from caffeio.proto.text.literals import SKIP, BadValueError
from caffeio.proto.text.places import caret, line_and_column
from caffeio.proto.text.tables import (
    STATEMENT,
    AnyTable,
    Entry,
    ListTable,
    MessageTable,
    UnknownNameError,
)

MAX_DEPTH = 100
_LONGEST = 300  # characters of an error's message

_CLOSERS = {"{": "}", "<": ">", "[": "]"}
_BROKEN = re.compile(rf"([A-Za-z_]\w*+){SKIP}(:?){SKIP}", re.ASCII)
_WORD = re.compile(r"[\w.+-]+|.", re.ASCII | re.DOTALL)


class _Frame(NamedTuple):
    """What is kept of an enclosing message while an inner one is read."""

    table: MessageTable
    out: list[bytes]
    seen: int
    closer: str
    tag: bytes
    opened: int


_ANYTHING = AnyTable()


class TextReader:
    """One pass over the statements of a text, to the bytes of the message.

    `unknown` lists the statements, by index, that the schema does not know, each with the table
    that was asked; `enum_numbers` says whether an enum value was given by its number.
    """

    def __init__(self, text: str, root: MessageTable, path: str) -> None:
        """`root` is the table of the message that the text holds; `path` is named in errors."""
        self.text, self.root, self.path = text, root, path
        self.begin = 1 if text.startswith("\ufeff") else 0
        self.statements: list[str] = STATEMENT.findall(text, self.begin)
        while self.statements and not self.statements[-1]:
            self.statements.pop()
        self.unknown: list[tuple[int, MessageTable]] = []
        self.enum_numbers = False

    def read(self) -> bytes:
        """The message's bytes; ParseError where the text is wrong."""
        current, seen, closer, tag, opened = self.root, 0, "", b"", 0
        out: list[bytes] = []
        stack: list[_Frame] = []
        known = current.memo.get
        for index, statement in enumerate(self.statements):
            entry = known(statement)
            if entry is None:
                if statement == closer:
                    if current.required & ~seen:
                        raise self._missing(index, current, seen)
                    data = tag and b"".join((tag, varint(sum(map(len, out))), *out))
                    current, out, seen, closer, tag, opened = stack.pop()
                    known = current.memo.get
                    if data:
                        out.append(data)
                    continue
                entry = self._learn(index, current, closer, opened)
                if entry is None:
                    continue
            bit, data, inner = entry
            if seen & bit:
                raise self._error(index, f"{self._name(index)} is given twice, but is one value")
            seen |= bit
            if inner is None:
                out.append(data)
                continue
            if len(stack) == MAX_DEPTH:
                raise self._error(index, f"messages are nested deeper than {MAX_DEPTH}")
            stack.append(_Frame(current, out, seen, closer, tag, opened))
            closer, tag, opened = _CLOSERS[statement[-1]], data, index
            if closer != "]":  # the messages of a list are elements of the outer message
                out = []
            current, seen = inner, 0
            known = current.memo.get
        if stack:
            raise self._unclosed(opened, closer)
        if current.required & ~seen:
            raise self._missing(len(self.statements), current, seen)
        return b"".join(out)

    def _learn(self, index: int, current: MessageTable, closer: str, opened: int) -> Entry | None:
        """The entry of a statement that is not known yet; None for a separator."""
        statement = self.statements[index]
        try:
            try:
                learned = current.learn(statement)
            except UnknownNameError:
                self.unknown.append((index, current))
                learned = _ANYTHING.learn(statement)
        except BadValueError as error:
            raise self._error(index, str(error), error.at) from None
        if learned is not None:
            self.enum_numbers |= learned.by_number
            return learned.entry
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

    def _missing(self, index: int, current: MessageTable, seen: int) -> ParseError:
        names = ", ".join(current.names_of(current.required & ~seen))
        owner = current.descriptor.name
        return self._error(index, f"{owner} must have {names} in the dialect {current.dialect}")

    def _unclosed(self, opened: int, closer: str) -> ParseError:
        line = line_and_column(self.text, self._offset(opened))[0]
        message = f'expected "{closer}" to close {self._name(opened)} of line {line}'
        return self._at(len(self.text), f"{message}, found the end of the file")

    def _name(self, index: int) -> str:
        match = _BROKEN.match(self.statements[index])
        return match[1] if match else "the list"

    def _offset(self, index: int) -> int:
        matches = STATEMENT.finditer(self.text, self.begin)
        match = next(islice(matches, index, None), None)
        return match.start(1) if match else len(self.text)

    def _error(self, index: int, message: str, at: int = 0) -> ParseError:
        return self._at(self._offset(index) + at, message)

    def _at(self, offset: int, message: str) -> ParseError:
        line, column = line_and_column(self.text, offset)
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 3 :]}"
        where = f"{self.path}:{line}:{column}"
        return ParseError(f"{message}\n{caret(self.text, offset)}", where=where)


def _shown(text: str, at: int) -> str:
    """What stands at a place, to be named in a message."""
    found = _WORD.match(text, at)
    if found is None:
        return "the end of the file"
    word = found[0]
    if word == '"':
        return "a quotation mark"
    return f'"{word}"' if word.isascii() and word.isprintable() else f"{word!r} (U+{ord(word):04X})"
