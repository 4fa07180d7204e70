"""Which Caffe a file is of, and what its numbers mean there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.proto.dialect.dialect import detect as detect

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "detect": "caffeio.proto.dialect.dialect",
    },
)
