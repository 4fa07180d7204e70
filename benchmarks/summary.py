"""The rows of the one summary that `make bench` writes, and the memory of a process."""

from __future__ import annotations

import json
import operator
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

ROWS = "BENCH_ROWS"  # the variable that names the file which rows are added to
NEEDS = {"at least": operator.ge, "at most": operator.le}


def figure(what: str, beside: str, asked: str, low: float, middle: float) -> None:
    """Tell the summary a ratio: `low` of the minima, `middle` of the medians.

    `asked` is "at least 1.3", "at most 1.02", or empty where nothing is. Does nothing outside of
    `make bench`.
    """
    if path := os.environ.get(ROWS):
        row = {"what": what, "beside": beside, "asked": asked, "low": low, "middle": middle}
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")


def faster(
    what: str, beside: str, asked: str, mine: Sequence[float], other: Sequence[float]
) -> None:
    """Tell the summary how many times as long `other` takes as `mine`, from the times of both."""
    low, middle = min(other) / min(mine), statistics.median(other) / statistics.median(mine)
    figure(what, beside, asked, low, middle)


def verdict(asked: str, low: float, middle: float) -> str:
    """Say whether the figures, as they are printed, are what was asked for."""
    if not asked:
        return ""
    words, _, number = asked.rpartition(" ")
    met = [NEEDS[words](round(value, 2), float(number)) for value in (low, middle)]
    return {2: "yes", 1: f"by {('medians', 'minima')[met[0]]}", 0: "**short**"}[sum(met)]


def table(rows: Sequence[dict[str, str | float]]) -> str:
    """Write rows as a table in Markdown, in the order in which they were told."""
    lines = ["| what | beside | asked | minima | medians | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        low, middle = float(row["low"]), float(row["middle"])
        met = verdict(str(row["asked"]), low, middle)
        lines.append(f"| {row['what']} | {row['beside']} | {row['asked']} | {low:.2f} | "
                     f"{middle:.2f} | {met} |")  # fmt: skip
    return "\n".join(lines)


def peak_mb() -> float:
    """Tell the most memory that this program has held so far, in MB.

    Not getrusage's: a new program inherits that from the process which started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
