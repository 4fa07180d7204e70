"""Which Caffe a prototxt was written for, by the names in it.

No text says which fork it is for, but a field, an enum value or a layer type that BVLC's Caffe does
not have points to the forks that do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.message import Message

from caffeio.proto.dialect import schema

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
_MARKS = {"repeated": "[]", "required": "!"}
_ROW = re.compile(
    r"^(field|enum|lacks|layer|base)\t([^\t\n]+)(?:\t([^\t\n]+)\t(\d+)(?:\t(\w+))?)?", re.MULTILINE
)

_BASE = re.compile(r"^base\t(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Guess:
    """A dialect, and what in the file speaks for it and against BVLC."""

    dialect: str
    evidence: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


@cache
def _table(name: str) -> str:
    return (schema.FOLDER / "tables" / f"{name}.tsv").read_text(encoding="utf-8")


def _base(name: str) -> str:
    match = _BASE.search(_table(name))
    return match[1] if match else "bvlc"


def _may_have(name: str, words: set[str]) -> bool:
    """Whether a dialect's table mentions any of the words: a quick look before `facts`."""
    if name == "bvlc":
        return False
    keys = {word.rstrip("[]!").rpartition("." if "." in word else " ")[2] for word in words}
    return any(key in _table(name) for key in keys) or _may_have(_base(name), words)


@cache
def facts(name: str) -> frozenset[str]:
    """All that a dialect has, as words.

    "Message", "Message.field", "Message.field[]" (repeated), "Message.field!" (required),
    "Enum.VALUE", "Enum.number", "type T" (a registered layer type).
    """
    rows, base = _ROW.findall(_table(name)), _base(name)
    lacks = {row[1] for row in rows if row[0] == "lacks"}
    whole = any(row[0] == "layer" for row in rows)  # a list of types is no delta
    words = {
        word
        for word in (facts(base) if name != "bvlc" else ())
        if word.rstrip("[]!") not in lacks
        and word.rpartition(".")[0] not in lacks
        and not (whole and word.startswith("type "))
    }
    for kind, owner, key, number, label in rows:
        if kind == "field":
            words -= {f"{owner}.{key}[]", f"{owner}.{key}!"}
            words |= {owner, f"{owner}.{key}", f"{owner}.{key}{_MARKS.get(label, '')}"}
        elif kind == "enum":
            words |= {f"{owner}.{key}", f"{owner}.{number}"}
        elif kind == "layer":
            words.add(f"type {owner}")
    return frozenset(words)


def used_names(message: Message) -> set[str]:
    """What a message makes use of, written as the facts are."""
    out: set[str] = set()
    _walk(message, out)
    return out


def _walk(message: Any, out: set[str]) -> None:
    owner = message.DESCRIPTOR.full_name.partition(".")[2]
    out.add(owner)
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


def guess_dialect(used: set[str]) -> Guess:
    """The dialect that explains most of what a file uses (`used_names`) and BVLC does not have.

    Where nothing is foreign the answer is bvlc; what no dialect has is no evidence.
    """
    foreign = used - facts("bvlc")
    if not foreign:
        return Guess("bvlc")
    scores = {}
    for name in schema.dialect_names():
        if not _may_have(name, foreign):
            continue
        theirs = facts(name)
        scores[name] = (len(foreign & theirs), -len((used & facts("bvlc")) - theirs))
    best = max(scores.values(), default=(0, 0))
    if best[0] == 0:
        return Guess("bvlc")
    tied = [name for name, score in scores.items() if score == best]
    ranked = sorted(tied, key=lambda name: (_MAIN_LINE.get(name) in tied, _extent(name), name))
    evidence = tuple(sorted(foreign & facts(ranked[0])))
    return Guess(ranked[0], evidence, tuple(ranked[1:]))


def _extent(name: str) -> int:
    """How much a dialect adds to bvlc: of two that fit, the smaller one says more."""
    return len(facts(name) - facts("bvlc"))


def has_required(used: set[str], dialect: str) -> bool:
    """Whether a message is used that has required fields in the dialect."""
    return any(f[:-1].rpartition(".")[0] in used for f in facts(dialect) if f.endswith("!"))
