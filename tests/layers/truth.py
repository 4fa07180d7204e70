"""Hold what a layer type says without torch against what its arithmetic does on the meta device."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from caffeio.errors import CaffeIOError
from caffeio.layers import LayerContext, LayerType, lookup
from caffeio.layers.inference import infer_layer
from caffeio.ops.module import make_module, meta
from caffeio.profiles import BVLC, PROFILES, Profile
from caffeio.proto import caffe_pb2 as pb

Shape = tuple[int, ...]
WRONG = (CaffeIOError, RuntimeError, IndexError, TypeError, ValueError)


@dataclass(frozen=True)
class Case:
    """One layer with its bottoms."""

    text: str  # of a LayerParameter
    bottoms: tuple[Shape, ...]
    tops: int = 1
    phase: str = "TEST"
    profile: Profile = BVLC
    in_place: bool = False
    hide: bool = True  # ask for the shapes with unknown dimensions, too

    def __str__(self) -> str:
        tops = f"{self.tops} tops, {self.phase}, {self.profile.name}"
        return f"{' '.join(self.text.split())} of {self.bottoms}, {tops}"

    def param(self) -> pb.LayerParameter:
        param = _parsed(self.text)
        param.name = param.name or "x"
        del param.bottom[:], param.top[:]
        param.bottom.extend(f"b{i}" for i in range(len(self.bottoms)))
        param.top.extend(f"t{i}" for i in range(self.tops))
        if self.in_place:
            param.top[0] = "b0"
        return param


Facts = tuple[Any, Any, Any]
_PARSED: dict[str, pb.LayerParameter] = {}  # a third of the time goes into texts


def _parsed(text: str) -> pb.LayerParameter:
    if text not in _PARSED:
        _PARSED[text] = text_format.Parse(text, pb.LayerParameter())
    copy = pb.LayerParameter()
    copy.CopyFrom(_PARSED[text])
    return copy


class Watched:
    """A profile that notes which of its choices are asked for."""

    def __init__(self, profile: Profile) -> None:
        self._profile, self.asked = profile, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        return getattr(self._profile, name)


def differences_of_all(case: Case) -> Iterator[str]:
    """`differences` for every profile.

    What only asks for choices that two profiles share is the same for both: it is done once.
    """
    done_: list[tuple[Profile, set[str]]] = []
    for profile in PROFILES.values():
        if any(all(getattr(profile, f) == getattr(p, f) for f in asked) for p, asked in done_):
            continue
        watched = Watched(profile)
        spied = replace(case, profile=watched)  # type: ignore[arg-type]
        yield from differences(spied)
        done_.append((profile, watched.asked - {"name"}))


def told(case: Case) -> Facts | str:
    """Shapes of tops and blobs and MACs as the class tells them, or its refusal."""
    param = case.param()
    cls = lookup(param.type, "x")
    try:
        found = infer_layer(
            cls, param, case.bottoms, case.profile, top_count=case.tops, phase=case.phase
        )
    except CaffeIOError as error:
        return f"refused: {error.message}"
    return found.tops, found.blobs, found.macs


def done(case: Case) -> Facts | str:
    """The same of the module: `setup`, and a forward on the meta device."""
    param = case.param()
    context = LayerContext(case.phase, case.profile, "", tuple(param.bottom), tuple(param.top))
    layer = make_module(lookup(param.type, "x"), param, context)
    try:
        layer.bottom_shapes = case.bottoms
        if layer.is_source:
            layer.configure()
        layer.check_fields()
        layer.setup(*case.bottoms)
        with torch.no_grad():
            result = layer(*map(meta, case.bottoms))
    except WRONG as error:
        return f"refused: {type(error).__name__}: {error}"
    tops = result if isinstance(result, tuple) else (result,)
    layer.top_shapes = tuple(tuple(top.shape) for top in tops)
    return layer.top_shapes, tuple(tuple(blob.shape) for blob in layer.blobs), layer.macs()


def differences(case: Case) -> Iterator[str]:
    """What the two tell differently, and what the class tells wrongly of unknown dimensions."""
    a, b = told(case), done(case)
    refusals = isinstance(a, str), isinstance(b, str)
    if refusals == (True, True):
        return
    if any(refusals) or not (a == b or _source_fits(case, a, b)):
        yield f"{case}: told {a}, done {b}"
        return
    if a[1] and not lookup(case.param().type, "x").has_blobs:
        yield f"{case}: has blobs, against has_blobs"
    if not case.hide:
        return
    for place in range(sum(map(len, case.bottoms))):
        hidden = replace(case, bottoms=_hide(case.bottoms, {place}))
        yield from _contradictions(hidden, told(hidden), a)
    everything = set(range(sum(map(len, case.bottoms))))
    hidden = replace(case, bottoms=_hide(case.bottoms, everything))
    yield from _contradictions(hidden, told(hidden), a)


def _source_fits(case: Case, mine: Any, theirs: Any) -> bool:
    """Whether what is told of a data layer without data is true of the net with usual sizes."""
    cls = lookup(case.param().type, "x")
    return cls.is_source and all(
        a is None or (len(a) == len(b) and all(n in (-1, m) for n, m in zip(a, b, strict=True)))
        for a, b in zip(mine[0], theirs[0], strict=True)
    )


def _hide(bottoms: Sequence[Shape], places: set[int]) -> tuple[Shape, ...]:
    out, count = [], 0
    for shape in bottoms:
        out.append(tuple(-1 if count + i in places else n for i, n in enumerate(shape)))
        count += len(shape)
    return tuple(out)


def _contradictions(case: Case, found: Facts | str, real: Facts | str) -> Iterator[str]:
    if isinstance(found, str):
        yield f"{case}: {found}, but the real one fits"
        return
    tops, blobs, macs = found
    fine = macs is None or macs == real[2]
    for mine, theirs in zip((*tops, *blobs), (*real[0], *real[1])[: len(tops) + len(blobs)],
                            strict=False):  # fmt: skip
        if mine is not None:
            fine = fine and len(mine) == len(theirs)
            fine = fine and all(n in (-1, m) for n, m in zip(mine, theirs, strict=False))
    if not fine:
        yield f"{case}: told {found}, which contradicts {real}"


NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, 2, 3, -1, -2),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2, 3, 5),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, 2, 3, -1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2, 3),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, 0.5, 1.0, 2.0, -1.0),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, 0.5, -1.0),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
}
DIMS = ([-1], [0, -1], [0, 0, -1], [2, -1], [0, 2, -1], [-1, -1], [4, 3], [0])


def values_of(field: FieldDescriptor) -> list[Any]:
    """Values to try for `field`; none for texts and for messages other than shapes."""
    if field.message_type is not None:
        shapes = [pb.BlobShape(dim=dims) for dims in DIMS]
        return shapes if field.message_type.name == "BlobShape" else []
    if field.enum_type is not None:
        singles: Iterable[Any] = [value.number for value in field.enum_type.values]
    else:
        singles = NUMBERS.get(field.cpp_type, ())
    if not field.is_repeated:
        return list(singles)
    singles = list(singles)
    return [[v] for v in singles] + [[a, b] for a in singles[1:4] for b in singles[1:4]]


def set_field(param: pb.LayerParameter, message: str, field: FieldDescriptor, value: Any) -> None:
    """Set one field of one of the layer's messages."""
    owner = getattr(param, message)
    if field.is_repeated:
        owner.ClearField(field.name)
        target = getattr(owner, field.name)
        if isinstance(value, pb.BlobShape):
            target.add().CopyFrom(value)
        else:
            target.extend(value)
    elif isinstance(value, pb.BlobShape):
        getattr(owner, field.name).CopyFrom(value)
    else:
        setattr(owner, field.name, value)


def grid(case: Case, cls: type[LayerType], draws: int) -> Iterator[Case]:
    """`case`, it with each value of each field, with other shapes, and `draws` random mixtures."""
    yield case
    for message, field in _fields(cls):
        for value in values_of(field):
            yield _with(case, [(message, field, value)])
    for bottoms in other_shapes(case.bottoms):
        yield replace(case, bottoms=bottoms)
    yield from mixtures(case, cls, draws)


def mixtures(case: Case, cls: type[LayerType], draws: int) -> Iterator[Case]:
    """`case` with `draws` random mixtures of fields and shapes."""
    fields = _fields(cls)
    dice = random.Random(case.text)
    choices = [case.bottoms, *other_shapes(case.bottoms)]
    for _ in range(draws):
        some = dice.sample(fields, min(len(fields), dice.randint(1, 4)))
        changed = [(message, field, dice.choice(values_of(field))) for message, field in some]
        yield replace(_with(case, changed), bottoms=dice.choice(choices))


def _fields(cls: type[LayerType]) -> list[tuple[str, FieldDescriptor]]:
    """The fields of the messages that belong to a type; of data layers transform_param's, too."""
    messages = [*cls.fields, *(["transform_param"] if cls.is_data else [])]
    return [
        (message, field)
        for message in messages
        for field in pb.LayerParameter.DESCRIPTOR.fields_by_name[message].message_type.fields
        if values_of(field)
    ]


def _with(case: Case, changes: Iterable[tuple[str, FieldDescriptor, Any]]) -> Case:
    param = _parsed(case.text)
    for message, field, value in changes:
        set_field(param, message, field, value)
    text = text_format.MessageToString(param, as_one_line=True)
    _PARSED[text] = param
    return replace(case, text=text)


def other_shapes(bottoms: tuple[Shape, ...]) -> Iterator[tuple[Shape, ...]]:
    """Shapes of more, fewer, larger, smaller axes; also where only the last bottom differs."""
    yield tuple((*s, 2) for s in bottoms)
    yield tuple(s[:-1] for s in bottoms)
    yield tuple(tuple(n + 1 for n in s) for s in bottoms)
    yield tuple((*s[:2], *(1 for _ in s[2:])) for s in bottoms)
    yield tuple((s[0] * 2, *s[1:]) if s else s for s in bottoms)
    if len(bottoms) > 1:
        last = bottoms[-1]
        yield (*bottoms[:-1], (*last, 2))
        yield (*bottoms[:-1], last[:-1])
        yield (*bottoms[:-1], tuple(n + 1 for n in last))
