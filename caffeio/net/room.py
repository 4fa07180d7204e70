"""How much memory a net needs, before it takes any; and which layer wanted what was not there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from caffeio.errors import OutOfMemoryError
from caffeio.memory import bytes_text, check_room, free_bytes, layer_of, memory_error
from caffeio.net.step import LearnableParam, Shape, Step

_FLOAT = 4  # bytes


class Sized(Protocol):
    """What is asked of a net to say how large it is."""

    steps: list[Step]
    learnable: list[LearnableParam]
    blob_shapes: dict[str, Shape]

    @property
    def name(self) -> str:
        """The name of the net."""


class Estimate(NamedTuple):
    """Bytes that a training needs at least; without the workspace of the layers."""

    weights: int  # with the test nets' own
    training: int  # gradients and history
    blobs: int  # of the training net, all of them kept for its backward pass
    tests: int  # the blobs of the largest test net

    @property
    def total(self) -> int:
        """The sum of all parts, in bytes."""
        return sum(self)

    def __str__(self) -> str:
        parts = (
            (self.weights, "weights"),
            (self.training, "gradients and history"),
            (self.blobs, "blobs"),
            (self.tests, "blobs of a test net"),
        )
        words = [f"{bytes_text(n)} of {what}" for n, what in parts if n]
        return f"about {bytes_text(self.total)}: {', '.join(words)}"


def estimate(net: Sized, tests: Iterable[Sized], history: int) -> Estimate:
    """What a training of `net` needs; `history` is the number of its solver's tensors a blob."""
    weights = sum(_size(item.tensor.shape) for item in net.learnable)
    blobs = [blob_bytes(test) for test in tests]
    return Estimate(weights, weights * (1 + history), blob_bytes(net), max(blobs, default=0))


def _size(shape: Iterable[int]) -> int:
    return _FLOAT * math.prod(shape)


def blob_bytes(net: Sized) -> int:
    """Bytes of all blobs of one forward pass; in-place layers and splits take none."""
    seen = {step.bottoms[0]: step.tops for step in net.steps if step.node.type == "Split"}
    aliases = {top for tops in seen.values() for top in tops}
    return sum(_size(shape) for name, shape in net.blob_shapes.items() if name not in aliases)


def check_weights(net: Sized) -> None:
    """Raise OutOfMemoryError if the blobs of the layers do not fit; names the largest."""
    sizes = [
        (_size(spec.shape), step.node.name, step.node.type)
        for step in net.steps
        for spec in step.layer.blob_specs
    ]
    if not sizes:
        return
    largest, name, type_name = max(sizes)
    where = f"net {net.name!r}, the largest blob is layer {name!r}'s (type {type_name}): "
    check_room(sum(size for size, _, _ in sizes), f"{where}{bytes_text(largest)}")


def warn_of(needed: Estimate) -> str | None:
    """A warning if a training needs more than is free."""
    free = free_bytes()
    if free is None or needed.total <= free:
        return None
    return f"This training needs {needed}; {bytes_text(free)} are free: it may not fit"


def named(error: BaseException) -> OutOfMemoryError:
    """The user's error for an allocation that failed, with the layer that was running."""
    return memory_error(error, layer_of(error) or "backward or update")
