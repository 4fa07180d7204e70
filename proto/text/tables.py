"""How each message type is written in text: dispatch tables made from the descriptors on demand."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

from caffeio.proto.dialect import schema
from caffeio.proto.io.varint import varint
from caffeio.proto.text.literals import (
    ATOM,
    SCALARS,
    SKIP,
    STRING,
    BadValueError,
    atom,
    integer,
)

T = TypeVar("T")

_NAME = r"[A-Za-z_]\w*+"
_LIST = rf"\[(?:[^\[\]{{}}<>\"'\#]|{STRING}|\#[^\n]*+)*+\]"
_STRINGS = rf"{STRING}(?:{SKIP}{STRING})*"
VALUE = rf"(?:{ATOM}|{_STRINGS}|{_LIST})"
# One statement a match: a field with its value, the opening of a message or of a list of messages,
# or else a closing bracket, a separator, a word or character that does not belong there, and at the
# very end nothing.
STATEMENT = re.compile(
    rf"{SKIP}({_NAME}{SKIP}(?::{SKIP}(?:{VALUE}|[{{<\[])|[{{<\[])|{_NAME}|[^\s]|\Z)", re.ASCII
)
PARTS = re.compile(rf"({_NAME}){SKIP}(:?){SKIP}({VALUE}|[{{<\[])", re.ASCII)
_ITEM = re.compile(rf"{SKIP}(?:({ATOM}|{_STRINGS})|(,)|(\])|(.))", re.ASCII)

_MEMO_ENTRIES, _MEMO_LENGTH = 4096, 80

# what a statement comes to: the bit of a field that may be given once (0: more often),
# the bytes of the value or of the submessage's tag, the submessage's table
Entry = tuple[int, bytes, "MessageTable | None"]


class Learned(NamedTuple):
    """What a statement means, and whether it gives an enum value by its number."""

    entry: Entry
    by_number: bool = False


class UnknownNameError(Exception):
    """A field or an enum value that the schema does not have; `kind` says which."""

    def __init__(self, kind: str, name: str) -> None:
        """`kind` is field or value."""
        super().__init__(kind, name)
        self.kind, self.name = kind, name


class FieldEntry:
    """One field: its descriptor, bit (0 if repeated), tag and the encoder of one value."""

    __slots__ = ("bit", "descriptor", "encode", "tag")

    def __init__(self, descriptor: Any, bit: int, dialect: str | None) -> None:
        """`dialect` numbers the enums."""
        self.descriptor, self.bit = descriptor, bit
        if descriptor.message_type is not None:
            wire, self.encode = 2, None
        elif descriptor.enum_type is not None:
            wire, self.encode = 0, _enum_encoder(descriptor.enum_type, dialect)
        else:
            wire, self.encode = SCALARS[descriptor.type]
        self.tag = varint(descriptor.number << 3 | wire)


class MessageTable:
    """What the statements inside one message type mean, in one dialect or in none.

    `memo` holds what is known already; `required` has the bits of the fields that must be there.
    """

    def __init__(self, descriptor: Any, dialect: str | None) -> None:
        """Make the table of a message descriptor; None stands for a table without fields."""
        self.descriptor, self.dialect = descriptor, dialect
        self.fields: dict[str, FieldEntry] = {}
        self.memo: dict[str, Entry] = {}
        self.required = 0
        if descriptor is not None:
            self._settle()

    def _settle(self) -> None:
        """Give every field its entry and bit: nothing but `memo` changes later, in any thread."""
        labels: dict[str, str] = {}
        if self.dialect is not None:
            name = self.descriptor.full_name.partition(".")[2]
            theirs = schema.load(self.dialect).messages.get(name, {})
            labels = {key: field.label for key, field in theirs.items()}
        bit = 1
        for descriptor in self.descriptor.fields:
            label = labels.get(descriptor.name, "repeated")
            if descriptor.is_repeated and label == "repeated":
                self.fields[descriptor.name] = FieldEntry(descriptor, 0, self.dialect)
                continue
            self.fields[descriptor.name] = FieldEntry(descriptor, bit, self.dialect)
            if label == "required":
                self.required |= bit
            bit <<= 1

    def field(self, name: str) -> FieldEntry:
        """The entry of field `name`; UnknownNameError if there is none."""
        known = self.fields.get(name)
        if known is None:
            raise UnknownNameError("field", name)
        return known

    def names_of(self, bits: int) -> list[str]:
        """The names of the fields with these bits."""
        return [name for name, field in self.fields.items() if field.bit & bits]

    def learn(self, statement: str) -> Learned | None:
        """What a statement not seen before means, or None if it is none (a lone character).

        Raises UnknownNameError or BadValueError, whose `at` counts from the statement's begin.
        """
        parts = PARTS.fullmatch(statement)
        if parts is None:
            return None
        name, colon, value = parts.groups()
        field = self.field(name)
        try:
            entry = self._entry(field, bool(colon), value)
        except BadValueError as error:
            error.at += parts.start(3)
            raise
        by_number = field.descriptor.enum_type is not None and value[0] in "-0123456789["
        if len(statement) <= _MEMO_LENGTH and not by_number:
            if len(self.memo) >= _MEMO_ENTRIES:
                self.memo.clear()
            self.memo[statement] = entry
        return Learned(entry, by_number)

    def _entry(self, field: FieldEntry, colon: bool, value: str) -> Entry:
        repeated = field.bit == 0
        if field.encode is None:
            if value not in ("{", "<", "[") and not (repeated and _empty(value)):
                raise BadValueError(f'expected "{{" after {field.descriptor.name}, found {value}')
            if value[0] == "[" and not repeated:
                raise BadValueError(f"{field.descriptor.name} is one message, not a list")
            inner = table(field.descriptor.message_type, self.dialect)
            if value == "[":
                return 0, b"", ListTable(inner, field.tag)
            return (field.bit, field.tag, inner) if value in ("{", "<") else (0, b"", None)
        if value in ("{", "<") or not colon:
            raise BadValueError(
                f"{field.descriptor.name} is a single value: expected : and the value"
            )
        if value[0] != "[":
            return field.bit, field.tag + field.encode(value), None
        if not repeated:
            raise BadValueError(f"{field.descriptor.name} takes one value, not a list")
        data = [field.tag + _at(field.encode, *item) for item in list_items(value)]
        return 0, b"".join(data), None


class ListTable(MessageTable):
    """The inside of `field: [{...}, {...}]`: only messages stand there, without a name."""

    def __init__(self, element: MessageTable, tag: bytes) -> None:
        """`tag` goes before each `element`."""
        super().__init__(None, element.dialect)
        self.element: Entry = (0, tag, element)

    def learn(self, statement: str) -> Learned | None:
        """Nothing with a name belongs here."""
        return None


class AnyTable(MessageTable):
    """The inside of a field that the schema does not know: anything well-formed goes."""

    def __init__(self) -> None:
        """Make the table of a message without a schema."""
        super().__init__(None, None)
        self.element: Entry = (0, b"", self)

    def learn(self, statement: str) -> Learned | None:
        """A value of nothing, or the opening of a message of the same kind."""
        parts = PARTS.fullmatch(statement)
        if parts is None or (not parts[2] and parts[3] not in ("{", "<", "[")):
            return None
        if parts[3][0] == "[" and len(parts[3]) > 1:
            _at(list_items, parts[3], parts.start(3))
        return Learned((0, b"", self if parts[3] in ("{", "<", "[") else None))


@cache
def table(descriptor: Any, dialect: str | None) -> MessageTable:
    """The table of a message descriptor; with a dialect its labels and enum numbers hold."""
    return MessageTable(descriptor, dialect)


def _empty(value: str) -> bool:
    return value[0] == "[" and not list(list_items(value))


def _at(read: Callable[[str], T], value: str, at: int) -> T:
    """Read a value that stands `at` characters behind the statement's begin."""
    try:
        return read(value)
    except BadValueError as error:
        error.at += at
        raise


def list_items(text: str) -> list[tuple[str, int]]:
    """The items of a list in brackets, each with its place; commas between them are a must."""
    out: list[tuple[str, int]] = []
    at, wanted = 1, "value or ]"
    while match := _ITEM.match(text, at):
        value, comma, end, _ = match.groups()
        at = match.end()
        if value and "value" in wanted:
            out.append((value, match.start(1)))
            wanted = ", or ]"
        elif comma and wanted == ", or ]":
            wanted = "value"
        elif end and "]" in wanted:
            return out
        else:
            break
    raise BadValueError(f"expected {wanted} in the list", max(at - 1, 0))


def _enum_encoder(descriptor: Any, dialect: str | None) -> Any:
    def encode(text: str) -> bytes:
        text = atom(text)
        if text[0] in "\"'":
            raise BadValueError(
                f"expected the name of a {descriptor.name}, found the string {text}"
            )
        if text[0] in "-0123456789":
            number = integer(text, -(1 << 31), (1 << 31) - 1)
            name = enum_name(descriptor, number, dialect)
        else:
            name = text
        value = descriptor.values_by_name.get(name)
        if value is None:
            raise UnknownNameError("value", text)
        return varint(value.number)

    return encode


def enum_name(descriptor: Any, number: int, dialect: str | None) -> str | None:
    """The name that `dialect` gives to `number` of an enum of the canonical schema."""
    if dialect in (None, "bvlc"):
        value = descriptor.values_by_number.get(number) if number < schema.OWN else None
        return value.name if value else None
    full = descriptor.full_name.partition(".")[2]
    values = schema.load(dialect).enums.get(full, {})
    return next((name for name, its in values.items() if its == number), None)
