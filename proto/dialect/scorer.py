"""Score how well each dialect explains the bytes of a net.

The file is walked on the wire. For every dialect, each field is judged by that dialect's table:
is its number known, has it the right wire type, is a text readable, an enum value known; does a
layer's `x_param` belong to its type, can its pooling be. What is wrong counts as a `Problem`. What
the fields mean there, by name and value, is condensed into a digest: two dialects with the same
digest read the file alike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from caffeio.errors import ParseError
from caffeio.proto.dialect.plan import accepts, wire_type
from caffeio.proto.dialect.rules import FieldRule, is_blob, rule_table
from caffeio.proto.dialect.transcode import MAX_FIELDS, PAYLOAD
from caffeio.proto.io.wire import (
    BYTES,
    FIXED32,
    VARINT,
    Buffer,
    Value,
    check_depth,
    fail,
    iter_places,
    packed_varints,
    read_field,
    signed,
)
from caffeio.shape_text import format_shape

UNKNOWN, MISREAD, IMPOSSIBLE, ODD = 2.0, 3.0, 4.0, 1.0  # weights of problems
_SMALL = 4096  # messages up to this size are judged once for all places where they occur


class Problem(NamedTuple):
    """Something in the file that does not suit a dialect: `what` in general, and one `sample`."""

    weight: float
    what: str
    sample: str = ""


class Interpretation(NamedTuple):
    """What one dialect makes of a message: meaning, problems, and (field, sample) of its own."""

    digest: int
    problems: tuple[Problem, ...] = ()
    special: tuple[tuple[str, str], ...] = ()


class Raw(NamedTuple):
    """A field as it lies in the file."""

    number: int
    kind: int
    value: Value
    start: int
    stop: int


@dataclass(slots=True)
class Candidate:
    """A dialect and how it reads a file; `score` is the weight of all problems, less is better."""

    dialect: str
    digest: int = 0
    problems: dict[str, tuple[float, int, str]] = field(
        default_factory=dict
    )  # weight, count, place
    special: dict[str, tuple[int, str]] = field(default_factory=dict)  # count, sample

    @property
    def score(self) -> float:
        """Each kind of problem counts once, and a little more the more often it occurs."""
        return sum(
            weight * (1 + min(count - 1, 20) / 40) for weight, count, _ in self.problems.values()
        )

    def note(self, one: Interpretation, place: str) -> None:
        """Add what was found in a place."""
        for weight, what, sample in one.problems:
            first = f"{sample} in {place}" if sample else f"in {place}"
            _, count, first = self.problems.get(what, (0.0, 0, first))
            self.problems[what] = (weight, count + 1, first)
        for name, sample in one.special:
            count, sample = self.special.get(name, (0, sample))
            self.special[name] = (count + 1, sample)

    def problem_texts(self) -> list[str]:
        """The problems for people, the gravest first."""
        ordered = sorted(self.problems.items(), key=lambda item: -item[1][0])
        return [
            f"{what}: {first}" + (f" ({count} times)" if count > 1 else "")
            for what, (_, count, first) in ordered
        ]

    def special_texts(self) -> list[str]:
        """What the file has that this dialect has and BVLC's Caffe has not."""
        return [
            f"{name}: {sample}" + (f" ({count} times)" if count > 1 else "")
            for name, (count, sample) in self.special.items()
        ]


class Scorer:
    """The bytes of one message, and what has been found out about parts of it."""

    def __init__(self, buf: Buffer) -> None:
        self.buf = buf
        self.memo: dict[tuple[int, object], Interpretation] = {}
        self.budget = MAX_FIELDS

    def fields(self, start: int, end: int) -> Iterator[Raw]:
        """The fields of the message in buf[start:end]."""
        pos = start
        while pos < end:
            self.budget -= 1
            if self.budget < 0:
                fail(f"more than {MAX_FIELDS} fields: this is no net", pos)
            number, kind, value, stop = read_field(self.buf, pos, end)
            yield Raw(number, kind, value, pos, stop)
            pos = stop

    def message(self, rules: int, start: int, end: int, depth: int = 1) -> Interpretation:
        """Judge the message in buf[start:end] by the rules."""
        check_depth(depth, start)
        small = end - start <= _SMALL and not is_blob(rules)
        key = (rules, bytes(self.buf[start:end]) if small else (start, end))
        if key not in self.memo:
            self.memo[key] = self._message(rules, start, end, depth)
        return self.memo[key]

    def _message(self, rules: int, start: int, end: int, depth: int) -> Interpretation:
        table = rule_table(rules)
        digests: list[tuple[str, int]] = []
        problems: list[Problem] = []
        special: list[tuple[str, str]] = []
        name = ""
        for raw in self.fields(start, end):
            rule = table.get(raw.number)
            name = rule.message if rule else name
            part = self.judge(rule, name or _name_of(table), raw, depth)
            digests.append((rule.entry.name if rule else f"#{raw.number}", part.digest))
            problems += part.problems
            special += part.special
        digests.sort(key=lambda item: item[0])
        name = name or _name_of(table)
        problems += _suspicions(name, self._named(table, start, end)) if name in _CHECKED else ()
        return Interpretation(hash((name, tuple(digests))), tuple(problems), tuple(special))

    def judge(
        self, rule: FieldRule | None, message: str, raw: Raw, depth: int = 1
    ) -> Interpretation:
        """Judge one field of a message by its rule (None: the dialect does not know it)."""
        if rule is None:
            what = f"{message} has no field {raw.number}"
            return self._wrong(raw, Problem(UNKNOWN, what, self.sample(raw)))
        entry = rule.entry
        label = f"{message}.{entry.name} ({entry.number})"
        if not accepts(entry, raw.kind):
            what = f"{label} would be {_article(entry.type)}"
            return self._wrong(raw, Problem(MISREAD, what, self.sample(raw)))
        special = ((label, self.sample(raw)),) if rule.special else ()
        if message == "BlobProto" and entry.name in PAYLOAD:  # the numbers are not read
            return Interpretation(hash(entry.name), (), special)
        if entry.message is not None:
            return self._inner(rule, label, raw, special, depth)
        if wire_type(entry) == VARINT:
            return self._varints(rule, label, raw, special)
        data = self._bytes(raw)
        if entry.type == "string" and not _is_text(data):
            what = f"{label} would be a text"
            return self._wrong(raw, Problem(MISREAD, what, self.sample(raw)), special)
        own = hash((raw.kind, data))
        return Interpretation(own, tuple(self._out_of_range(rule, label, raw)), special)

    def _wrong(
        self, raw: Raw, problem: Problem, special: tuple[tuple[str, str], ...] = ()
    ) -> Interpretation:
        return Interpretation(hash((raw.kind, self._bytes(raw))), (problem,), special)

    def _out_of_range(self, rule: FieldRule, label: str, raw: Raw) -> Iterator[Problem]:
        """A float that does not occur in this field, as far as the dialect's table knows."""
        if rule.range is not None and raw.kind == FIXED32:
            (value,) = struct.unpack("<f", self._bytes(raw))
            low, high = rule.range
            if not low <= value <= high:
                yield Problem(ODD, f"{label} would be from {low:g} to {high:g}", f"{value:g}")

    def _inner(
        self,
        rule: FieldRule,
        label: str,
        raw: Raw,
        special: tuple[tuple[str, str], ...],
        depth: int,
    ) -> Interpretation:
        assert isinstance(raw.value, tuple)
        if rule.inner < 0:
            return Interpretation(hash(self._bytes(raw)), (), special)
        try:
            part = self.message(rule.inner, *raw.value, depth + 1)
        except ParseError:
            problem = Problem(MISREAD, f"{label} would be a message", self.sample(raw))
            return self._wrong(raw, problem, special)
        return Interpretation(part.digest, part.problems, special or part.special)

    def _varints(
        self, rule: FieldRule, label: str, raw: Raw, special: tuple[tuple[str, str], ...]
    ) -> Interpretation:
        value = raw.value
        numbers = [value] if isinstance(value, int) else packed_varints(self.buf, *value)
        entry = rule.entry
        if rule.values is not None:
            signs = [signed(n, 32) for n in numbers]
            names = tuple(rule.values.get(n, n) for n in signs)
            wrong = [n for n in signs if n not in rule.values]
        else:
            names, wrong = tuple(numbers), []
            if entry.type == "bool":
                wrong = [n for n in numbers if n > 1]
        what = f"{label} would be {_article(entry.type)}"
        problems = (Problem(UNKNOWN, what, str(wrong[0])),) if wrong else ()
        return Interpretation(hash(names), problems, special)

    def _named(
        self, table: dict[int, FieldRule], start: int, end: int
    ) -> dict[str, list[int | str]]:
        """The varints of a message by the names of its fields, enum values by theirs."""
        out: dict[str, list[int | str]] = {}
        for number, kind, value, _, _ in iter_places(self.buf, start, end):
            rule = table.get(number)
            if rule is None or not accepts(rule.entry, kind):
                continue
            if wire_type(rule.entry) != VARINT:
                values = [0]  # that it is there is enough
            else:
                values = [value] if isinstance(value, int) else packed_varints(self.buf, *value)
            names = rule.values or {}
            out.setdefault(rule.entry.name, []).extend(names.get(n, n) for n in values)
        return out

    def text(self, raw: Raw) -> str:
        """A text field's value."""
        return self._bytes(raw).decode("utf-8", "replace")

    def _bytes(self, raw: Raw) -> bytes:
        """The bytes of a field's value; of a long one its beginning and length."""
        if isinstance(raw.value, int):
            return raw.value.to_bytes(8, "little")
        first, last = raw.value
        if last - first > 1 << 16:
            return bytes(self.buf[first : first + (1 << 16)]) + (last - first).to_bytes(8, "little")
        return bytes(self.buf[first:last])

    def sample(self, raw: Raw) -> str:
        """The value for people, as far as it can be told without a schema."""
        if isinstance(raw.value, int):
            return str(signed(raw.value))
        first, last = raw.value
        data = self._bytes(raw)
        if raw.kind != BYTES:
            return f"a number of {last - first} bytes"
        if 0 < last - first <= 60 and _is_text(data):
            return repr(data.decode("utf-8", "replace"))
        return f"{last - first} bytes" if last > first else "nothing"


def _name_of(table: dict[int, FieldRule]) -> str:
    return next((rule.message for rule in table.values()), "the message")


def _article(kind: str) -> str:
    kind = kind.rpartition(":")[2] if kind.startswith("enum:") else kind.partition(":")[0]
    return {"string": "a text", "bytes": "bytes"}.get(
        kind, f"an {kind}" if kind[0] in "aeio" else f"a {kind}"
    )


def _is_text(data: bytes) -> bool:
    """Whether bytes can be a text of any encoding: no control characters."""
    return all(byte >= 32 or byte in b"\t\n\r" for byte in data) and b"\x7f" not in data


_CHECKED = frozenset(("PoolingParameter", "LossParameter"))


def _suspicions(message: str, named: dict[str, list[int | str]]) -> list[Problem]:
    """What no Caffe accepts, or no one writes."""
    if message == "PoolingParameter":
        return _pooling_problems(named)
    if "PRE_FIXED" in named.get("normalization", ()) and "pre_fixed_normalizer" not in named:
        return [Problem(ODD, "a loss is normalized PRE_FIXED, without the fixed number")]
    return []


def _pooling_problems(named: dict[str, list[int | str]]) -> list[Problem]:
    """What src/caffe/layers/pooling_layer.cpp refuses: no kernel, stride 0, pad >= kernel."""
    if any(named.get("global_pooling", ())):
        return []
    kernels = _extents(named, "kernel_size", "kernel_h", "kernel_w", None)
    strides = _extents(named, "stride", "stride_h", "stride_w", 1)
    pads = _extents(named, "pad", "pad_h", "pad_w", 0)
    if None in kernels:
        return [Problem(IMPOSSIBLE, "a pooling would have no kernel")]
    wrong = 0 in kernels or 0 in strides
    wrong |= any(p >= k for p, k in zip(pads, kernels, strict=True) if p is not None and k)
    if not wrong:
        included = any(named.get("avg_include_pad", ()))
        if included and "AVE" not in named.get("pool", ()):  # it says nothing of a maximum
            return [Problem(ODD, "a pooling that takes no average says avg_include_pad")]
        return []
    sample = f"kernel {_pair(kernels)}, stride {_pair(strides)}, pad {_pair(pads)}"
    return [Problem(IMPOSSIBLE, "a pooling would be impossible", sample)]


def _extents(
    named: dict[str, list[int | str]], both: str, high: str, wide: str, default: int | None
) -> list[int | None]:
    """The vertical and the horizontal value."""
    values: list[int | None] = [n for n in named.get(both, ()) if isinstance(n, int)]
    out = [values[0], values[-1]] if values else [default, default]
    for axis, name in enumerate((high, wide)):
        if name in named and isinstance(named[name][-1], int):
            out[axis] = int(named[name][-1])
    return out


def _pair(values: list[int | None]) -> str:
    return str(values[0]) if values[0] == values[1] else format_shape(values, " x ")
