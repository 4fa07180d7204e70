"""Prototxt: reading with places, editing in place, printing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.proto.text.text_format import parse as parse

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "parse": "caffeio.proto.text.text_format",
    },
)
