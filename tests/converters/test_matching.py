"""Which elements of two sequences belong together."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.converters.diff import matching as module
from caffeio.converters.diff.align import align
from caffeio.converters.diff.matching import matching
from caffeio.proto.files import read_net
from tests.reliability import large

LISTS = st.lists(st.integers(0, 3), max_size=30)


def longest(left: list[int], right: list[int]) -> int:
    """The length of a longest common subsequence, from its definition."""
    rows = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, x in enumerate(left, 1):
        for j, y in enumerate(right, 1):
            best = max(rows[i - 1][j], rows[i][j - 1])
            rows[i][j] = rows[i - 1][j - 1] + 1 if x == y else best
    return rows[-1][-1]


@given(LISTS, LISTS)
def test_long_sequences_keep_as_much_as_can_be(left: list[int], right: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALL", -1)
        pairs = list(matching(left, right))
    assert all(left[i] == right[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    assert len(pairs) == longest(left, right)


@given(LISTS, LISTS)
def test_short_sequences_are_matched_by_blocks(left: list[int], right: list[int]) -> None:
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    want = [(b.a + k, b.b + k) for b in blocks for k in range(b.size)]
    assert list(matching(left, right)) == want


@given(LISTS, LISTS)
def test_sequences_that_differ_much_are_matched_by_kind(left: list[int], right: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALL", -1)
        patch.setattr(module, "MOST_EDITS", 0)
        pairs = list(matching(left, right))
    assert all(left[i] == right[j] for i, j in pairs)
    assert len(pairs) == sum((Counter(left) & Counter(right)).values())
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


@pytest.mark.parametrize("every", [1, 2, 50])
def test_nets_whose_layers_are_all_renamed_take_linear_work(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer has another name, every second or so another type too."""
    monkeypatch.setattr(module, "SMALL", 10_000)
    monkeypatch.setattr(module, "MOST_EDITS", 100)

    def net(count: int, prefix: str) -> str:
        layers = []
        for i in range(count):
            kind = '"TanH"' if prefix and i % every == 0 else '"ReLU"'
            ends = f'bottom: "{prefix}{i}" top: "{prefix}{i + 1}"'
            layers.append(f'layer {{ name: "{prefix}r{i}" type: {kind} {ends} }}')
        return "\n".join(layers)

    def used(count: int) -> dict[object, int]:
        sides = [read_net(net(count, prefix)).message.layer for prefix in ("", "x")]
        return dict(large.work(lambda: align(*sides)))

    used(50)
    few, many = used(1_000), used(4_000)
    for code, count in many.items():
        allowed = 20 * module.MOST_EDITS**2 + 4_000
        assert count < allowed or count < 5 * few.get(code, 1), code
