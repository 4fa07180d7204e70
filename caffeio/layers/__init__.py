"""One module a layer family; importing this package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from caffeio.layers.base import (
    REGISTRY,
    Layer,
    LayerContext,
    at_least,
    between,
    exactly,
    known_types,
    layer,
    lookup,
)

__all__ = [
    "REGISTRY",
    "Layer",
    "LayerContext",
    "at_least",
    "between",
    "exactly",
    "known_types",
    "layer",
    "lookup",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
