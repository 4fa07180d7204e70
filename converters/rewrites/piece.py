"""What a rewrite works with: the layer, its blobs, the shapes around it, and the new layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.schema import Schema

Array = np.ndarray
Shape = tuple[int, ...]


class CannotRewriteError(Exception):
    """Raised inside a rewrite for a use that has no exact form; its text says why."""


@dataclass
class Piece:
    """A layer to be rewritten, and the layers that take its place.

    `arrays` are its blobs as the file has them (empty where it holds none), `bottoms` the shapes of
    its bottoms as far as they are known. New layers get free names that begin with the layer's; the
    last one makes the layer's top.
    """

    old: Any
    arrays: Sequence[Array]
    bottoms: Sequence[Shape | None]
    target: Schema
    free: Callable[[str], str]
    new: list[tuple[Any, list[Array]]] = field(default_factory=list)

    def add(
        self,
        type_name: str,
        bottoms: Sequence[str],
        top: str | Sequence[str],
        suffix: str = "",
        blobs: Sequence[Array] = (),
    ) -> Any:
        """Append a layer; without a suffix it has the old one's name. Returns its message."""
        name = self.free(f"{self.old.name}_{suffix}") if suffix else self.old.name
        tops = [top] if isinstance(top, str) else list(top)
        layer = pb.LayerParameter(name=name, type=type_name, bottom=list(bottoms), top=tops)
        if self.old.HasField("phase"):
            layer.phase = self.old.phase
        layer.include.extend(self.old.include)
        layer.exclude.extend(self.old.exclude)
        self.new.append((layer, [np.asarray(b, np.float32) for b in blobs]))
        return layer

    def blob(self, suffix: str) -> str:
        """A free name for a blob."""
        return self.free(f"{self.old.name}_{suffix}")

    def shape(self, index: int = 0) -> Shape:
        """The shape of a bottom, all of it known."""
        shape = self.bottoms[index] if index < len(self.bottoms) else None
        if shape is None or any(n < 0 for n in shape):
            raise CannotRewriteError("the shape of its bottom is not known (give --input-shape)")
        return shape

    def channels(self) -> int:
        """The channels of the first bottom, by its shape or by the blobs."""
        shape = self.bottoms[0] if self.bottoms else None
        if shape is not None and len(shape) > 1 and shape[1] > 0:
            return shape[1]
        if self.arrays:
            return int(self.arrays[0].shape[0])
        raise CannotRewriteError("its channels are not known (give --input-shape)")

    def has(self, type_name: str) -> bool:
        """Whether the target has a layer type."""
        return type_name in self.target.layer_types


Rewrite = Callable[[Piece], None]
REWRITES: dict[str, Rewrite] = {}


def rewrite(*kinds: str) -> Callable[[Rewrite], Rewrite]:
    """Register how layers of the types `kinds` are said where there is no such type."""

    def add(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(kinds, function))
        return function

    return add
