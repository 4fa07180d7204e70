"""Which elements of two long sequences belong together, in time that grows with their length."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

SMALL = 250_000  # product of the lengths up to which every pair may be looked at
MOST_EDITS = 1000  # of a shortest edit script; its square is the work

Pairs = Iterator[tuple[int, int]]


def matching(left: Sequence[int], right: Sequence[int]) -> Pairs:
    """Pairs of places (left, right) with equal elements, in order.

    Short sequences are matched by their longest common blocks, long ones by a shortest edit script
    (Myers, "An O(ND) Difference Algorithm", 1986) if it is short. Else the first of a kind goes
    with the first, the second with the second: then pairs may cross each other.
    """
    if len(left) * len(right) <= SMALL:
        yield from _blocks(left, right)
        return
    begin, shortest = 0, min(len(left), len(right))
    while begin < shortest and left[begin] == right[begin]:
        begin += 1
    end = 0
    while end < shortest - begin and left[-1 - end] == right[-1 - end]:
        end += 1
    yield from ((i, i) for i in range(begin))
    a, b = left[begin : len(left) - end], right[begin : len(right) - end]
    if len(a) * len(b) <= SMALL:
        inner = _blocks(a, b)
    else:
        script = _edit_script(a, b)
        inner = iter(script) if script is not None else _by_kind(a, b)
    yield from ((begin + i, begin + j) for i, j in inner)
    yield from ((len(left) - k, len(right) - k) for k in range(end, 0, -1))


def _blocks(left: Sequence[int], right: Sequence[int]) -> Pairs:
    for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        yield from ((block.a + k, block.b + k) for k in range(block.size))


def _edit_script(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]] | None:
    """The elements that a shortest edit script keeps; None if it has too many edits."""
    zero = MOST_EDITS + 1  # index of the diagonal on which left and right places are equal
    furthest = array("q", [0]) * (2 * zero + 1)  # on each diagonal, the furthest place in `left`
    rounds: list[array[int]] = []
    for edits in range(MOST_EDITS + 1):
        rounds.append(furthest[zero - edits - 1 : zero + edits + 2])
        for diagonal in range(-edits, edits + 1, 2):
            down = _is_down(furthest, zero + diagonal, diagonal, edits)
            x = furthest[zero + diagonal + 1] if down else furthest[zero + diagonal - 1] + 1
            y = x - diagonal
            while x < len(left) and y < len(right) and left[x] == right[y]:
                x, y = x + 1, y + 1
            furthest[zero + diagonal] = x
            if x >= len(left) and y >= len(right):
                return _trace(rounds, len(left), len(right))
    return None


def _is_down(furthest: array[int], at: int, diagonal: int, edits: int) -> bool:
    """Whether a diagonal is reached by taking an element of `right` alone, not of `left`."""
    if abs(diagonal) == edits:
        return diagonal == -edits
    return furthest[at - 1] < furthest[at + 1]


def _trace(rounds: Sequence[array[int]], x: int, y: int) -> list[tuple[int, int]]:
    """Walk an edit script back from its end."""
    out: list[tuple[int, int]] = []
    for edits in range(len(rounds) - 1, -1, -1):
        furthest, diagonal = rounds[edits], x - y
        at = edits + 1 + diagonal
        down = _is_down(furthest, at, diagonal, edits)
        begin = furthest[at + 1] if down else furthest[at - 1] + 1
        while x > begin:
            x, y = x - 1, y - 1
            out.append((x, y))
        x, y = (x, y - 1) if down else (x - 1, y)
    return out[::-1]


def _by_kind(left: Sequence[int], right: Sequence[int]) -> Pairs:
    places: dict[int, deque[int]] = defaultdict(deque)
    for j, kind in enumerate(right):
        places[kind].append(j)
    for i, kind in enumerate(left):
        if places.get(kind):
            yield i, places[kind].popleft()
