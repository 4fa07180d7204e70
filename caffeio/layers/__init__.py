"""One module a layer family; importing this package registers them all."""

from importlib import import_module
from pkgutil import walk_packages

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

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
