"""ONNX models out of nets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.converters.onnx.export import export_onnx as export_onnx
    from caffeio.converters.onnx.export import verify_onnx as verify_onnx

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "export_onnx": "caffeio.converters.onnx.export",
        "verify_onnx": "caffeio.converters.onnx.export",
    },
)
