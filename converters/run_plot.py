"""Curves of trainings: loss, scores and rate of several runs, as a picture or as CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caffeio.converters.plot import dress, figure_style, new_figure, safe_cell, saved, write_as
from caffeio.log.runs import Run, Series
from caffeio.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = ("#0b62a4", "#c44e00", "#2a7f3b", "#8a2be2", "#8c6d31", "#b3003b", "#007a87", "#1a1a1a")
_DASHES = ("-", "--", "-.", ":")
_WIDTH, _PANEL = 7.2, 2.2  # inches
_POINTS = 4000


def is_score(series: Series) -> bool:
    """Whether values look like shares of 1 (accuracy), which have a panel of their own."""
    values = [value for value in series.values if np.isfinite(value)]
    return bool(values) and min(values) >= 0 and max(values) <= 1


def scores_of(run: Run) -> dict[str, Series]:
    """The outputs that are scores, by what the legend calls them."""
    tested = {f"test {name}": s for name, s in run.test.items() if not is_loss(name)}
    trained = {f"train {name}": s for name, s in run.train.items() if not is_loss(name)}
    return {name: s for name, s in {**tested, **trained}.items() if is_score(s)}


def losses_of(run: Run) -> dict[str, Series]:
    """The test losses, by what the legend calls them."""
    return {f"test {name}": series for name, series in run.test.items() if is_loss(name)}


def is_loss(name: str) -> bool:
    """Whether an output is a loss by its name."""
    return "loss" in name.lower()


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of the last `window` values at each place, those that are not numbers left out."""
    known = np.isfinite(values)
    sums = np.cumsum(np.where(known, values, 0.0))
    counts = np.cumsum(known)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, sums / counts, np.nan)


def csv_text(runs: Sequence[Run]) -> str:
    """One line a value: run, iteration, what it is, the value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "iteration", "series", "value"])
    for run in runs:
        for name, series in _all(run):
            for iteration, value in zip(series.iterations, series.values, strict=True):
                row = [safe_cell(run.name), iteration, safe_cell(name), f"{value:.9g}"]
                writer.writerow(row)
    return out.getvalue()


def _all(run: Run) -> Iterator[tuple[str, Series]]:
    yield "loss", run.loss
    yield "lr", run.rate
    yield from ((f"train {name}", series) for name, series in run.train.items())
    yield from ((f"test {name}", series) for name, series in run.test.items())


def write(path: str | os.PathLike[str], runs: Sequence[Run], *, log: bool = False) -> None:
    """Write the curves of `runs` to `path`: .csv, or a picture by its suffix.

    `log`: logarithmic losses. Raises UnsupportedError for another suffix, and without matplotlib.
    """
    write_as(path, lambda: csv_text(runs), lambda kind: picture(runs, kind, log=log))


def picture(runs: Sequence[Run], kind: str = "png", *, log: bool = False) -> bytes:
    """A picture of `runs`: a panel for the loss, one for scores, one for the rate.

    `kind`: png, svg or pdf. Panels that no run fills are left out.
    """
    panels = [
        (draw, label)
        for draw, label, wanted in (
            (_draw_loss, "loss", any(r.loss.values or losses_of(r) for r in runs)),
            (_draw_scores, "score", any(scores_of(r) for r in runs)),
            (_draw_rate, "learning rate", any(r.rate.values for r in runs)),
        )
        if wanted
    ]
    with figure_style():
        figure = new_figure(_WIDTH, _PANEL * len(panels) + 0.5)
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, (draw, label) in zip(grid[:, 0], panels, strict=True):
            draw(axes, runs, log)
            _dress(axes, label, runs)
        last = grid[-1, 0]
        last.set_xlabel("iteration")
        last.set_xlim(0, max(1, *(run.length - 1 for run in runs)))
        last.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", " "))
        return saved(figure, kind)


def _draw_loss(axes: Axes, runs: Sequence[Run], log: bool) -> None:
    for i, run in enumerate(runs):
        ink = _INK[i % len(_INK)]
        at, values = run.loss.arrays()
        if len(values):
            window = max(len(values) // 100, 1)
            if window > 1:
                _line(axes, at, values, color=ink, alpha=0.25, linewidth=0.7)
            _line(axes, at, smoothed(values, window), color=ink, label=_label(run, "train", runs))
        for j, (name, series) in enumerate(losses_of(run).items()):
            at, values = series.arrays()
            dash = _DASHES[(j + 1) % len(_DASHES)]
            _line(axes, at, values, color=ink, linestyle=dash, marker="o", markersize=2.5,
                  label=_label(run, name, runs))  # fmt: skip
    if log:
        axes.set_yscale("log")


def _draw_scores(axes: Axes, runs: Sequence[Run], log: bool) -> None:
    for i, run in enumerate(runs):
        for j, (name, series) in enumerate(scores_of(run).items()):
            at, values = series.arrays()
            marker = "o" if name.startswith("test") and len(at) <= 200 else ""
            _line(axes, at, values, color=_INK[i % len(_INK)], marker=marker, markersize=2.5,
                  linestyle=_DASHES[j % len(_DASHES)], label=_label(run, name, runs))  # fmt: skip
    axes.set_ylim(0, 1.02)


def _draw_rate(axes: Axes, runs: Sequence[Run], log: bool) -> None:
    for i, run in enumerate(runs):
        at, values = run.rate.arrays()
        _line(axes, at, values, color=_INK[i % len(_INK)], label=_label(run, "", runs))
    axes.set_ylim(bottom=0)


def _label(run: Run, name: str, runs: Sequence[Run]) -> str:
    """What the legend calls a curve: the run's name only where there are several."""
    parts = [run.name] * (len(runs) > 1) + [name] * bool(name)
    return visible(": ".join(parts) or run.name).replace("$", r"\$")


def _line(axes: Axes, at: NDArray[np.int64], values: NDArray[np.float64], **look: Any) -> None:
    """A curve, thinned to what can be seen; `linewidth` and so on as matplotlib takes them."""
    step = max(len(at) // _POINTS, 1)
    look.setdefault("linewidth", 1.2)
    axes.plot(at[::step], values[::step], **look)


def _dress(axes: Axes, label: str, runs: Sequence[Run]) -> None:
    axes.set_ylabel(label)
    dress(axes)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False, fontsize=7.5)
    if len(runs) == 1:
        for start, _ in runs[0].phases:
            if start:
                axes.axvline(start, color="#808080", linewidth=0.6, linestyle=(0, (4, 3)))
