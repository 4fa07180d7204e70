"""What a layer's PyTorch form writes with: modules, parameters, helper functions, lines of forward.

A form gets the names of its bottoms' variables and returns one expression a top, or a list of one
expression that makes all tops.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from caffeio.errors import UnsupportedError
from caffeio.layers.base import LayerType

Expressions = str | tuple[str, ...] | list[str]
Form = Callable[["TorchText", Any, tuple[str, ...]], Expressions]
F = TypeVar("F", bound=Callable[..., Expressions])
FORMS: dict[type[LayerType], Form] = {}
TAKEN = {"self", "torch", "F", "nn", "math", "Tensor", "Path", "load_model", *keyword.kwlist}


def form(*kinds: type[LayerType]) -> Callable[[F], F]:
    """Register the PyTorch form of the layer types `kinds`, and of those derived from them."""

    def add(function: F) -> F:
        FORMS.update(dict.fromkeys(kinds, function))
        return function

    return add


def form_of(layer: LayerType) -> Form | None:
    """The form of a layer; a type of a third party may have a method `pytorch`."""
    own = getattr(type(layer), "pytorch", None)
    if own is not None:
        return lambda text, it, bottoms: it.pytorch(text, *bottoms)
    return next((FORMS[cls] for cls in type(layer).__mro__ if cls in FORMS), None)


@dataclass
class TorchText:
    """Collects what a module is written of; the tensors are those of its state_dict."""

    setup: list[str] = field(default_factory=list)  # lines of __init__
    tensors: dict[str, Tensor] = field(default_factory=dict)
    helpers: list[str] = field(default_factory=list)  # "module:function", see `copied`
    layer: LayerType | None = None  # the layer that is being written
    _attributes: dict[str, str] = field(default_factory=dict)
    _owners: dict[tuple[int, tuple[int, ...]], str] = field(default_factory=dict)

    def attribute(self, name: str) -> str:
        """A name for a submodule or parameter that is free, after the layer's."""
        base = identifier(name)
        while hasattr(nn.Module, base) or base in self._attributes or base == "training":
            base += "_"
        self._attributes[base] = name
        return base

    def module(self, layer: LayerType, text: str, **tensors: Tensor | None) -> str:
        """Declare a submodule that is made by `text` and holds `tensors`; returns `self.name`."""
        name = self.attribute(layer.name)
        self.setup.append(f"self.{name} = {text}")
        for key, tensor in tensors.items():
            if tensor is not None:
                self._hold(f"{name}.{key}", tensor)
        return f"self.{name}"

    def param(self, layer: LayerType, suffix: str, tensor: Tensor) -> str:
        """Declare a parameter of the module itself; returns `self.name`."""
        name = self.attribute(f"{layer.name}_{suffix}")
        shape = ", ".join(map(str, tensor.shape)) or "()"
        self.setup.append(f"self.{name} = nn.Parameter(torch.empty({shape}))")
        self._hold(name, tensor)
        return f"self.{name}"

    def buffer(self, layer: LayerType, suffix: str, tensor: Tensor) -> str:
        """Declare a constant; returns `self.name`."""
        name = self.attribute(f"{layer.name}_{suffix}")
        shape = ", ".join(map(str, tensor.shape)) or "()"
        self.setup.append(f'self.register_buffer("{name}", torch.empty({shape}))')
        self.tensors[name] = tensor.detach()
        return f"self.{name}"

    def _hold(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor; a blob that layers share is one parameter."""
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tuple(tensor.shape))
        owner = self._owners.setdefault(key, name) if tensor.numel() else name
        if owner != name:
            self.setup.append(f"self.{name} = self.{owner}")
        self.tensors[name] = tensor

    def call(self, function: str, *given: str, **options: Any) -> str:
        """A call of the helper "module:function", whose source goes into the file."""
        if function not in self.helpers:
            self.helpers.append(function)
        options = {key: value for key, value in options.items() if value is not None}
        words = [*given, *(f"{key}={literal(value)}" for key, value in options.items())]
        return f"{function.partition(':')[2]}({', '.join(words)})"

    def unsupported(self, reason: str) -> UnsupportedError:
        """The error for a layer, or a use of it, that has no PyTorch form."""
        layer = self.layer
        assert layer is not None
        return UnsupportedError(
            f"layer {layer.name!r} (type {layer.type_name}) has no PyTorch form: {reason}",
            where=layer.context.where or None,
        )


def identifier(name: str) -> str:
    """A Python identifier as close to `name` as possible."""
    out = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "x"
    if out[0].isdigit():
        out = f"n{out}"
    return f"{out}_" if out in TAKEN or hasattr(builtins, out) else out


def python_number(value: float) -> str:
    """Write a number as Python source: the shortest text, of a float32 where it is one."""
    if isinstance(value, int) or value == int(value if np.isfinite(value) else 0) != 0:
        return repr(value)
    if not np.isfinite(value):
        return f'float("{value}")'
    short = float(str(np.float32(value)))
    return repr(short if np.float32(value) == value else value)


def literal(value: Any) -> str:
    """A Python literal: numbers as `python_number` writes them; text starting with `=` is code."""
    if isinstance(value, str):
        return value[1:] if value.startswith("=") else repr(value)
    if isinstance(value, float):
        return python_number(value)
    if isinstance(value, list | tuple):
        inner = ", ".join(map(literal, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def pair(values: Sequence[int]) -> str:
    """One number where all are equal, else a tuple: as PyTorch takes kernels and strides."""
    return str(values[0]) if len(set(values)) == 1 else literal(tuple(values))


def options(**given: tuple[Any, Any]) -> str:
    """ ", name=value" for each option that is not its default; given as (text, default text)."""
    return "".join(f", {key}={text}" for key, (text, plain) in given.items() if text != plain)


def scaled(x: str, factor: float, offset: float = 0.0) -> str:
    """x * factor + offset, without what changes nothing."""
    if factor != 1:
        x = f"{x} * {python_number(factor)}"
    if not offset:
        return x
    return f"{x} - {python_number(-offset)}" if offset < 0 else f"{x} + {python_number(offset)}"


def relu(x: str, slope: float = 0.0) -> str:
    """max(x, 0) + slope * min(x, 0)."""
    return f"F.leaky_relu({x}, {python_number(slope)})" if slope else f"F.relu({x})"
