"""Where a net's data come from: databases, image lists, HDF5, transforms, loaders.

`make_source` opens what a data layer names; `DataSource.next` gives its tops batch by batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.data.base import DataSource as DataSource
    from caffeio.data.base import Options as Options
    from caffeio.data.registry import SOURCE_TYPES as SOURCE_TYPES
    from caffeio.data.registry import make_source as make_source
    from caffeio.data.registry import open_source as open_source
    from caffeio.data.sources.memory_data import MemorySource as MemorySource

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "DataSource": "caffeio.data.base",
        "MemorySource": "caffeio.data.sources.memory_data",
        "Options": "caffeio.data.base",
        "SOURCE_TYPES": "caffeio.data.registry",
        "make_source": "caffeio.data.registry",
        "open_source": "caffeio.data.registry",
    },
)
