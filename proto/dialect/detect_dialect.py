"""Find which Caffe wrote a file: all dialects read it, and the one with the fewest problems wins.

Dialects that read a file alike are one candidate. If two candidates explain it equally well and
mean different things, the shapes of the weights may tell (`WALK`); otherwise it is the user
who has to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from caffeio.errors import DialectError, ParseError
from caffeio.proto import caffe_pb2
from caffeio.proto.dialect import schema
from caffeio.proto.dialect.plan import CANONICAL
from caffeio.proto.dialect.rules import FieldRule, rule_table, rules_of
from caffeio.proto.dialect.schema import Schema
from caffeio.proto.dialect.scorer import (
    ODD,
    UNKNOWN,
    Candidate,
    Interpretation,
    Problem,
    Raw,
    Scorer,
)
from caffeio.proto.dialect.transcode import Transcoder
from caffeio.proto.io.blobs import scan_blob
from caffeio.proto.io.opened import found_once
from caffeio.proto.io.wire import BYTES, Buffer

KINDS = {
    "net": "NetParameter",
    "solver": "SolverParameter",
    "solverstate": "SolverState",
    "blob": "BlobProto",
}
# field of the net -> message, and in it the numbers of the name and of the blobs
_LAYERS = {100: ("LayerParameter", 1, 7), 2: ("V1LayerParameter", 4, 6)}
_MARGIN = 0.9  # two scores that differ by less do not decide


class Detection(NamedTuple):
    """The dialect found, how sure that is (0 to 1), why, and what else was considered.

    `also` are the dialects that read the file exactly alike; `alternatives` read it otherwise:
    the dialect, its score (0 explains everything, more is worse) and what speaks against it.
    """

    dialect: str
    confidence: float
    evidence: list[str]
    alternatives: list[tuple[str, float, list[str]]]
    also: list[str]


# Who follows the shapes of a net to its weights: it asks the layer types, which this package may
# not import. Imported when two candidates are equally good.
WALK = "caffeio.net.weights_fit:walk_shapes"


class Walk(NamedTuple):
    """What shapes say of a candidate; `possible` is whether some input fits all weights."""

    possible: bool
    confirmed: list[str]
    refuted: list[str]


def detect(data: Buffer, kind: str = "net") -> Detection:
    """Find the dialect of a binary net, solver, solverstate or blob.

    Works on an mmap; the numbers of blobs are not read. `kind` is one of `KINDS`.
    Raises ParseError for broken bytes, DialectError (with both candidates) if the file fits
    dialects that read it differently.
    """
    return found_once(data, ("dialect", kind), lambda: _detect(data, KINDS[kind]))


def _detect(data: Buffer, name: str) -> Detection:
    groups = _group(score_dialects(data, name))
    best = groups[0]
    rivals = [g for g in groups[1:] if g[0].score - best[0].score < _MARGIN]
    if _is_family(best):  # a private fork that explains no more is no rival
        rivals = [group for group in rivals if _is_family(group)]
    evidence: list[str] = []
    if rivals:
        best, evidence = _by_shapes(data, name, [best, *rivals])
    others = [group for group in groups if group is not best]
    return _detection_of(best, others, evidence)


def _detection_of(
    best: list[Candidate], others: list[list[Candidate]], shapes: list[str]
) -> Detection:
    chosen = best[0]
    also = [r for r in best[1:] if r.score - chosen.score < _MARGIN]
    worse = [r for r in best[1:] if r not in also] + [group[0] for group in others]
    evidence = [*shapes, *chosen.special_texts()]
    for candidate in worse:
        near = candidate is worse[0] or candidate.dialect in schema.FAMILIES
        if near and candidate.score > chosen.score:
            evidence += [
                f"not {candidate.dialect}: {text}" for text in candidate.problem_texts()[:3]
            ]
    if not evidence:
        evidence = ["nothing in it differs between the dialects"]
    margin = others[0][0].score - chosen.score if others else float("inf")
    confidence = 1 - 2 ** -max(margin, 1.0 if shapes else 0.0)
    alternatives = [(g[0].dialect, g[0].score, g[0].problem_texts()) for g in others]
    return Detection(chosen.dialect, confidence, evidence, alternatives, [r.dialect for r in also])


def _group(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Readings that mean the same, together; the best group and the best of a group first."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda r: (r.score, _rank(r.dialect))):
        groups.setdefault(candidate.digest, []).append(candidate)
    return list(groups.values())


def _rank(dialect: str) -> tuple[int, int, str]:
    """Great families before private forks, small tables before large ones."""
    names = schema.dialect_names()
    index = min(names.index(dialect), len(schema.FAMILIES))
    return index, _extent(dialect), dialect


def _is_family(group: list[Candidate]) -> bool:
    return group[0].dialect in schema.FAMILIES


@cache
def _extent(dialect: str) -> int:
    own, plain = schema.load(dialect).messages, schema.load("bvlc").messages
    return sum(
        plain.get(message, {}).get(entry.name) != entry
        for message, fields in own.items()
        for entry in fields.values()
    )


# --- a candidate for each dialect


def score_dialects(data: Buffer, message: str) -> list[Candidate]:
    """Let each dialect read the bytes of a message: one candidate a dialect, in no order."""
    scorer = Scorer(data)
    if message == "NetParameter":
        return _Net(scorer).candidates
    candidates = []
    for dialect in schema.dialect_names():
        one = scorer.message(rules_of(dialect, message), 0, len(data))
        candidates.append(Candidate(dialect, one.digest))
        candidates[-1].note(one, f"the {message}")
    return candidates


@cache
def _rules_for(message: str, number: int) -> list[tuple[FieldRule | None, list[int]]]:
    """The different rules that dialects have for a field, each with the dialects' indices."""
    out: list[tuple[FieldRule | None, list[int]]] = []
    for index, dialect in enumerate(schema.dialect_names()):
        rule = rule_table(rules_of(dialect, message)).get(number)
        for known, members in out:
            if known == rule:
                members.append(index)
                break
        else:
            out.append((rule, [index]))
    return out


@cache
def _strangers(layer_type: str) -> list[int]:
    """The indices of the dialects that do not have the layer type."""
    names = schema.dialect_names()
    return [i for i, name in enumerate(names) if layer_type not in schema.load(name).layer_types]


class _Net:
    """Score a net for all dialects; dialects with equal rules for a field are judged once."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.candidates = [Candidate(dialect) for dialect in schema.dialect_names()]
        self.digests: list[list[tuple[object, int]]] = [[] for _ in self.candidates]
        for index, raw in enumerate(list(scorer.fields(0, len(scorer.buf)))):
            if raw.number in _LAYERS and raw.kind == BYTES:
                self._layer(index, raw)
            else:
                self._field("NetParameter", raw, "the net")
        for candidate, digest in zip(self.candidates, self.digests, strict=True):
            candidate.digest = hash(tuple(digest))

    def _field(self, message: str, raw: Raw, place: str, layer_type: str = "") -> None:
        rules = _rules_for(message, raw.number)
        for rule, members in rules:
            one = self.scorer.judge(rule, message, raw)
            if rule is not None and _is_misplaced(rule, layer_type):
                what = f"a layer of type {layer_type} would have a {rule.entry.name}"
                one = one._replace(problems=(*one.problems, Problem(ODD, what)))
            name = rule.entry.name if rule else raw.number
            for member in members:
                if len(rules) > 1:
                    self.digests[member].append((name, one.digest))
                if one.problems or one.special:
                    self.candidates[member].note(one, place)

    def _layer(self, index: int, raw: Raw) -> None:
        message, name_number, blobs = _LAYERS[raw.number]
        assert isinstance(raw.value, tuple)
        fields = list(self.scorer.fields(*raw.value))
        texts = {f.number: self.scorer.text(f) for f in fields if f.kind == BYTES and f.number < 5}
        kind = texts.get(2, "") if raw.number == 100 else ""
        title = texts.get(name_number)
        place = f"layer {title!r}" if title else f"layer {index}"
        for entry in fields:
            self._field(message, entry, place, kind)
        if not kind:
            return
        unknown = Interpretation(0, (Problem(ODD, "unknown layer type", kind),))
        for member in _strangers(kind):
            self.candidates[member].note(unknown, place)
        spans = [f.value for f in fields if f.number == blobs and isinstance(f.value, tuple)]
        if kind == "BatchNorm" and len(spans) in (4, 5):
            for candidate in self.candidates:
                own = schema.load(candidate.dialect)
                found = tuple(_merged_problems(self.scorer.buf, own, spans))
                candidate.note(Interpretation(0, found), place)


def _is_misplaced(rule: FieldRule, layer_type: str) -> bool:
    """Whether a layer has parameters that are named after another layer type."""
    name = rule.entry.name
    if not (layer_type and name.endswith("_param") and rule.entry.message):
        return False
    owner = name.removesuffix("_param").replace("_", "")
    return owner in _lower_types() and owner not in layer_type.lower()


@cache
def _lower_types() -> set[str]:
    return {name.lower() for name in schema.canonical().layer_types}


def _merged_problems(buf: Buffer, own: Schema, blobs: list[tuple[int, int]]) -> Iterator[Problem]:
    """What does not suit a BatchNorm that has gamma and beta: only two families merge Scale."""
    fields = own.messages.get("BatchNormParameter", {})
    if not {"use_weight_bias", "scale_bias"} & fields.keys():
        yield Problem(UNKNOWN, "a BatchNorm would have no scale", f"{len(blobs)} blobs")
    elif (factor := _single(buf, blobs[2])) is not None:
        if "scale_bias" in fields and factor != 1:
            yield Problem(UNKNOWN, "the factor of a BatchNorm would be 1", f"{factor:g}")
        elif "scale_bias" not in fields and factor == 1:
            yield Problem(ODD, "the factor of a BatchNorm would not be exactly 1")


def _single(buf: Buffer, span: tuple[int, int]) -> float | None:
    """The only value of a float blob, None for other blobs."""
    try:
        info = scan_blob(buf, *span)
    except ParseError:
        return None
    if info.count != 1 or info.dtype.itemsize != 4 or info.dtype.kind != "f":
        return None
    return float(struct.unpack_from("<f", buf, info.offset)[0])


# --- several candidates


def _by_shapes(
    data: Buffer, message: str, groups: list[list[Candidate]]
) -> tuple[list[Candidate], list[str]]:
    """Choose the one group of candidates that agrees with the shapes of the weights; say why."""
    if message == "NetParameter":
        walks = [_walk(data, group[0].dialect) for group in groups]
        good = [i for i, walk in enumerate(walks) if walk.possible and walk.confirmed]
        bad = [i for i, walk in enumerate(walks) if not walk.possible]
        if len(good) == 1 and len(good) + len(bad) == len(groups):
            chosen = good[0]
            evidence = [f"shapes: {walks[chosen].confirmed[0]}"]
            evidence += [f"not {groups[i][0].dialect}: {walks[i].refuted[0]}" for i in bad]
            return groups[chosen], evidence
    names = [group[0].dialect for group in groups]
    raise DialectError(
        f"it fits {len(names)} dialects that read it differently; say which one it is "
        f"(--dialect {' or --dialect '.join(names)}):\n" + side_by_side(data, message, names)
    )


def _walk(data: Buffer, dialect: str) -> Walk:
    module, _, name = WALK.partition(":")
    walk: Walk = getattr(import_module(module), name)(
        _message(data, "NetParameter", dialect), dialect
    )
    return walk


def _message(data: Buffer, name: str, dialect: str) -> Any:
    run = Transcoder(data, dialect, CANONICAL, cut=True)
    parts = run.message(0, len(data), name, name)
    wire = b"".join(bytes(p) for p in parts if isinstance(p, bytes | bytearray | memoryview))
    try:
        return getattr(caffe_pb2, name).FromString(wire)
    except DecodeError as error:
        raise ParseError(f"not a {name}: {error}") from None


def side_by_side(data: Buffer, message: str, dialects: list[str]) -> str:
    """Show the first places where dialects read the bytes differently, as each reads them."""
    messages = {name: _message(data, message, name) for name in dialects}
    width = max(map(len, dialects))
    lines = []
    for place, texts in _differences(list(messages.values())):
        lines.append(f"  {place}")
        lines += [f"    {n:{width}}  {t}" for n, t in zip(dialects, texts, strict=True)]
        if len(lines) > 12:
            break
    return "\n".join(lines) or "  (they differ only in fields that none of them knows)"


def _differences(messages: list[Any]) -> Iterable[tuple[str, list[str]]]:
    layers = [
        getattr(message, "layer", ()) or getattr(message, "layers", ()) for message in messages
    ]
    if not layers[0]:
        yield "the whole", [_one_line(message) for message in messages]
        return
    for group in zip(*layers, strict=False):
        fields = sorted({f.name for layer in group for f, _ in layer.ListFields()})
        for name in fields:
            texts = [_field_text(layer, name) for layer in group]
            if len(set(texts)) > 1:
                yield f"layer {group[0].name!r} ({group[0].type})", texts


def _field_text(layer: Any, name: str) -> str:
    entry = layer.DESCRIPTOR.fields_by_name[name]
    value = getattr(layer, name)
    if entry.is_repeated or entry.message_type is None:
        return f"{name}: {value}" if entry.is_repeated or layer.HasField(name) else f"no {name}"
    return f"{name} {{ {_one_line(value)} }}" if layer.HasField(name) else f"no {name}"


def _one_line(message: Any) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= 200 else text[:197] + "..."
