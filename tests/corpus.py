"""The public nets of the reference material: all of them by night, most by day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.paths import NIGHT

LONG = 30_000
_SMALLER = {
    "rfb320": {"input": (1, 3, 120, 160)},
    "waifu_upconv7": {"input": (1, 3, 46, 54)},
    "waifu_upresnet10": {"input": (1, 3, 54, 54)},
    "wechat_sr": {"data": (1, 1, 56, 72)},
    "yuface_v1": {"data": (1, 3, 120, 160)},
}
_WORDS = re.compile(rb"\b(?:type|phase|backend|pool|method|code_type)\s*:\s*\"?\w+")


def smaller(name: str) -> dict[str, tuple[int, ...]]:
    """The inputs of a public model by day, if its own are large.

    Smaller pictures go the same way, in a tenth of the time.
    """
    return {} if NIGHT else _SMALLER.get(name, {})


def by_day(paths: Sequence[Path]) -> list[Path]:
    """The paths in their order, by day without long texts with the layer types of shorter ones.

    Three quarters of all layers are in a fifth of the texts: deep residual nets of blocks that
    shorter relatives have as well.
    """
    if NIGHT:
        return list(paths)
    chosen, seen = set(), set[bytes]()
    for path in sorted(paths, key=lambda path: path.stat().st_size):
        text = path.read_bytes()
        words = set(_WORDS.findall(text))
        if len(text) <= LONG or words - seen:
            chosen.add(path)
        seen |= words
    return [path for path in paths if path in chosen]
