"""Axes in another order, in a Caffe without Permute: reshapes, and one axis after another moved.

An axis moves by a Slice into single indices and a Concat before the axis that it is to precede.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Dims = tuple[int, ...]
MOST_PIECES = 512  # tops of one Slice


@dataclass(frozen=True)
class Reshaped:
    """The blob in another shape; `batch` is the axis that grows with the batch, if any does."""

    shape: Dims
    batch: int | None
    hint: str


@dataclass(frozen=True)
class Moved:
    """The indices of `axis` one by one, put together along `along`: of size `pieces` before."""

    axis: int
    along: int
    pieces: int
    shape: Dims  # afterwards


Step = Reshaped | Moved


def permuted(shape: Dims, order: Sequence[int]) -> Dims:
    """The shape with its axes in another order."""
    return tuple(shape[axis] for axis in order)


def keeps_memory(shape: Dims, order: Sequence[int], batch: int | None = None) -> bool:
    """Whether only axes of size 1 move, so that a Reshape does it; the batch may be any size."""
    wide = [axis for axis in order if shape[axis] != 1 or axis == batch]
    return wide == sorted(wide)


def permute_steps(shape: Dims, order: Sequence[int], batch: int | None = None) -> list[Step]:
    """What brings the axes of a blob into `order`, Reshapes that change nothing among it.

    `batch` is the axis that may have any size, if there is one.
    """
    to = None if batch is None else list(order).index(batch)
    end = Reshaped(permuted(shape, order), to, "reshape")
    if keeps_memory(shape, order, batch):
        return [end]
    wide = [axis for axis in order if shape[axis] != 1 or axis == batch]
    groups = _groups(shape, wide, batch)
    places = sorted(range(len(groups)), key=lambda i: groups[i][0])
    sizes = tuple(math.prod(shape[a] for a in groups[i]) for i in places)
    goal = [places.index(i) for i in range(len(groups))]
    at = None if batch is None else next(k for k, i in enumerate(places) if batch in groups[i])
    steps: list[Step] = [Reshaped(sizes, at, "axes")]
    current = list(range(len(groups)))
    while current != goal:
        i, j = _best_move(sizes, current, goal, at)
        current.insert(j, current.pop(i))
        steps += _insertion(sizes, i, j, at)
        moved = list(range(len(sizes)))
        moved.insert(j, moved.pop(i))
        sizes, at = permuted(sizes, moved), None if at is None else moved.index(at)
    return [*steps, end]


def _groups(shape: Dims, order: Sequence[int], batch: int | None) -> list[list[int]]:
    """Axes that stay behind each other are one; the batch stays alone."""
    groups: list[list[int]] = []
    for axis in order:
        last = groups[-1][-1] if groups else None
        follows = (
            last is not None
            and last < axis
            and batch not in (last, axis)
            and all(shape[a] == 1 and a != batch for a in range(last + 1, axis))
        )
        if follows:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _best_move(
    sizes: Dims, current: list[int], goal: list[int], batch: int | None
) -> tuple[int, int]:
    """The axis to move next, and to where: nearest to the goal, then cheapest in tops."""
    best: tuple[tuple[int, int], int, int] | None = None
    for i in range(len(current)):
        for j in range(len(current)):
            after = current[:i] + current[i + 1 :]
            after.insert(j, current[i])
            left = _disorder(after, goal)
            if i == j or left >= _disorder(current, goal):
                continue
            pieces = sizes[i] if batch != i else MOST_PIECES * 2  # the batch is any
            if best is None or (left, pieces) < best[0]:
                best = ((left, pieces), i, j)
    assert best is not None
    return best[1:]


def _disorder(current: list[int], goal: list[int]) -> int:
    """The moves that are left: the axes that are not in the longest part in the right order."""
    rank = [goal.index(axis) for axis in current]
    longest = [1] * len(rank)
    for i in range(len(rank)):
        for j in range(i):
            if rank[j] < rank[i]:
                longest[i] = max(longest[i], longest[j] + 1)
    return len(rank) - max(longest)


def _insertion(shape: Dims, i: int, j: int, batch: int | None) -> Iterator[Step]:
    """Axis i becomes axis j: one slice for each index, put together before another axis."""
    rest = [n for k, n in enumerate(shape) if k != i]
    out = (*rest[:j], shape[i], *rest[j:])
    order = [k for k in range(len(shape)) if k != i]
    order.insert(j, i)
    if j == len(rest):
        yield Reshaped((*shape, 1), batch, "axis")
        shape = (*shape, 1)
    along = len(shape) - 1 if j == len(rest) else order[j + 1]
    pieces = shape[i]
    joined = [1 if k == i else n for k, n in enumerate(shape)]
    joined[along] *= pieces
    yield Moved(i, along, pieces, tuple(joined))
    yield Reshaped(out, None if batch is None else order.index(batch), "reshape")
