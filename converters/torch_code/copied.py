"""The source text of helper functions, with all of our own that they call."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

OWN = "caffeio."


class Copied:
    """Functions and constants in the order in which a module can define them, and its imports."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.imports: set[str] = set()

    def add(self, function: str) -> None:
        """Add "module:function" and what it needs of ours."""
        module, _, name = function.partition(":")
        self._add(getattr(import_module(module), name))

    def _add(self, function: Any) -> None:
        plain = inspect.unwrap(function)
        name = plain.__name__
        if name in self.parts:
            return
        source = inspect.getsource(plain)
        self.parts[name] = ""  # functions that call each other
        for used in sorted(_names(source) - {name}):
            if used in plain.__globals__:
                self._need(used, plain.__globals__[used])
        del self.parts[name]
        self.parts[name] = source

    def _need(self, name: str, value: Any) -> None:
        home = getattr(value, "__module__", None)
        if isinstance(value, ModuleType):
            path = value.__name__
            self.imports.add(f"import {path}" if path == name else f"import {path} as {name}")
        elif inspect.isfunction(inspect.unwrap(value)) and str(home).startswith(OWN):
            self._add(value)
        elif isinstance(value, bool | int | float | str | tuple):
            self.parts.setdefault(name, f"{name} = {value!r}\n")
        elif value is not torch.Tensor and home:
            self.imports.add(f"from {home} import {name}")


def _names(source: str) -> set[str]:
    """All names that a piece of source reads."""
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
