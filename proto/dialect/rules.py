"""Each dialect's rules for the fields of a message, equal ones of several dialects shared."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from caffeio.proto.dialect import schema
from caffeio.proto.dialect.schema import Field, Schema


class Rule(NamedTuple):
    """What a dialect knows of a field number of a message."""

    message: str
    entry: Field
    values: dict[int, str] | None  # of an enum
    inner: int  # the rules of the message type, see `rules_of`; -1 if there is none
    special: bool  # bvlc has another field, or none, at this number
    range: tuple[float, float] | None  # of the values that occur


_RULES: list[dict[int, Rule]] = []
_KNOWN: dict[object, int] = {}
_OPEN: set[tuple[str, str]] = set()
_BLOBS: set[int] = set()  # the indices of BlobProto's rules


@cache
def rules_of(dialect: str, message: str) -> int:
    """The index in `_RULES` of a message's rules; equal rules of several dialects are shared."""
    own = schema.load(dialect)
    if (dialect, message) in _OPEN:  # a message within itself is not entered again
        return -1
    _OPEN.add((dialect, message))
    rules = {
        entry.number: Rule(
            message,
            entry,
            _numbers_of(own, entry.enum) if entry.enum else None,
            rules_of(dialect, entry.message) if entry.message else -1,
            _is_special(message, entry),
            own.ranges.get(f"{message}.{entry.name}"),
        )
        for entry in own.messages.get(message, {}).values()
    }
    _OPEN.discard((dialect, message))
    key = (
        message,
        tuple(
            (number, *rule[:2], tuple((rule.values or {}).items()), rule.inner, rule.range)
            for number, rule in rules.items()
        ),
    )
    if key not in _KNOWN:
        _KNOWN[key] = len(_RULES)
        _RULES.append(rules)
        if message == "BlobProto":
            _BLOBS.add(_KNOWN[key])
    return _KNOWN[key]


def _numbers_of(own: Schema, enum: str) -> dict[int, str]:
    return {number: name for name, number in own.enums.get(enum, {}).items()}


def _is_special(message: str, entry: Field) -> bool:
    plain = schema.load("bvlc").messages.get(message, {}).get(entry.name)
    return plain is None or plain.number != entry.number


def rule_table(rules: int) -> dict[int, Rule]:
    """The rules by field number."""
    return _RULES[rules]


def is_blob(rules: int) -> bool:
    """Whether these are the rules of BlobProto."""
    return rules in _BLOBS
