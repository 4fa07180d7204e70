"""Layers of type Python: the user's own, and stand-ins for well-known ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.layers.python.layer import python_layer as python_layer

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "python_layer": "caffeio.layers.python.layer",
    },
)
