"""Changes to parsed messages, as `--set KEY=VALUE` asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from caffeio.errors import CaffeIOError
from caffeio.proto.text.fieldpath import PathStep, parse_assignment, select
from caffeio.proto.text.printer import format_scalar
from caffeio.proto.text.slips import best_match
from caffeio.proto.text.values import find_field, spell, wire_form


def apply_overrides(
    message: Message, overrides: Iterable[str], *, missing_ok: bool = False
) -> list[int]:
    """Set fields of a message in place; returns how many places each override changed.

    An override is `KEY=VALUE`, or `KEY+=VALUE` to append to a repeated field; keys are those of
    `proto.text.fieldpath`, such as `base_lr=0.1` or `layer[data].data_param.source=/x`. Every
    element that a key matches is changed; messages on the way are made where there are none yet.
    Raises CaffeIOError for unknown fields, values of another type, and keys that match nothing
    (unless `missing_ok`).
    """
    counts = []
    for override in overrides:
        steps, operator, value = parse_assignment(override)
        path = ".".join(map(str, steps))
        found = _outer(message, steps[:-1], path)
        count = sum(_set(owner, steps[-1], operator, value, path) for owner in found)
        if not count and not missing_ok:
            raise CaffeIOError(f"{path}: nothing matches{_known(message, steps)}")
        counts.append(count)
    return counts


def _outer(message: Any, steps: list[PathStep], path: str) -> list[Any]:
    """The messages that a path leads to; a missing one is made if the path says which."""
    found = [message]
    for step in steps:
        found = [inner for owner in found for inner in _inner(owner, step, path)]
    return found


def _inner(owner: Any, step: PathStep, path: str) -> list[Any]:
    field = find_field(owner.DESCRIPTOR, step.name, path)
    if field.message_type is None:
        raise CaffeIOError(f"{path}: {step.name} has no fields")
    value = getattr(owner, step.name)
    if not field.is_repeated:
        if step.selectors:
            raise CaffeIOError(f"{path}: {step.name} is not repeated: take away the brackets")
        value.SetInParent()
        return [value]
    chosen = select(list(value), step.selectors, _named, _having)
    if not chosen and (step.new_index if step.selectors else 0) == len(value):
        chosen = [value.add()]
    return chosen


def _named(element: Any, name: str) -> bool:
    if not isinstance(element, Message):
        return str(element) == name
    inner = [element, getattr(element, "layer", None)]
    return any(getattr(item, "name", None) == name for item in inner if item is not None)


def _having(element: Any, key: tuple[str, ...], value: str) -> bool:
    """Whether some value at a path within an element reads `value`."""
    found = [element]
    for i, name in enumerate(key):
        field = found[0].DESCRIPTOR.fields_by_name.get(name) if found else None
        if field is None or (field.message_type is None and i + 1 < len(key)):
            return False
        given = [f for f in found if field.is_repeated or f.HasField(name)]
        values = [getattr(f, name) for f in given]
        found = [item for v in values for item in (v if field.is_repeated else (v,))]
        if field.message_type is None:
            return any(_reads(field, item, value) for item in found)
    return False


def _reads(field: Any, item: Any, value: str) -> bool:
    if isinstance(item, str):
        return item == value
    try:
        return format_scalar(field, item) == value or float(item) == float(value)
    except ValueError:
        return False


def _set(owner: Any, step: PathStep, operator: str, value: str, path: str) -> int:
    """Set the last field of a path in one message; the number of places changed."""
    field = find_field(owner.DESCRIPTOR, step.name, path)
    if operator == "+=" and (not field.is_repeated or step.selectors):
        raise CaffeIOError(f"{path}: += appends to a repeated field")
    if step.selectors and not field.is_repeated:
        raise CaffeIOError(f"{path}: {step.name} is not repeated: take away the brackets")
    new = type(owner).FromString(wire_form(field, spell(field, value, path), path))
    if not step.selectors:
        if operator == "=":
            owner.ClearField(step.name)
        owner.MergeFrom(new)
        return 1
    items, fresh = getattr(owner, step.name), getattr(new, step.name)
    chosen = select(range(len(items)), step.selectors, *_by_index(items))
    if len(fresh) != 1:
        raise CaffeIOError(f"{path}: one value belongs there, not {len(fresh)}")
    if not chosen and step.new_index == len(items):
        owner.MergeFrom(new)
        return 1
    for i in chosen:
        if field.message_type is not None:
            items[i].CopyFrom(fresh[0])
        else:
            items[i] = fresh[0]
    return len(chosen)


def _by_index(items: Any) -> Any:
    return (
        lambda i, name: _named(items[i], name),
        lambda i, key, value: isinstance(items[i], Message) and _having(items[i], key, value),
    )


def _known(message: Any, steps: list[PathStep]) -> str:
    """What could have been chosen at the first step that chooses nothing."""
    owner: Any = message
    for step in steps:
        field = owner.DESCRIPTOR.fields_by_name.get(step.name)
        if field is None or field.message_type is None:
            return ""
        value = getattr(owner, step.name)
        if not field.is_repeated:
            owner = value
            continue
        chosen = select(list(value), step.selectors, _named, _having)
        if not chosen:
            names = [getattr(item, "name", "") for item in value]
            wanted = next((s.value for s in step.selectors if s.kind == "name"), "")
            if close := best_match(wanted, list(dict.fromkeys(filter(None, names)))):
                return f": {step} is not there; did you mean {step.name}[{close}]?"
            listed = ", ".join(dict.fromkeys(filter(None, names[:8])))
            return f": {step} is not there" + (f" (there are {listed} ...)" if listed else "")
        owner = chosen[0]
    return ""
