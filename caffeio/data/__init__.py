"""Where a net's data come from: databases, image lists, HDF5, transforms, loaders.

`make_source` opens what a data layer names; `DataSource.next` gives its tops batch by batch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffeio.data.base import DataSource as DataSource
    from caffeio.data.base import Options as Options
    from caffeio.data.memory import MemorySource as MemorySource
    from caffeio.data.sources import SOURCE_TYPES as SOURCE_TYPES
    from caffeio.data.sources import make_source as make_source

_HOME = {
    "DataSource": "base",
    "MemorySource": "memory",
    "Options": "base",
    "SOURCE_TYPES": "sources",
    "make_source": "sources",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'caffeio.data' has no attribute {name!r}")
    value = getattr(import_module(f"caffeio.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value
