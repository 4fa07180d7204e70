"""What a layer type is: its text, how many bottoms and tops it takes, its fields. No torch here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from caffeio.errors import UnknownLayerError
from caffeio.layers.registry import find, types_without_torch
from caffeio.proto import caffe_pb2 as pb


@dataclass
class LayerPage:
    """A type with its fields: (message, field, type, default, an enum's values)."""

    type_name: str
    text: str
    bottoms: str
    tops: str
    fields: list[tuple[str, str, str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """A record for --json."""
        names = ("message", "field", "type", "default")
        rows = [dict(zip(names, row, strict=True)) for row in self.fields]
        return {
            "type": self.type_name, "text": self.text, "bottoms": self.bottoms, "tops": self.tops,
            "fields": rows,
        }  # fmt: skip


def layer_page(type_name: str) -> LayerPage:
    """The page of a layer type. Raises UnknownLayerError with the types that may be meant."""
    cls = find(type_name)
    if cls is None:
        folded = {known.lower(): known for known in types_without_torch()}
        close = [folded[name] for name in get_close_matches(type_name.lower(), folded, 3)]
        hint = f": did you mean {' or '.join(close)}?" if close else ": caffeio layers lists them"
        raise UnknownLayerError(f"there is no file and no layer type {type_name!r}{hint}")
    page = LayerPage(type_name, inspect.getdoc(cls) or "", str(cls.bottoms), str(cls.tops))
    for message, known in cls.fields.items():
        inner = pb.LayerParameter.DESCRIPTOR.fields_by_name[message].message_type
        for entry in inner.fields if inner is not None else ():
            if known is None or entry.name in known:
                page.fields.append((message, entry.name, *_told(entry)))
    return page


_TYPES = {1: "double", 2: "float", 3: "int", 4: "int", 5: "int", 8: "bool", 9: "string", 13: "int"}


def _told(entry: Any) -> tuple[str, str]:
    """A field's type and default, in words."""
    if entry.enum_type is not None:
        kind = " | ".join(dict.fromkeys(value.name for value in entry.enum_type.values))
        named = entry.enum_type.values_by_number.get(entry.default_value or 0)
        default = named.name if named is not None and not entry.is_repeated else ""
    else:
        kind = entry.message_type.name if entry.message_type else _TYPES.get(entry.type, "bytes")
        default = "" if entry.message_type or entry.is_repeated else _text(entry.default_value)
    return f"{kind}, repeated" if entry.is_repeated else kind, default


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(
        value, float
    ) else str(value)  # fmt: skip
