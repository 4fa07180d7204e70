"""Which layers read memory that others have overwritten: found from the types alone, without torch.

A blob is one piece of memory in Caffe. A layer in place overwrites it, Split, Flatten and Reshape
give it further names, and Backward of every layer reads what lies there when the whole forward has
run. Each layer type states what it reads (caffeio/layers/base.py); this finds where that matters.
Sources: src/caffe/net.cpp, blob.cpp (ShareData, ShareDiff), layer.hpp (SetLossWeights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Placed(Protocol):
    """A layer and its place in a net: a Step, or what lint knows of one."""

    layer: Any  # a LayerType
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    loss_weights: tuple[float, ...]
    needs_backward: bool
    fused: Any  # what runs as one step; empty for a layer of its own


@dataclass(eq=False)
class Use:
    """What one step has to do with memory that another one overwrites."""

    bottoms: tuple[int, ...]  # the memory of each bottom
    tops: tuple[int, ...]  # the memory of each top
    in_place: tuple[bool, ...]  # tops that are the bottom of the same index
    stale: tuple[tuple[int, str], ...] = ()  # bottoms overwritten under another name: that name
    overwritten: bool = False  # Backward reads what this or a later layer has overwritten
    writer: int = -1  # the step that writes there last, if so
    lost: bool = False  # its gradient never arrives
    noted: tuple[tuple[int, int], ...] = ()  # tops whose content Backward will ask for: memory
    losses: tuple[tuple[int, int], ...] = ()  # tops in place that have a loss weight: memory


@dataclass(eq=False)
class MemoryPlan:
    """What a net has to do with memory that is overwritten; empty for nearly all nets."""

    uses: list[Use | None]  # one a step
    stale: dict[str, str]  # blobs that were overwritten under another name when all have run
    losses: frozenset[int]  # memory whose gradient is a loss weight, and is left as it is

    @property
    def readers(self) -> list[int]:
        """Indices of the steps whose Backward reads what was overwritten."""
        return [i for i, use in enumerate(self.uses) if use is not None and use.overwritten]


class _Walk:
    """Names, memory and writers of a net, step by step."""

    def __init__(self, steps: Sequence[Placed]) -> None:
        self.memory: dict[str, int] = {}  # of each blob, by its name
        self.written: list[list[int]] = []  # steps that wrote each piece of memory
        self.seen: dict[str, int] = {}  # how often it had been written for this value of the blob
        self.writer: list[str] = []  # the blob that was written last, by memory
        self.signs_lost: dict[int, int] = {}  # memory -> the last step that may change a sign
        self.uses = [self._visit(i, step) for i, step in enumerate(steps)]

    def _visit(self, index: int, step: Placed) -> Use:
        shares = step.layer.shares_memory
        bottoms = tuple(self.memory[name] for name in step.bottoms)
        stale = tuple(
            (i, self.writer[self.memory[name]])
            for i, name in enumerate(step.bottoms)
            if self.is_stale(name)
        )
        tops, in_place = [], []
        for i, name in enumerate(step.tops):
            in_place.append(i < len(bottoms) and step.bottoms[i] == name)
            if in_place[-1] or shares:
                tops.append(bottoms[i] if in_place[-1] else bottoms[0])
            else:
                tops.append(len(self.written))
                self.written.append([])
                self.writer.append(name)
            memory = tops[-1]
            if not shares:
                self.written[memory].append(index)
                self.writer[memory] = name
                if not step.layer.keeps_signs:
                    self.signs_lost[memory] = index
            self.memory[name] = memory
            self.seen[name] = len(self.written[memory])
        return Use(bottoms, tuple(tops), tuple(in_place), stale)

    def is_stale(self, name: str) -> bool:
        """Whether the blob was overwritten under another name."""
        return self.seen[name] != len(self.written[self.memory[name]])


def plan_memory(steps: Sequence[Placed], *, gradients: bool = True) -> MemoryPlan:
    """Find what is overwritten before it is read; without `gradients`, only by a forward."""
    walk = _Walk(steps)
    moved = _moved(steps) if gradients else {}
    noted: set[int] = set()
    losses: set[int] = set()
    for i, (step, use) in enumerate(zip(steps, walk.uses, strict=True)):
        if not gradients:
            continue
        use.lost = step.layer.shares_gradient and moved.get(step.tops[0], -1) > i
        use.overwritten = not step.fused and _is_overwritten(i, step, use, walk)
        if use.overwritten:
            noted.update(use.bottoms, use.tops)
            use.writer = max(walk.written[m][-1] for m in (*use.bottoms, *use.tops))
        use.losses = tuple(
            (j, use.tops[j])
            for j, weight in enumerate(step.loss_weights)
            if weight and use.in_place[j]
        )
        losses.update(memory for _, memory in use.losses)
    noted.update(losses)
    for use in walk.uses:
        use.noted = tuple((j, memory) for j, memory in enumerate(use.tops) if memory in noted)
    stale = {name: walk.writer[walk.memory[name]] for name in walk.memory if walk.is_stale(name)}
    uses = [
        use if use.stale or use.overwritten or use.lost or use.noted or use.losses else None
        for use in walk.uses
    ]
    return MemoryPlan(uses, stale, frozenset(losses))


def _moved(steps: Sequence[Placed]) -> dict[str, int]:
    """Find the last Flatten that reads each blob: it takes away what Reshape shares.

    Reshape (and Concat and Slice of one blob) let top and bottom have one gradient, and do nothing
    in Backward. Flatten's Backward gives its bottom the memory of its top's gradient: what the
    layer above wrote there, the blob below Reshape never sees. It keeps its zeros.
    """
    return {
        step.bottoms[0]: i
        for i, step in enumerate(steps)
        if step.layer.moves_gradient and step.needs_backward
    }


def _is_overwritten(index: int, step: Placed, use: Use, walk: _Walk) -> bool:
    layer = step.layer
    if layer.writes_early and any(use.in_place):
        return True
    if layer.reads_top and any(walk.written[m][-1:] > [index] for m in use.tops):
        return True
    reads = layer.reads_bottoms
    for i, memory in enumerate(use.bottoms):
        if reads is not None and i not in reads:
            continue
        if layer.reads_signs and walk.signs_lost.get(memory, -1) < index:
            continue
        if walk.written[memory][-1:] >= [index]:
            return True
    return False
