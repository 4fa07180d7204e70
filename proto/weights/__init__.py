"""Weights and solver states: caffemodel, HDF5, solverstate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.proto.weights.load import load_weights as load_weights

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "load_weights": "caffeio.proto.weights.load",
    },
)
