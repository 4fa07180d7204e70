"""Which Caffe a prototxt was written for, by the names in it.

No text says which fork it is for, but a field, an enum value or a layer type that BVLC's Caffe does
not have points to the forks that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.message import Message

from caffeio.proto import schema

# Fields that BVLC has once and a fork, and so the canonical schema, has repeated.
ONE_IN_BVLC = frozenset(
    {
        ("PoolingParameter", "kernel_size"),
        ("PoolingParameter", "pad"),
        ("PoolingParameter", "stride"),
    }
)
# Ages and private branches of a Caffe yield to its main line where both fit.
_MAIN_LINE = {
    "intel-2016": "sara", "intel-2017": "sara", "openvino-tt": "ssd", "enet": "segnet",
    "nvidia-0.14": "nvidia", "nvidia-0.15": "nvidia", "nvidia-0.16": "nvidia",
    "borisgin": "nvidia",
}  # fmt: skip
_ROW = re.compile(
    r"^(field|enum|lacks|layer|base)\t([^\t\n]+)(?:\t([^\t\n]+)\t(\d+)(?:\t(\w+))?)?", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Guess:
    """A dialect, and what in the file speaks for it and against BVLC."""

    dialect: str
    evidence: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


@cache
def _facts(name: str) -> frozenset[str]:
    """All that a dialect has: "Message.field", "Message.field[]", "Enum.VALUE", "type T"."""
    text = (schema.FOLDER / "dialects" / f"{name}.tsv").read_text(encoding="utf-8")
    rows = _ROW.findall(text)
    base = next((row[1] for row in rows if row[0] == "base"), "bvlc")
    facts: set[str] = set() if name == "bvlc" else set(_facts(base))
    for kind, owner, key, number, label in rows:
        if kind == "field":
            facts.add(f"{owner}.{key}")
            facts.discard(f"{owner}.{key}[]")
            if label == "repeated":
                facts.add(f"{owner}.{key}[]")
        elif kind == "enum":
            facts |= {f"{owner}.{key}", f"{owner}.{number}"}
        elif kind == "layer":
            facts.add(f"type {owner}")
        elif kind == "lacks":
            facts -= {owner, f"{owner}[]"}
    return frozenset(facts)


def used_names(message: Message) -> set[str]:
    """What a message makes use of, written as the facts are."""
    out: set[str] = set()
    _walk(message, out)
    return out


def _walk(message: Any, out: set[str]) -> None:
    owner = message.DESCRIPTOR.full_name.partition(".")[2]
    for field, value in message.ListFields():
        name = f"{owner}.{field.name}"
        out.add(name)
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                _walk(inner, out)
        elif field.enum_type is not None:
            enum = field.enum_type.full_name.partition(".")[2]
            for number in value if field.is_repeated else (value,):
                known = field.enum_type.values_by_number.get(number)
                out.add(f"{enum}.{known.name if known else number}")
        elif name == "LayerParameter.type":
            out.add(f"type {value}")
        if field.is_repeated and len(value) > 1 and (owner, field.name) in ONE_IN_BVLC:
            out.add(f"{name}[]")


def guess_dialect(message: Message, more: Iterable[str] = ()) -> Guess:
    """The dialect that explains most of what a message uses and BVLC does not have.

    `more` are further names of the same form, of what the canonical schema could not hold.
    Where nothing is foreign the answer is bvlc; what no fork has is no evidence.
    """
    used = used_names(message) | set(more)
    foreign = used - _facts("bvlc")
    if not foreign:
        return Guess("bvlc")
    scores = {}
    for name in schema.dialect_names():
        facts = _facts(name)
        scores[name] = (len(foreign & facts), -len((used & _facts("bvlc")) - facts))
    best = max(scores.values())
    if best[0] == 0:
        return Guess("bvlc")
    tied = [name for name, score in scores.items() if score == best]
    ranked = sorted(tied, key=lambda name: (_MAIN_LINE.get(name) in tied, _extent(name), name))
    evidence = tuple(sorted(foreign & _facts(ranked[0])))
    return Guess(ranked[0], evidence, tuple(ranked[1:]))


def _extent(name: str) -> int:
    """How much a dialect adds to bvlc: of two that fit, the smaller one says more."""
    return len(_facts(name) - _facts("bvlc"))
