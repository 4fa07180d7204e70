"""Says so when a binary net is read whose Caffe numbers its fields otherwise than `caffe_pb2`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.message import Message

from caffeio.errors import CaffeIOError
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.dialect import decode, detect
from caffeio.proto.dialect.union import union

_MAX_NAMES = 5


@cache
def _renumbered(dialect: str, first: str) -> frozenset[str]:
    """The fields, Message.field, and enum values, Enum.VALUE, that have another number there."""
    theirs, ours = schema.load(dialect), union(first)
    fields = {
        f"{message}.{name}"
        for message, entries in theirs.messages.items()
        for name, entry in entries.items()
        if ours.messages[message][name].number != entry.number
    }
    values = {
        f"{enum}.{name}"
        for enum, numbers in theirs.enums.items()
        for name, number in numbers.items()
        if ours.enums[enum][name] != number
    }
    return frozenset(fields | values)


def _names_used(message: Message) -> Iterator[str]:
    """Message.field, and Enum.VALUE, of all that is set in a canonical message."""
    owner = message.DESCRIPTOR.full_name.partition(".")[2]
    for field, value in message.ListFields():
        yield f"{owner}.{field.name}"
        values = value if field.is_repeated else [value]
        if field.message_type is not None:
            for inner in values:
                yield from _names_used(inner)
        elif field.enum_type is not None:
            enum = field.enum_type
            kind = enum.full_name.partition(".")[2]
            yield from (f"{kind}.{enum.values_by_number[n].name}" for n in values)


def foreign_names(data: bytes, first: str) -> tuple[str, list[str]]:
    """The dialect of a binary net, and the names in it that have another number in `caffe_pb2`."""
    try:
        found = detect(data, kind="net").dialect
        if found == first or not (other := _renumbered(found, first)):
            return found, []
        message = decode(data, "NetParameter", found).message
    except CaffeIOError:
        return first, []
    return found, [name for name in dict.fromkeys(_names_used(message)) if name in other]


def watch(kind: Any, first: str) -> None:
    """Let the class NetParameter warn when it reads bytes that another Caffe numbered."""

    def look(data: bytes) -> None:
        dialect, names = foreign_names(bytes(data), first)
        if names:
            more = ", ..." if len(names) > _MAX_NAMES else ""
            warnings.warn(
                f"this net is {dialect}'s, whose numbers for {', '.join(names[:_MAX_NAMES])}{more} "
                f"mean other fields here: set CAFFEIO_DIALECT={dialect} before you import caffe",
                stacklevel=3,
            )

    parse, merge = kind.ParseFromString, kind.MergeFromString

    def parse_from_string(self: Any, serialized: bytes) -> int:
        look(serialized)
        return int(parse(self, serialized))

    def merge_from_string(self: Any, serialized: bytes) -> int:
        look(serialized)
        return int(merge(self, serialized))

    def from_string(serialized: bytes) -> Any:
        look(serialized)
        message = kind()
        merge(message, serialized)
        return message

    kind.ParseFromString, kind.MergeFromString = parse_from_string, merge_from_string
    kind.FromString = staticmethod(from_string)
