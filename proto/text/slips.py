"""Which known name a wrong one may be a slip of, and when it is safe to put it in its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Names of V1 layers, in place of which today's layers have something of another form.
OF_V1_LAYERS = {
    "blobs_lr": "it is of V1 `layers`; write `param { lr_mult: ... }` once for each blob",
    "weight_decay": "it is of V1 `layers`; write `param { decay_mult: ... }` once for each blob",
}
_OPPOSITES = ("un", "de", "non", "in")  # UNPOOLING is no slip of POOLING


def best_match(name: str, known: Iterable[str]) -> str | None:
    """Return the entry of `known` that `name` is probably a slip of, or None."""
    stem = name.removesuffix("_param")
    stems = {
        entry.removesuffix("_param").lower(): entry
        for entry in known
        if stem == name or entry.endswith("_param")
    }
    if any(stem.lower() == prefix + entry for prefix in _OPPOSITES for entry in stems):
        return None
    for found in difflib.get_close_matches(stem.lower(), list(stems), 3, 0.7):
        if _means_the_same(stem.lower(), found):
            return stems[found]
    return None


def _means_the_same(wrong: str, right: str) -> bool:
    """Whether two similar words can be one: digits, prefixes and axis letters say otherwise."""
    if re.findall(r"\d", wrong) != re.findall(r"\d", right):
        return False
    if any(wrong == prefix + right or right == prefix + wrong for prefix in _OPPOSITES):
        return False
    ours, theirs = wrong.split("_"), right.split("_")
    if len(ours) != len(theirs):
        return True
    # kernel_d, kernel_depth and kernel_shape are no kernel_h
    return all(a == b or min(len(a), len(b)) > 1 for a, b in zip(ours, theirs, strict=True))


def is_slip(wrong: str, right: str) -> bool:
    """Whether `wrong` is `right` with one slip (two in long words): a letter more, less, other."""
    if not _means_the_same(wrong.lower(), right.lower()):
        return False
    return _edits(wrong, right) <= (2 if len(right) >= 8 else 1)


def _edits(a: str, b: str) -> int:
    """The least number of letters to insert, drop, change, or swap with their neighbour."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]
