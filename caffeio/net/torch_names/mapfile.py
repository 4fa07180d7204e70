"""`--map FILE`: which PyTorch module belongs to which Caffe layer.

# Caffe layer = PyTorch module
prefix = module.
conv1 = conv1
bn_conv1 = bn1
scale_conv1 = bn1
skip = aux.*
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from caffeio.errors import CaffeIOError
from caffeio.proto.io.regular import read_utf8


@dataclass
class NameMap:
    """Caffe layer -> PyTorch module; `prefix` goes before all modules, `skip` are left alone."""

    modules: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    skip: list[str] = field(default_factory=list)
    fold: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)  # of each Caffe layer: file:line

    def module(self, layer: str) -> str:
        """The module of a layer: its own name if the map says nothing."""
        return self.prefix + self.modules.get(layer, layer)

    def skips(self, name: str) -> bool:
        """Whether a tensor may be left over."""
        inner = name.removeprefix(self.prefix)
        return any(fnmatchcase(inner, pattern) for pattern in self.skip)


def read_map(path: str | os.PathLike[str] | None) -> NameMap:
    """Read a map; without a path every layer has its own name. Raises CaffeIOError."""
    out = NameMap()
    if path is None:
        return out
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        plain = line.split("#", 1)[0].strip()
        if not plain:
            continue
        left, equals, right = (part.strip() for part in plain.partition("="))
        place = f"{path}:{number}"
        if not equals or not left or (not right and left != "prefix"):
            raise CaffeIOError(f"{plain!r} is no line like LAYER = MODULE", where=place)
        if left == "prefix":
            out.prefix = right
        elif left == "skip":
            out.skip.append(right)
        elif left == "fold":
            out.fold.append(right)
        elif left in out.modules:
            raise CaffeIOError(f"layer {left!r} is named twice", where=place)
        else:
            out.modules[left], out.places[left] = right, place
    return out
