"""How far caffeio is from real Caffe: the golden layer cases, run and measured.

    python docs/_build/fidelity.py fidelity.json

Uses the harness of the tests, with its assertion replaced by a measurement.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APART = {"HDF5Output"}  # writes a file beside the case; its test does so in a copy

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


@dataclass
class Row:
    """One layer type: how many cases and arrays were compared, and the largest error."""

    type: str
    cases: int = 0
    arrays: int = 0
    worst: float = 0.0  # max|a - b| / max|b| over all arrays
    worst_case: str = ""


def measure() -> list[Row]:
    """Run every golden layer case; raises what the harness raises if one cannot run."""
    from tests import harness
    from tests.paths import GOLDEN

    return [
        _measure_type(harness, folder)
        for folder in sorted((GOLDEN / "layers").iterdir())
        if folder.name not in APART and any(folder.glob("*.prototxt"))
    ]


def _measure_type(harness: Any, folder: Path) -> Row:
    row = Row(folder.name)
    for case in sorted(folder.glob("*.prototxt")):
        errors: list[float] = []
        with _recording(harness, errors), contextlib.chdir(folder):
            harness.check_case(case, allow_python=True)
        row.cases += 1
        row.arrays += len(errors)
        if errors and max(errors) > row.worst:
            row.worst, row.worst_case = max(errors), case.stem
    return row


@contextlib.contextmanager
def _recording(harness: Any, errors: list[float]) -> Iterator[None]:
    """Let the harness note how far arrays are apart, where it would fail a test."""

    def note(mine: Any, theirs: Any, what: str, tolerance: float = 0.0) -> None:
        if hasattr(mine, "detach"):
            mine = mine.detach().cpu().numpy()
        errors.append(harness.error(mine, theirs))

    kept = harness.assert_close
    harness.assert_close = note
    try:
        yield
    finally:
        harness.assert_close = kept


def main(out: str) -> None:
    """Write the rows as JSON."""
    from caffeio._json import to_json

    Path(out).write_text(to_json([vars(row) for row in measure()], indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
