"""The converters, one file a family of operators."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from caffeio.converters.from_onnx.table import OPERATORS, Converter


def load_operators() -> dict[str, Converter]:
    """Return the table with all converters of this package."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return OPERATORS
