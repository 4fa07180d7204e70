"""Places for the boxes of a layered graph drawing (after Sugiyama, Tagawa, Toda, 1981).

Layers by longest path, long edges cut by invisible nodes, order by medians of neighbours, then
places by averaging neighbours with a least distance. A deep graph may go on in further columns, as
text does on a page, so that all of it can be read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 8
COLUMNS = 12  # at most
ASPECT = 1.1  # width by height of the frame that columns are made for
GUTTER = 44.0  # between columns
LANE = 5.0  # between edges that go to the next column side by side


@dataclass
class LayoutBox:
    """One node: its size is given, its centre is found. Invisible ones have no width."""

    width: float
    height: float
    rank: int = 0
    x: float = 0.0
    y: float = 0.0
    row: float = 0.0  # height of its rank, whose boxes have their centres in line
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)


@dataclass
class Drawing:
    """Boxes (the first ones are the given nodes), routes of the edges, the whole size.

    A route goes straight down through each rank and bends between ranks only, where no box is: its
    pieces are (x, from, to), one a rank.
    """

    boxes: list[LayoutBox]
    routes: dict[tuple[int, int], list[tuple[float, float, float]]]
    width: float
    height: float
    # edge -> where its route goes to the next column: the piece behind this point -> the heights
    # below and above the columns and the place between them
    turns: dict[tuple[int, int], dict[int, tuple[float, float, float]]] = field(
        default_factory=dict
    )


def layout(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    *,
    gap_x: float = 18.0,
    gap_y: float = 26.0,
    columns: bool = False,
) -> Drawing:
    """Place boxes of the given sizes; `edges` go from a lower to a higher index.

    columns: a deep graph may be broken into columns, where that makes it larger in a frame.
    """
    boxes = [LayoutBox(width, height) for width, height in sizes]
    for start, end in sorted(edges, key=lambda edge: (edge[1], edge[0])):
        boxes[end].rank = max(boxes[end].rank, boxes[start].rank + 1)
    chains = {edge: _chain(boxes, edge) for edge in dict.fromkeys(edges)}
    ranks = _ranks(boxes)
    for sweep in range(SWEEPS):
        _reorder(boxes, ranks, down=sweep % 2 == 0)
    _place_x(boxes, ranks, gap_x)
    _place_y(boxes, ranks, gap_y)
    turns = _columns(boxes, ranks, chains, gap_y) if columns else {}
    left = min((b.x - b.width / 2 for b in boxes), default=0.0)
    for box in boxes:
        box.x -= left
    turns = {e: {i: (b, t, x - left) for i, (b, t, x) in at.items()} for e, at in turns.items()}
    routes = {edge: list(_route([boxes[i] for i in chain])) for edge, chain in chains.items()}
    width = max((b.x + b.width / 2 for b in boxes), default=0.0)
    height = max((b.y + b.height / 2 for b in boxes), default=0.0)
    return Drawing(boxes, routes, width, height, turns)


def _route(chain: Sequence[LayoutBox]) -> Iterator[tuple[float, float, float]]:
    """The pieces of an edge's route, from its first box's bottom to its last one's top."""
    for i, box in enumerate(chain):
        start = box.height / 2 if i == 0 else -box.row / 2
        end = -box.height / 2 if i == len(chain) - 1 else box.row / 2
        yield box.x, box.y + start, box.y + end


def _chain(boxes: list[LayoutBox], edge: tuple[int, int]) -> list[int]:
    """Start, invisible boxes on the ranks between, end."""
    chain = [edge[0]]
    for rank in range(boxes[edge[0]].rank + 1, boxes[edge[1]].rank):
        boxes.append(LayoutBox(0.0, 0.0, rank))
        chain.append(len(boxes) - 1)
    chain.append(edge[1])
    for a, b in pairwise(chain):
        boxes[a].below.append(b)
        boxes[b].above.append(a)
    return chain


def _ranks(boxes: list[LayoutBox]) -> list[list[int]]:
    ranks: list[list[int]] = [[] for _ in range(max((b.rank for b in boxes), default=-1) + 1)]
    for index, box in enumerate(boxes):
        ranks[box.rank].append(index)
    return ranks


def _reorder(boxes: list[LayoutBox], ranks: list[list[int]], *, down: bool) -> None:
    """Sort each rank by the median place of the neighbours on the rank before."""
    place = {index: i for rank in ranks for i, index in enumerate(rank)}
    for rank in ranks if down else reversed(ranks):
        keys = {}
        for i, index in enumerate(rank):
            near = sorted(place[n] for n in (boxes[index].above if down else boxes[index].below))
            keys[index] = (near[len(near) // 2] + near[(len(near) - 1) // 2]) / 2 if near else i
        rank.sort(key=keys.__getitem__)
        place.update({index: i for i, index in enumerate(rank)})


def _place_x(boxes: list[LayoutBox], ranks: list[list[int]], gap: float) -> None:
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
            centres = []
            for index in rank:
                near = boxes[index].above if down else boxes[index].below
                centre = sum(boxes[n].x for n in near) / len(near) if near else boxes[index].x
                centres.append(centre)
            _spread(boxes, rank, centres, gap)


def _spread(boxes: list[LayoutBox], rank: list[int], centres: list[float], gap: float) -> None:
    """Least-squares places in order with least distances (pool adjacent violators)."""
    offsets = [0.0]
    for a, b in pairwise(rank):
        offsets.append(offsets[-1] + (boxes[a].width + boxes[b].width) / 2 + gap)
    blocks: list[tuple[float, int]] = []  # mean of (centres - offset), members
    for target, offset in zip(centres, offsets, strict=True):
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


def _place_y(boxes: list[LayoutBox], ranks: list[list[int]], gap: float) -> None:
    y = 0.0
    for rank in ranks:
        height = max((boxes[i].height for i in rank), default=0.0)
        for index in rank:
            boxes[index].y = y + height / 2
            boxes[index].row = height
        y += height + gap


# -- columns -----------------------------------------------------------------------------------

Chains = dict[tuple[int, int], list[int]]
Turns = dict[tuple[int, int], dict[int, tuple[float, float, float]]]


def _columns(boxes: list[LayoutBox], ranks: list[list[int]], chains: Chains, gap: float) -> Turns:
    """Break the ranks into as many columns as show the graph largest; returns the edges' turns."""
    crossing = [0] * len(ranks)  # edges from this rank to the next one
    for chain in chains.values():
        for i in chain[:-1]:
            crossing[boxes[i].rank] += 1
    best, largest = [0], 0.0
    for count in range(1, min(COLUMNS, len(ranks)) + 1):
        starts = _starts(boxes, ranks, crossing, count)
        parts = list(_parts(ranks, starts))
        width = sum(b - a for a, b in (_extent(boxes, part) for part in parts))
        width += GUTTER * (len(parts) - 1)
        height = max(sum(_height(boxes, rank) + gap for rank in part) for part in parts)
        scale = min(ASPECT / width, 1 / height) if width and height else 0.0
        if scale > largest * (1.2 if best == [0] else 1.0):  # one column is easier to read
            best, largest = starts, scale
    _move(boxes, list(_parts(ranks, best)))
    return _turns(boxes, list(_parts(ranks, best)), chains)


def _starts(
    boxes: list[LayoutBox], ranks: list[list[int]], crossing: list[int], count: int
) -> list[int]:
    """The first rank of each column: about equal heights, cut where few edges cross."""
    heights = [_height(boxes, rank) for rank in ranks]
    whole = sum(heights)
    starts, slack = [0], whole / count / 4
    for column in range(1, count):
        cut = whole * column / count
        costs = {}
        done = 0.0
        for i, height in enumerate(heights):
            if i > starts[-1] and abs(done - cut) <= slack:
                costs[i] = crossing[i - 1] + 2 * abs(done - cut) / slack
            done += height
        if costs:
            starts.append(min(costs, key=costs.__getitem__))
    return starts


def _height(boxes: list[LayoutBox], rank: list[int]) -> float:
    return max((boxes[i].height for i in rank), default=0.0)


def _parts(ranks: list[list[int]], starts: list[int]) -> Iterator[list[list[int]]]:
    for a, b in pairwise([*starts, len(ranks)]):
        yield ranks[a:b]


def _extent(boxes: list[LayoutBox], part: list[list[int]]) -> tuple[float, float]:
    """The left and right end of a column."""
    inside = [boxes[i] for rank in part for i in rank]
    return min(b.x - b.width / 2 for b in inside), max(b.x + b.width / 2 for b in inside)


def _move(boxes: list[LayoutBox], parts: list[list[list[int]]]) -> None:
    """Put the columns side by side, each at the top."""
    at = 0.0
    for part in parts:
        left, right = _extent(boxes, part)
        top = min(boxes[i].y - _height(boxes, rank) / 2 for rank in part for i in rank)
        for rank in part:
            for i in rank:
                boxes[i].x += at - left
                boxes[i].y -= top
        at += right - left + GUTTER


def _turns(boxes: list[LayoutBox], parts: list[list[list[int]]], chains: Chains) -> Turns:
    """Where each edge goes from one column to the next, side by side with the others."""
    column = {i: at for at, part in enumerate(parts) for rank in part for i in rank}
    bottoms = [max(boxes[i].y + boxes[i].height / 2 for i in part[-1]) for part in parts]
    rights = [_extent(boxes, part)[1] for part in parts]
    lanes = [0] * len(parts)
    out: Turns = {}
    for edge, chain in chains.items():
        for place, (a, b) in enumerate(pairwise(chain)):
            at = column[a]
            if column[b] == at:
                continue
            shift = LANE * (1 + lanes[at] % 6)  # more lanes than fit share them
            lanes[at] += 1
            turn = (bottoms[at] + 4 + shift, -4 - shift, rights[at] + GUTTER / 2 - 15 + shift)
            out.setdefault(edge, {})[place] = turn
    return out
