"""Places for the boxes of a layered graph drawing (after Sugiyama, Tagawa, Toda, 1981).

Layers by longest path, long edges cut by invisible nodes, order by medians of neighbours, then
places by averaging neighbours with a least distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 8


@dataclass
class Box:
    """One node: its size is given, its centre is found. Invisible ones have no width."""

    width: float
    height: float
    rank: int = 0
    x: float = 0.0
    y: float = 0.0
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)


@dataclass
class Drawing:
    """Boxes (the first ones are the given nodes), routes of the edges, the whole size."""

    boxes: list[Box]
    routes: dict[tuple[int, int], list[tuple[float, float]]]
    width: float
    height: float


def layout(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    *,
    gap_x: float = 18.0,
    gap_y: float = 26.0,
) -> Drawing:
    """Place boxes of the given sizes; `edges` go from a lower to a higher index."""
    boxes = [Box(width, height) for width, height in sizes]
    for start, end in sorted(edges, key=lambda edge: (edge[1], edge[0])):
        boxes[end].rank = max(boxes[end].rank, boxes[start].rank + 1)
    chains = {edge: _chain(boxes, edge) for edge in dict.fromkeys(edges)}
    ranks = _ranks(boxes)
    for sweep in range(SWEEPS):
        _reorder(boxes, ranks, down=sweep % 2 == 0)
    _place_x(boxes, ranks, gap_x)
    _place_y(boxes, ranks, gap_y)
    left = min((b.x - b.width / 2 for b in boxes), default=0.0)
    for box in boxes:
        box.x -= left
    routes = {edge: [(boxes[i].x, boxes[i].y) for i in chain] for edge, chain in chains.items()}
    width = max((b.x + b.width / 2 for b in boxes), default=0.0)
    height = max((b.y + b.height / 2 for b in boxes), default=0.0)
    return Drawing(boxes, routes, width, height)


def _chain(boxes: list[Box], edge: tuple[int, int]) -> list[int]:
    """Start, invisible boxes on the ranks between, end."""
    chain = [edge[0]]
    for rank in range(boxes[edge[0]].rank + 1, boxes[edge[1]].rank):
        boxes.append(Box(0.0, 0.0, rank))
        chain.append(len(boxes) - 1)
    chain.append(edge[1])
    for a, b in pairwise(chain):
        boxes[a].below.append(b)
        boxes[b].above.append(a)
    return chain


def _ranks(boxes: list[Box]) -> list[list[int]]:
    ranks: list[list[int]] = [[] for _ in range(max((b.rank for b in boxes), default=-1) + 1)]
    for index, box in enumerate(boxes):
        ranks[box.rank].append(index)
    return ranks


def _reorder(boxes: list[Box], ranks: list[list[int]], *, down: bool) -> None:
    """Sort each rank by the median place of the neighbours on the rank before."""
    place = {index: i for rank in ranks for i, index in enumerate(rank)}
    for rank in ranks if down else reversed(ranks):
        keys = {}
        for i, index in enumerate(rank):
            near = sorted(place[n] for n in (boxes[index].above if down else boxes[index].below))
            keys[index] = (near[len(near) // 2] + near[(len(near) - 1) // 2]) / 2 if near else i
        rank.sort(key=keys.__getitem__)
        place.update({index: i for i, index in enumerate(rank)})


def _place_x(boxes: list[Box], ranks: list[list[int]], gap: float) -> None:
    """Pack each rank, then pull every box towards its neighbours, keeping order and gaps."""
    for rank in ranks:
        x = 0.0
        for index in rank:
            boxes[index].x = x + boxes[index].width / 2
            x += boxes[index].width + gap
        shift = (x - gap) / 2
        for index in rank:
            boxes[index].x -= shift
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for rank in ranks if down else reversed(ranks):
            wanted = []
            for index in rank:
                near = boxes[index].above if down else boxes[index].below
                centre = sum(boxes[n].x for n in near) / len(near) if near else boxes[index].x
                wanted.append(centre)
            _spread(boxes, rank, wanted, gap)


def _spread(boxes: list[Box], rank: list[int], wanted: list[float], gap: float) -> None:
    """Least-squares places in order with least distances (pool adjacent violators)."""
    offsets = [0.0]
    for a, b in pairwise(rank):
        offsets.append(offsets[-1] + (boxes[a].width + boxes[b].width) / 2 + gap)
    blocks: list[tuple[float, int]] = []  # mean of (wanted - offset), members
    for target, offset in zip(wanted, offsets, strict=True):
        mean, members = target - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean = (mean * members + before * count) / (members + count)
            members += count
        blocks.append((mean, members))
    at = 0
    for mean, members in blocks:
        for i in range(at, at + members):
            boxes[rank[i]].x = mean + offsets[i]
        at += members


def _place_y(boxes: list[Box], ranks: list[list[int]], gap: float) -> None:
    y = 0.0
    for rank in ranks:
        height = max((boxes[i].height for i in rank), default=0.0)
        for index in rank:
            boxes[index].y = y + height / 2
        y += height + gap
