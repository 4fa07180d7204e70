"""Python layers whose meaning is known: nets with them run without the user's code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from caffeio.layers.registry import L, known_types

if TYPE_CHECKING:
    from caffeio.layers.base import LayerType
    from caffeio.proto.caffe_pb2 import LayerParameter

NATIVE: dict[tuple[str, str], type[LayerType]] = {}


def python_layer(module: str, name: str) -> Callable[[L], L]:
    """Register a Layer class as the meaning of the Python layer `module`.`name`.

    Nets with that layer then run without the user's code and without permission to run it.
    """

    def add(cls: L) -> L:
        if (module, name) in NATIVE:
            raise ValueError(f"Python layer {module}.{name} is already defined")
        NATIVE[module, name] = cls
        return cls

    return add


def native_class(param: LayerParameter) -> type[LayerType] | None:
    """The class registered for the Python layer `param`, by us or by an installed package."""
    code = (param.python_param.module, param.python_param.layer)
    if code not in NATIVE:
        known_types()  # imports what third parties have
    return NATIVE.get(code)
