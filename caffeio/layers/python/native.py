"""Python layers whose meaning is known: nets with them run without the user's code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from caffeio.layers.registry import L, known_types, lookup

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


def class_of(
    param: LayerParameter,
    *,
    allow_python: bool = False,
    search_path: Sequence[str] = (),
    where: str | None = None,
) -> type[LayerType]:
    """Find the class that the layer `param` is built with: its type's, or one for its module.

    Raises UnknownLayerError if nobody knows the type.
    """
    cls = lookup(param.type, param.name, where)
    if param.type != "Python":
        return cls
    return stand_in(param, allow_python, search_path) or cls


def stand_in(
    param: LayerParameter, allow_python: bool, search_path: Sequence[str]
) -> type[LayerType] | None:
    """The class registered for the Python layer `param`, unless the user's own is to run.

    A class that only knows the shapes of data gives way to the module that reads them, where that
    is found and may run.
    """
    native = native_class(param)
    if native is None or not native.is_source or not allow_python:
        return native
    return None if _is_there(param.python_param.module, search_path) else native


def _is_there(module: str, folders: Sequence[str]) -> bool:
    from caffeio.layers.python.pycaffe import import_environment

    with import_environment(folders or ("",)):
        try:
            return importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            return False
