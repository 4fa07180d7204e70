"""Random messages of the canonical schema, for hypothesis."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from hypothesis import strategies as st

from caffeio.proto.text.printer import format_scalar

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_WHOLE = {
    3: st.integers(-(2**63), 2**63 - 1),
    4: st.integers(0, 2**64 - 1),
    5: st.integers(-(2**31), 2**31 - 1),
    13: st.integers(0, 2**32 - 1),
}


def _value(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type._concrete_class, depth - 1)
    if field.enum_type is not None:
        # a number of ours for a fork's value must not look like a number in the text
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type in _WHOLE:
        return _WHOLE[field.type]
    special = st.sampled_from([float("inf"), float("-inf"), 0.0, -0.0, 0.1, 1e-5])
    return {
        1: st.one_of(special, st.floats(allow_nan=False)),
        2: st.one_of(special, st.floats(width=32, allow_nan=False)),
        8: st.booleans(),
        9: _TEXT,
        12: st.binary(max_size=8),
    }[field.type]


@st.composite
def messages(draw: Any, kind: type[Message], depth: int = 3) -> Message:
    """A message with a few of its fields set, `depth` messages deep."""
    message = kind()
    fields = [f for f in kind.DESCRIPTOR.fields if depth > 0 or f.message_type is None]
    if not fields:
        return message
    chosen = draw(st.lists(st.sampled_from(fields), max_size=5, unique_by=lambda f: f.name))
    for field in chosen:
        value = _value(field, depth)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(value, max_size=3)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(value))
        else:
            setattr(message, field.name, draw(value))
    return message


@st.composite
def texts(draw: Any, kind: type[Message], depth: int = 3) -> tuple[str, Message]:
    """A message, and its text in some style: lists, braces, separators, comments, line ends."""
    message = draw(messages(kind, depth))
    rng = draw(st.randoms(use_true_random=False))
    newline = rng.choice(["\n", "\n", "\r\n"])
    space = [
        " ",
        "  ",
        "\t",
        newline,
        f" # it's {{a}} comment{newline}",
        f"{newline}  # x: 1{newline}",
    ]
    return "".join(_style(message, rng, space)) + rng.choice(["", newline]), message


def _style(message: Any, rng: Any, space: list[str]) -> list[str]:
    out: list[str] = []
    for field, value in message.ListFields():
        values = list(value) if field.is_repeated else [value]
        whole = field.is_repeated and rng.random() < 0.3
        if whole:
            colon = ":" if field.message_type is None else rng.choice([":", ""])
            items = [_item(field, item, rng, space) for item in values]
            glue = "," + rng.choice(["", " ", rng.choice(space)])
            out.append(f"{field.name}{colon}{rng.choice(['', ' '])}[{glue.join(items)}]")
            out.append(rng.choice(["", ";", ","]) + rng.choice(space))
            continue
        for item in values:
            colon = ": " if field.message_type is None else rng.choice([": ", " ", ""])
            out.append(f"{field.name}{colon}{_item(field, item, rng, space)}")
            out.append(rng.choice(["", "", ";", " ,"]) + rng.choice(space))
    return out


def _item(field: Any, value: Any, rng: Any, space: list[str]) -> str:
    if field.message_type is not None:
        opener, closer = rng.choice(["{}", "<>"])
        return opener + rng.choice(space) + "".join(_style(value, rng, space)) + closer
    text = format_scalar(field, value)
    if field.type in (9, 12) and len(text) > 4 and "\\" not in text and rng.random() < 0.3:
        return f'{text[:2]}"{rng.choice(space)}"{text[2:]}'
    return text
