"""Rules about the words of a file: unknown names, names of other Caffes, old forms."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from google.protobuf.message import Message

from caffeio.converters.lint.fixes import reads_better
from caffeio.converters.lint.model import (
    ERROR,
    INFO,
    WARNING,
    Finding,
    Fix,
    NetContext,
    SolverContext,
    Steps,
    rule,
)
from caffeio.layers.registry import find, owners_of, types_without_torch
from caffeio.proto.dialect.guess_text import facts as facts_of
from caffeio.proto.dialect.guess_text import used_names
from caffeio.proto.text.slips import is_slip
from caffeio.proto.text.text_format import UnknownField

Context = NetContext | SolverContext


@rule("CIO101", "unknown-field", ERROR, "text")
def unknown_field(context: Context) -> Iterator[Finding]:
    """A field that no known Caffe has: most often a slip of the pen.

    Caffe refuses the whole file. The fix writes the known name, where it is surely a slip of one
    and the value is of that field's type.
    """
    for unknown in context.file.unknown:
        if unknown.kind != "field":
            continue
        hint = f"; did you mean {unknown.suggestion!r}?" if unknown.suggestion else ""
        if unknown.hint and not unknown.hint.startswith("did you mean"):
            hint = f": {unknown.hint}"
        owner = f" in {unknown.path.rpartition('.')[0]}" if "." in unknown.path else ""
        fix = _renaming(unknown, context.file.text or "")
        message = f"no Caffe knows a field {unknown.name!r}{owner}{hint}"
        yield context.finding("CIO101", message, unknown.where, fix=fix)


def _renaming(unknown: UnknownField, text: str) -> Fix | None:
    """A fix of a slip, if the file reads with it and the new field holds what the old one held."""
    name = unknown.suggestion
    if name is None or unknown.hint != f"did you mean {name}?" or not is_slip(unknown.name, name):
        return None
    rename = (unknown.line, unknown.column, unknown.name, name)
    return Fix(f"write {name}", rename=rename) if reads_better(text, rename) else None


@rule("CIO102", "unknown-value", ERROR, "text")
def unknown_value(context: Context) -> Iterator[Finding]:
    """A value that the field's enum does not have. Caffe refuses the whole file."""
    for unknown in context.file.unknown:
        if unknown.kind == "field":
            continue
        hint = f"; did you mean {unknown.suggestion!r}?" if unknown.suggestion else ""
        message = f"no Caffe knows the value {unknown.name!r} of {unknown.path}{hint}"
        yield context.finding("CIO102", message, unknown.where)


@rule("CIO103", "foreign-dialect", WARNING, "text")
def foreign_dialect(context: Context) -> Iterator[Finding]:
    """Fields or layer types of different Caffes in one file: no Caffe known here reads it.

    Without --dialect the file is held against the Caffe that fits it best; with it, against the one
    that you name.
    """
    parsed = context.file.parsed
    if parsed is None:
        return
    dialect = context.given or context.dialect
    known = facts_of(dialect)
    foreign = {n for n in used_names(parsed.message) if n not in known and not n.endswith("[]")}
    for steps, name in _uses(parsed.message, ()) if foreign else ():
        if name not in foreign:
            continue
        foreign.discard(name)
        word = name.removeprefix("type ")
        if word != name and find(word) is None:
            continue  # a type that nobody knows: CIO105
        message = f"{word} is not in {dialect}, which this file is written for otherwise"
        if context.given:
            message = f"{word} is not in {dialect}"
        yield context.finding("CIO103", message, parsed.locate(*steps))


def _uses(message: Any, steps: Steps) -> Iterator[tuple[Steps, str]]:
    """Every field that is used, as `used_names` writes it, and the way to it."""
    owner = message.DESCRIPTOR.full_name.partition(".")[2]
    for field, value in message.ListFields():
        here = (*steps, field.name)
        name = f"{owner}.{field.name}"
        yield here, name
        if name == "LayerParameter.type":
            yield here, f"type {value}"
        if field.message_type is None:
            continue
        if isinstance(value, Message):
            yield from _uses(value, here)
        else:
            for index, inner in enumerate(value):
                yield from _uses(inner, (*here, index))


@rule("CIO104", "old-form", INFO, "text")
def old_form(context: Context) -> Iterator[Finding]:
    """The file is in an old form (V0 or V1 layers, input fields, solver_type).

    Caffe upgrades it each time that it is read; `caffeio upgrade` does it once.
    """
    upgraded = context.file.upgraded
    if upgraded is not None and upgraded.done:
        message = "; ".join(upgraded.done)
        yield context.finding("CIO104", f"is upgraded on load: {message}", context.file.locate())


@rule("CIO105", "unknown-type", WARNING, "net")
def unknown_type(context: NetContext) -> Iterator[Finding]:
    """A layer type that no Caffe known here has registered.

    It may be a slip of the pen, or a layer of your own.
    """
    known = set(types_without_torch()) | _registered()
    for index, layer in enumerate(context.layers):
        if layer.type and layer.type not in known:
            close = get_close_matches(layer.type, sorted(known), 1, 0.75)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            yield context.layer("CIO105", index, f"unknown type {layer.type!r}{hint}", "type")


def _registered() -> set[str]:
    from caffeio.proto.dialect.schema import dialect_names

    names = {word for name in dialect_names() for word in facts_of(name) if word[:5] == "type "}
    return {name.removeprefix("type ") for name in names}


@rule("CIO106", "param-of-other-type", WARNING, "net")
def param_of_other_type(context: NetContext) -> Iterator[Finding]:
    """Parameters for another type of layer: Caffe ignores them without a word."""
    for index, layer in enumerate(context.layers):
        if find(layer.type) is None:
            continue
        for field, _ in layer.ListFields():
            owners = owners_of(field.name)
            if owners and layer.type not in owners:
                if field.name == "relu_param" and layer.type.endswith("ReLU"):
                    continue
                message = f"a layer of type {layer.type} does not read {field.name}"
                yield context.layer("CIO106", index, message, field.name)


_LEGACY = ("scale", "mean_file", "crop_size", "mirror")


@rule("CIO107", "legacy-transform", WARNING, "net")
def legacy_transform(context: NetContext) -> Iterator[Finding]:
    """Transforms inside data_param or image_data_param: since V2 Caffe ignores them there.

    They belong into transform_param. (V1 files are moved on load and are not meant.)
    """
    for index, layer in enumerate(context.layers):
        for name in ("data_param", "image_data_param"):
            if not layer.HasField(name):
                continue
            param = getattr(layer, name)
            for field in _LEGACY:
                if param.HasField(field):
                    message = f"{name}.{field} is ignored: write it in transform_param"
                    yield context.layer("CIO107", index, message, name, field)
