"""Which iterations are shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from caffeio.profiles import PROFILES
from caffeio.training.display import Display


def shown(profile: str, every: int, count: int, *, start: int = 0) -> list[int]:
    """The iterations whose loss `step(count)` shows."""
    chosen = PROFILES[profile]
    state: Any = SimpleNamespace(
        param=SimpleNamespace(display=every), profile=chosen, iter=start,
        shows_as_nvidia=chosen.display_rule == "nvidia",
    )  # fmt: skip
    display = Display(state)
    display.begin(start + count)
    out = []
    for state.iter in range(start, start + count):
        if display.due:
            out.append(state.iter)
    return out


@pytest.mark.parametrize("profile", ["bvlc", "intel"])
def test_bvlc_shows_what_display_divides(profile: str) -> None:
    assert shown(profile, 5, 12) == [0, 5, 10]
    assert shown(profile, 5, 6, start=8) == [10]
    assert shown(profile, 0, 6) == []


def test_nvidia_also_shows_the_first_three_and_the_last() -> None:
    """Counted from where this call of `step` begins, and where it ends."""
    assert shown("nvidia", 5, 12) == [0, 1, 2, 5, 10, 11]
    assert shown("nvidia", 5, 8, start=8) == [8, 9, 10, 15]
    assert shown("nvidia", 0, 6) == []
