"""Values as people type them on a command line, checked against the field that takes them."""

from __future__ import annotations

import re
from typing import Any

from caffeio.errors import CaffeIOError
from caffeio.proto.text.literals import SKIP, STRING, BadValueError
from caffeio.proto.text.reader import TextReader
from caffeio.proto.text.slips import best_match
from caffeio.proto.text.tables import UnknownNameError, table

_STRINGS = re.compile(rf"{STRING}(?:{SKIP}{STRING})*", re.ASCII)
_LIST_OF_STRINGS = re.compile(rf"\[{SKIP}(?:\]|{STRING}.*\])", re.ASCII | re.DOTALL)
_TYPE_STRING, _TYPE_BYTES = 9, 12


def find_field(descriptor: Any, name: str, path: str) -> Any:
    """The descriptor of a message's field; CaffeIOError with a suggestion if there is none."""
    field = descriptor.fields_by_name.get(name)
    if field is None:
        close = best_match(name, descriptor.fields_by_name.keys())
        hint = f"; did you mean {close}?" if close else ""
        raise CaffeIOError(f"{path}: {descriptor.name} has no field {name!r}{hint}")
    return field


def spell(field: Any, value: str, path: str) -> str:
    """The value as the text format spells it: strings get their quotes.

    Lists stand in brackets, messages in braces. Raises CaffeIOError if the field cannot take it.
    """
    if field.type in (_TYPE_STRING, _TYPE_BYTES) and not _quoted(field, value):
        value = quote(value)
    wire_form(field, value, path)
    return value


def quote(value: str) -> str:
    """A string in double quotes; letters of all scripts stay as they are."""
    out = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"{}"'.format(out.replace("\n", "\\n").replace("\r", "\\r"))


def wire_form(field: Any, spelled: str, path: str) -> bytes:
    """The field on the wire, from its spelled value; CaffeIOError if the field cannot take it."""
    owner = table(field.containing_type, None)
    if field.message_type is not None:
        if spelled[:1] not in ("{", "<", "["):
            raise CaffeIOError(f"{path}: {field.name} is a message: write {{ FIELD: VALUE ... }}")
        reader = TextReader(f"{field.name} {spelled}", owner, path)
        data = reader.read()
        if reader.unknown:
            index, inner = reader.unknown[0]
            name = inner.descriptor.name
            raise CaffeIOError(f"{path}: {name} does not know {reader.statements[index]!r}")
        return data
    try:
        learned = owner.learn(f"{field.name}: {spelled}")
    except BadValueError as error:
        raise CaffeIOError(f"{path}: {error}") from None
    except UnknownNameError as error:
        known = list(field.enum_type.values_by_name.keys())
        close = best_match(error.name, known)
        hint = f"; did you mean {close}?" if close else f"; known are {', '.join(known[:12])}"
        text = f"{path}: {field.enum_type.name} has no value {error.name}{hint}"
        raise CaffeIOError(text) from None
    if learned is None:
        raise CaffeIOError(f"{path}: {spelled!r} is not a value of {field.name}")
    return learned.entry[1]


def _quoted(field: Any, value: str) -> bool:
    """Whether the value has its quotes, or is a list of quoted strings."""
    if field.is_repeated and _LIST_OF_STRINGS.fullmatch(value):
        return True
    return _STRINGS.fullmatch(value) is not None
