"""What becomes of each field of a message between two dialects, and of the numbers in it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from caffeio.proto.dialect import schema
from caffeio.proto.dialect.schema import Field
from caffeio.proto.dialect.union import is_own, union
from caffeio.proto.io.varint import varint
from caffeio.proto.io.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Buffer,
    Value,
    fail,
    packed_varints,
    signed,
)

CANONICAL = "canonical"

_FIXED = {"float": (FIXED32, "<f"), "double": (FIXED64, "<d")}
_INTEGERS = {
    "bool": (0, 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}


def schema_of(name: str) -> schema.Schema:
    """The schema of a dialect, or the canonical one."""
    return schema.canonical() if name == CANONICAL else schema.load(name)


def wire_type(entry: Field) -> int:
    """The wire type of one value of the field."""
    if entry.type in _FIXED:
        return _FIXED[entry.type][0]
    return VARINT if entry.type in _INTEGERS or entry.enum else BYTES


def accepts(entry: Field, kind: int) -> bool:
    """Whether protobuf reads a field of this wire type as `entry` (packed or not)."""
    own = wire_type(entry)
    return kind == own or (kind == BYTES and own != BYTES and entry.label == "repeated")


@dataclass(frozen=True, slots=True)
class PlanStep:
    """What becomes of one field."""

    source: Field
    target: Field | None
    indexed: bool  # the canonical field is repeated
    enum: Mapping[int, int] | None = None  # number there -> number here
    names: Mapping[int, str] | None = None  # the source's enum
    plain: bool = False  # the value's bytes stay as they are


@cache
def plan(source: str, target: str, message: str, out: str) -> dict[int, PlanStep]:
    """By number, what becomes of the fields of `message` of one dialect in `out` of the other.

    Files that pycaffe's messages wrote may have numbers of `union` beside those of their dialect.
    """
    here, there = schema_of(source), schema_of(target)
    wanted, canonical = there.messages.get(out, {}), schema.canonical().messages
    steps = {}
    for entry in _fields(here, message, target):
        goal = wanted.get(entry.name)
        shared = canonical.get(message, canonical.get(out, {})).get(entry.name)
        indexed = (shared or entry).label == "repeated"
        steps[entry.number] = _step(entry, goal, indexed, here, there)
    return steps


def _fields(here: schema.Schema, message: str, target: str) -> list[Field]:
    """The fields of a message, and those that only have a number in `union`."""
    known = here.messages.get(message)
    if target != CANONICAL or here is schema_of(CANONICAL):
        return list((known or {}).values())
    extra = union().messages.get(message, {}).values()
    if known is None:
        return list(extra)
    return [*known.values(), *(field for field in extra if is_own(field.number))]


def _enum_names(here: schema.Schema, enum: str, there: schema.Schema) -> dict[int, str]:
    """The names of an enum's numbers; those that `union` gave are known in every dialect."""
    own = here.enums.get(enum)
    names = {number: name for name, number in (own or {}).items()}
    if there is schema_of(CANONICAL) and here is not there:
        extra = union().enums.get(enum, {})
        names |= {n: name for name, n in extra.items() if own is None or is_own(n)}
    return names


def _step(
    entry: Field, goal: Field | None, indexed: bool, here: schema.Schema, there: schema.Schema
) -> PlanStep:
    if entry.enum:
        names = _enum_names(here, entry.enum, there)
        numbers = there.enums.get(goal.enum, {}) if goal and goal.enum else {}
        table = {n: numbers[name] for n, name in names.items() if name in numbers}
        return PlanStep(entry, goal, indexed, table, names)
    if goal is None:
        return PlanStep(entry, None, indexed)
    if wire_type(entry) == BYTES or goal.type == entry.type:
        return PlanStep(entry, goal, indexed, plain=True)
    return PlanStep(entry, goal, indexed, plain=_fits(entry.type, goal.type))


def _fits(narrow: str, wide: str) -> bool:
    """Whether every value of one integer type has the same bytes in the other."""
    if narrow not in _INTEGERS or wide not in _INTEGERS:
        return False
    low, high = _INTEGERS[wide]
    return low <= _INTEGERS[narrow][0] and _INTEGERS[narrow][1] <= high


def read_values(buf: Buffer, entry: Field, kind: int, value: Value) -> list[int] | list[float]:
    """The number, or the packed numbers, of a field."""
    if entry.type in _FIXED:
        assert isinstance(value, tuple)
        first, last = value
        size, form = (4, "f") if entry.type == "float" else (8, "d")
        count, odd = divmod(last - first, size)
        if odd:
            fail(f"{entry.name}: packed numbers of {size} bytes fill {last - first} bytes", first)
        return list(struct.unpack(f"<{count}{form}", bytes(buf[first:last])))
    raw = [value] if isinstance(value, int) else packed_varints(buf, *value)
    if entry.type == "bool":
        return [int(n != 0) for n in raw]
    if entry.type in ("uint32", "uint64"):
        return [n & _INTEGERS[entry.type][1] for n in raw]
    return [signed(n, 64 if entry.type == "int64" else 32) for n in raw]


def encode_value(number: float, kind: str) -> bytes | None:
    """The number's bytes, or None if the type cannot hold it."""
    if kind in _FIXED:
        try:
            return struct.pack(_FIXED[kind][1], number)
        except OverflowError:
            return None
    if kind not in _INTEGERS or not math.isfinite(number):
        return None
    low, high = _INTEGERS[kind]
    if int(number) != number or not low <= number <= high:
        return None
    return varint(int(number))
