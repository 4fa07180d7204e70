"""Layers that a model tells of itself, so that they come back as layers.

A layer that is many operators in ONNX (DetectionOutput is more than seventy) is noted in the
model's metadata: its message, and the values that it reads and makes, weights included.
`caffeio convert model.onnx out.caffemodel` puts it back where the target has it, and compares the
numbers as always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from caffeio._json import to_json

PREFIX = "caffe:layer:"
LEAST = 4  # operators from which on a layer is worth a note


@dataclass
class Told:
    """One layer: its message as text, the names of its values, and the shapes of its blobs.

    A blob's value may have another shape in the model, with axes of size 1 for broadcasting.
    """

    layer: str
    bottoms: list[str]
    tops: list[str]
    blobs: list[str]
    shapes: list[list[int]] = field(default_factory=list)

    def renamed(self, names: Mapping[str, str]) -> Told:
        """The same with values under other names."""
        bottoms = [names.get(name, name) for name in self.bottoms]
        tops = [names.get(name, name) for name in self.tops]
        return Told(self.layer, bottoms, tops, self.blobs, self.shapes)

    def entry(self) -> tuple[str, str]:
        """Key and value of the metadata."""
        return f"{PREFIX}{self.tops[0]}", to_json(vars(self))


def told_layers(model: Any) -> list[Told]:
    """What a model's metadata tell; what is no note of ours is left out."""
    found = []
    for item in model.metadata_props:
        if item.key.startswith(PREFIX):
            try:
                data = json.loads(item.value)
                names = [[str(n) for n in data[key]] for key in ("bottoms", "tops", "blobs")]
                shapes = [[int(n) for n in shape] for shape in data.get("shapes", [])]
                found.append(Told(str(data["layer"]), names[0], names[1], names[2], shapes))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return found
