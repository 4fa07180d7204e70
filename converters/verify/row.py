"""One layer of a comparison of two models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ComparedLayer:
    """One top: the largest differences over all inputs; `own` is what the layer itself adds.

    `own` is the difference of the layer, run on the other model's bottoms, from the other model's
    top: None where not all of those show.
    """

    layer: str
    kind: str
    blob: str
    shape: tuple[int, ...]
    other: tuple[int, ...] | None = None  # the other model's shape, if it is another
    absolute: float = 0.0
    relative: float = 0.0
    own: float | None = None
