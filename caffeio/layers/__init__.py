"""Layer types, one module a family. No torch: the arithmetic is in `caffeio.ops`.

A module here is found by itself; `lookup` and `known_types` import them all.
"""

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names
from caffeio.layers.base import (
    LayerContext,
    LayerType,
    at_least,
    between,
    exactly,
    owns,
)
from caffeio.layers.registry import REGISTRY, known_types, layer, lookup

if TYPE_CHECKING:
    from caffeio.ops.module import Layer

__getattr__, __dir__, _ = lazy_names(__name__, {"Layer": "caffeio.ops.module"})

__all__ = [
    "REGISTRY",
    "Layer",
    "LayerContext",
    "LayerType",
    "at_least",
    "between",
    "exactly",
    "known_types",
    "layer",
    "lookup",
    "owns",
]
