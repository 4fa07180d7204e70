"""Layers of a prepared net that run on a few images at a time, so that blobs stay in the cache.

A blob of tens of megabytes is written to memory and read back, and the system gives its pages anew
in every forward: a third of a MobileNet's time, a tenth of a GoogLeNet's. How many images run at a
time follows from the sizes of the blobs and the number of threads alone, never from a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from caffeio.net.values import Operation, Program
from caffeio.ops.folded_conv import FoldedConvolution

# Bytes that a layer reads and writes for the images that run at a time: less is slower, as oneDNN
# works best on many positions; more leaves a cache of 32 MB, and what malloc keeps for the next.
BUDGET = 24 << 20
A_THREAD = 12 << 20  # the same for each thread where there are more than two
Call = tuple[Callable[..., Any], Sequence[int], Sequence[int], Sequence[int]]


def call_of(operation: Operation) -> Call:
    """What is called, the values that it reads and writes, and those that are free behind it."""
    return operation.run, operation.reads, operation.writes, operation.free_after


def run_calls(calls: Sequence[Call], values: list[Any]) -> None:
    """Run `calls` on the numbered `values`."""
    for run, reads, writes, free in calls:
        made = run(*[values[i] for i in reads])
        if isinstance(made, tuple):
            for value, top in zip(writes, made, strict=True):
                values[value] = top
        elif writes:
            values[writes[0]] = made
        for value in free:
            values[value] = None


def parts_of(program: Program) -> list[Callable[[list[Any]], None]]:
    """What runs the program on its numbered values, part by part."""
    parts: list[Callable[[list[Any]], None]] = []
    for apart, operations in groupby(program.operations, _works_apart):
        group = list(operations)
        if apart:
            parts.append(ImageSlices(group))
        else:
            parts.append(partial(run_calls, [call_of(operation) for operation in group]))
    return parts


def _works_apart(operation: Operation) -> bool:
    layer: Any = operation.step.layer
    shapes = (*_bottoms_of(operation), *layer.top_shapes)
    if any(len(shape) != 4 or 0 in shape for shape in shapes):
        return False
    if len({shape[0] for shape in shapes}) != 1:
        return False
    return isinstance(operation.run, FoldedConvolution) or bool(layer.by_image)


@dataclass
class Plan:
    """Which of a group's operations run on slices, and how many images each slice has."""

    first: int = 0
    last: int = 0
    counts: tuple[int, ...] = ()  # empty: all run on the whole batch
    key: tuple[Any, ...] = ()  # the shapes and the number of threads that it was made for


class ImageSlices:
    """Some operations in a row, those with large blobs on a few images at a time."""

    def __init__(self, group: Sequence[Operation]) -> None:
        """`group` is not empty, and all of it works image by image."""
        self._group = group
        self._calls = [call_of(operation) for operation in group]
        self._bytes = [_bytes_of(operation) for operation in group]
        self._left = _left_behind(group)
        self._built = _bottoms_of(group[0])[0]
        made = {value for operation in group for value in operation.writes}
        self._reads = [v for operation in group for v in operation.reads if v not in made]
        self._plan = Plan()

    def __call__(self, values: list[Any]) -> None:
        """Run the group on the numbered `values`."""
        key = (*(values[value].shape for value in self._reads), torch.get_num_threads())
        plan = self._plan  # looked at once: another thread may run the net on another batch
        if key != plan.key:
            plan = self.plan([values[value] for value in self._reads])
            plan.key = key
            self._plan = plan
        if not plan.counts:
            run_calls(self._calls, values)
            return
        run_calls(self._calls[: plan.first], values)
        self._run_sliced(values, plan)
        run_calls(self._calls[plan.last :], values)

    def plan(self, bottoms: Sequence[Tensor]) -> Plan:
        """Find what runs on slices for bottoms like these."""
        batch = bottoms[0].shape[0] if bottoms[0].dim() else 0
        fit = (x.shape[:1] == (batch,) and x.numel() and x.device.type == "cpu" for x in bottoms)
        if batch < 2 or not all(fit):
            return Plan()
        scale = bottoms[0].numel() / batch / prod(self._built[1:])
        budget = max(BUDGET, A_THREAD * torch.get_num_threads()) / scale
        large = [i for i, size in enumerate(self._bytes) if size * batch > budget]
        if not large:
            return Plan()
        first, last = large[0], large[-1] + 1
        while last < len(self._left) and self._left[last] < self._left[last - 1]:
            last += 1  # less is gathered behind a layer that makes less of it
        most = max(1, int(budget / max(self._bytes[first:last])))
        parts = ceil(batch / most)
        counts = tuple(batch // parts + (i < batch % parts) for i in range(parts))
        for operation in self._group[first:last]:
            if isinstance(operation.run, FoldedConvolution):
                operation.run.forms = len(set(counts))
        return Plan(first, last, counts)

    def _run_sliced(self, values: list[Any], plan: Plan) -> None:
        calls = self._calls[plan.first : plan.last]
        made = {value for _, _, writes, _ in calls for value in writes}
        free = {value for _, _, _, gone in calls for value in gone}
        taken = {v for _, reads, _, _ in calls for v in reads if v not in made}
        whole: dict[int, Tensor] = {}
        start, batch = 0, sum(plan.counts)
        for count in plan.counts:
            part: list[Any] = [None] * len(values)
            for value in taken:
                part[value] = values[value].narrow(0, start, count)
            run_calls(calls, part)
            for value in made - free:
                if value not in whole:
                    whole[value] = _room_for(part[value], batch)
                whole[value].narrow(0, start, count).copy_(part[value])
            start += count
        for value in taken & free:
            values[value] = None
        for value, top in whole.items():
            values[value] = top


def _bottoms_of(operation: Operation) -> Sequence[Sequence[int]]:
    """The shapes of what the operation reads, in the net as it was built."""
    run, shapes = operation.run, operation.step.layer.bottom_shapes
    if isinstance(run, FoldedConvolution) and run.adds:  # the step is that of the sum
        return *run.layer.bottom_shapes, shapes[0]
    return shapes


def _bytes_of(operation: Operation) -> int:
    shapes = *_bottoms_of(operation), *operation.step.layer.top_shapes
    return 4 * sum(prod(shape[1:]) for shape in shapes)


def _left_behind(group: Sequence[Operation]) -> list[int]:
    """What is alive behind each operation of what the group has made, in values an image."""
    alive: dict[int, int] = {}
    left = []
    for operation in group:
        shapes = operation.step.layer.top_shapes
        alive.update((v, prod(s[1:])) for v, s in zip(operation.writes, shapes, strict=True))
        for value in operation.free_after:
            alive.pop(value, None)
        left.append(sum(alive.values()))
    return left


def _room_for(part: Tensor, batch: int) -> Tensor:
    last = part.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty((batch, *part.shape[1:]), dtype=part.dtype, memory_format=form)
