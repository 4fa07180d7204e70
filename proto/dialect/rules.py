"""Each dialect's rules for the fields of a message, equal ones of several dialects shared."""

from __future__ import annotations

import threading
from typing import NamedTuple

from caffeio.proto.dialect import schema
from caffeio.proto.dialect.schema import Field, Schema


class FieldRule(NamedTuple):
    """What a dialect knows of a field number of a message."""

    message: str
    entry: Field
    values: dict[int, str] | None  # of an enum
    inner: int  # the rules of the message type, see `rules_of`; -1 if there is none
    special: bool  # bvlc has another field, or none, at this number
    range: tuple[float, float] | None  # of the values that occur


_RULES: list[dict[int, FieldRule]] = []
_KNOWN: dict[object, int] = {}
_BLOBS: set[int] = set()  # the indices of BlobProto's rules
_RULES_BY_DIALECT: dict[str, dict[str, int]] = {}  # filled for a whole dialect at once
_LOCK = threading.Lock()


def rules_of(dialect: str, message: str) -> int:
    """The index in `_RULES` of a message's rules; equal rules of several dialects are shared.

    All rules of a dialect are made when the first are asked for, in one order, by one thread:
    nobody sees half of them.
    """
    found = _RULES_BY_DIALECT.get(dialect)
    if found is None:
        with _LOCK:
            found = _RULES_BY_DIALECT.get(dialect)
            if found is None:
                found = _RULES_BY_DIALECT[dialect] = _Maker(schema.load(dialect)).run()
    return found[message] if message in found else _no_rules(dialect, message)


def _no_rules(dialect: str, message: str) -> int:
    """Of a message that the dialect does not have: nothing in it is known."""
    with _LOCK:
        return _RULES_BY_DIALECT[dialect].setdefault(message, _index(message, {}))


class _Maker:
    """Makes the rules of one dialect, message by message."""

    def __init__(self, own: Schema) -> None:
        self.own = own
        self.done: dict[str, int] = {}

    def run(self) -> dict[str, int]:
        """The index of every message's rules: those within a net first."""
        for message in ("NetParameter", *self.own.messages):
            self._message(message, frozenset())
        return self.done

    def _message(self, message: str, outer: frozenset[str]) -> int:
        """The index of the rules; -1 within the message itself, which is not entered again."""
        if message in outer:
            return -1
        if message not in self.done:
            inside = outer | {message}
            rules = {
                entry.number: FieldRule(
                    message,
                    entry,
                    _numbers_of(self.own, entry.enum) if entry.enum else None,
                    self._message(entry.message, inside) if entry.message else -1,
                    _is_special(message, entry),
                    self.own.ranges.get(f"{message}.{entry.name}"),
                )
                for entry in self.own.messages.get(message, {}).values()
            }
            self.done[message] = _index(message, rules)
        return self.done[message]


def _index(message: str, rules: dict[int, FieldRule]) -> int:
    """Where these rules stand in `_RULES`, put there if none is equal."""
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


def rule_table(rules: int) -> dict[int, FieldRule]:
    """The rules by field number."""
    return _RULES[rules]


def is_blob(rules: int) -> bool:
    """Whether these are the rules of BlobProto."""
    return rules in _BLOBS
