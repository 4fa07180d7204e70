"""Learning-rate curves of solvers, as a picture (PNG, SVG, PDF) or as CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caffeio.converters.curve_files import require_suffix
from caffeio.errors import CaffeIOError, SolverError, UnsupportedError
from caffeio.profiles import Profile
from caffeio.proto.files import SolverFile
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.regular import read_utf8
from caffeio.solver.schedule import load_schedule
from caffeio.training.multiphase import read_phases
from caffeio.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 4000  # a curve: more are not to be seen
_INK = ("#1a1a1a", "#0b62a4", "#c44e00", "#2a7f3b", "#8a2be2", "#8c6d31", "#b3003b", "#007a87")
_LINES = list(zip(_INK, ("-", "--", "-.", ":") * 2, strict=True))
_WIDTH, _HEIGHT = 7.2, 3.6  # inches: the text width of a page
_LETTER = 0.062  # inches that a letter of a phase's name takes


@dataclass(frozen=True)
class Curve:
    """The learning rates of one solver, from its first iteration to its last."""

    name: str
    rates: NDArray[np.float32]  # [iterations]
    start: int = 0  # iterations of the phases before

    @property
    def iterations(self) -> NDArray[np.int64]:
        """Where each rate stands on the common axis."""
        return self.start + np.arange(len(self.rates))


def read_curves(
    solvers: Sequence[str | os.PathLike[str]],
    *,
    overlay: bool = False,
    iterations: int | None = None,
    profile: Profile | None = None,
    losses: Sequence[float] | None = None,
) -> list[Curve]:
    """The curves of solver files, end to end as phases of a chain, or all from 0 (`overlay`).

    `iterations`: how many of each; by default its max_iter. `losses`: the training loss of every
    iteration, which plateau policies follow. Raises SolverError for solvers that Caffe refuses.
    """
    curves: list[Curve] = []
    start = 0
    named = list(zip(solvers, phase_names(solvers), strict=True))
    files = [(solver, name, file) for solver, name in named for name, file in _phases(solver, name)]
    for solver, name, file in files:
        schedule = load_schedule(file, profile)
        count = schedule.solver.max_iter if iterations is None else iterations
        if count < 1:
            raise SolverError(
                "max_iter: is not set: say how many iterations to draw", where=str(solver)
            )
        curves.append(Curve(name, schedule.array(count, losses=losses), start))
        start += 0 if overlay else count
    return curves


def _phases(solver: str | os.PathLike[str], name: str) -> list[tuple[str, SolverFile]]:
    """The solvers in a file with a name of each: Intel's params_pair hold several."""
    files = [file for file, _ in read_phases(solver)]
    if len(files) == 1:
        return [(name, files[0])]
    return [(f"{name} {number}", file) for number, file in enumerate(files, 1)]


def phase_names(solvers: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A short name of each file: "init" for solver_init.prototxt; its folder where that is bare."""
    names = []
    for solver in solvers:
        path = Path(solver)
        short = path.stem.replace("solver", "").strip("_-. ")
        names.append(short or path.absolute().parent.name or path.stem)
    return [
        name if names.count(name) == 1 else f"{Path(solver).absolute().parent.name}/{name}"
        for solver, name in zip(solvers, names, strict=True)
    ]


def read_losses(path: str | os.PathLike[str]) -> list[float]:
    """The losses of all iterations: JSON lines of `--metrics`, a CSV column `loss`, or numbers.

    Raises CaffeIOError if a line is none of these, or if an iteration is left out.
    """
    lines = [line for line in read_utf8(path).splitlines() if line.strip()]
    rows: list[dict[str, Any]]
    try:
        if lines and lines[0].lstrip().startswith("{"):
            rows = [row for row in map(json.loads, lines) if "loss" in row]
        elif lines and "loss" in lines[0].split(","):
            rows = list(csv.DictReader(lines))
        else:
            rows = [{"loss": line} for line in lines]
        losses = [math.nan if row["loss"] is None else float(row["loss"]) for row in rows]
        given = [int(row["iter"]) for row in rows if "iter" in row]
    except (ValueError, TypeError, AttributeError) as error:
        raise CaffeIOError(f"not a list of losses: {error}", where=str(path)) from None
    if given and given != list(range(len(losses))):
        raise CaffeIOError("wants the loss of every iteration, from 0 on", where=str(path))
    return losses


def csv_text(curves: Sequence[Curve]) -> str:
    """One line an iteration: its number on the axis, the phase, its number there, the rate.

    Rates have the nine digits that give a float32 back.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["iteration", "phase", "phase_iteration", "lr"])
    for curve in curves:
        name = safe_cell(curve.name)
        for i, rate in enumerate(curve.rates.tolist()):
            writer.writerow([curve.start + i, name, i, f"{rate:.9g}"])
    return out.getvalue()


def safe_cell(text: str) -> str:
    """A text for a CSV cell: nothing hidden, nothing that a spreadsheet takes for a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def write(path: str | os.PathLike[str], curves: Sequence[Curve], *, log: bool = False) -> None:
    """Write `curves` to `path`: .csv, or a picture by its suffix (`log`: logarithmic rates).

    Raises UnsupportedError for another suffix, and if matplotlib is wanted but not installed.
    """
    write_as(path, lambda: csv_text(curves), lambda kind: picture(curves, kind, log=log))


def write_as(
    path: str | os.PathLike[str], text: Callable[[], str], draw: Callable[[str], bytes]
) -> None:
    """Write what the suffix of `path` asks for: the CSV `text`, or `draw`'s png, svg or pdf.

    Raises UnsupportedError for another suffix.
    """
    suffix = require_suffix(path)
    content = text().encode() if suffix == ".csv" else draw(suffix[1:])
    with atomic_write(path, sync=False) as file:
        file.write(content)


def picture(curves: Sequence[Curve], kind: str = "png", *, log: bool = False) -> bytes:
    """A picture of `curves` for print, 7.2 x 3.6 inches, with named phases or a legend.

    `kind`: png, svg or pdf.
    """
    with figure_style():
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_subplot()
        _draw(axes, curves, log)
        return saved(figure, kind)


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the look of all our curves. Raises UnsupportedError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UnsupportedError(
            "pictures need matplotlib: pip install 'caffeio[plot]' (a .csv needs nothing)"
        ) from None
    style: Any = {
        "font.size": 9,
        "svg.hashsalt": "caffeio",
        "svg.fonttype": "path",
        "axes.linewidth": 0.6,
    }
    with matplotlib.rc_context(style):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def saved(figure: Figure, kind: str) -> bytes:
    """The figure as png, svg or pdf; the same bytes for the same curves."""
    out = io.BytesIO()
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(out, format=kind, dpi=200, metadata=stamp)
    return out.getvalue()


def dress(axes: Axes) -> None:
    """The look of all our axes: two spines, a light grid behind the curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#d0d0d0", linewidth=0.5)
    axes.set_axisbelow(True)


def _draw(axes: Axes, curves: Sequence[Curve], log: bool) -> None:
    chain = len(curves) > 1 and any(curve.start for curve in curves)
    for i, curve in enumerate(curves):
        keep = _thin(curve.rates)
        rates = curve.rates[keep].astype(np.float64)
        if log:
            rates[rates <= 0] = np.nan
        ink, dash = _LINES[0 if chain else i % len(_LINES)]
        axes.plot(curve.iterations[keep], rates, dash, color=ink, linewidth=1.2, label=curve.name)
    end = max(curve.start + len(curve.rates) for curve in curves)
    axes.set_xlim(0, max(end - 1, 1))
    if log:
        axes.set_yscale("log")
    elif all(np.nanmin(curve.rates, initial=0) >= 0 for curve in curves):
        axes.set_ylim(bottom=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("learning rate")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", " "))
    dress(axes)
    if chain:
        _name_phases(axes, curves, end)
    elif len(curves) > 1:
        axes.legend(frameon=False)
    else:
        axes.set_title(curves[0].name, fontsize=9, loc="left")


def _name_phases(axes: Axes, curves: Sequence[Curve], end: int) -> None:
    """A shade for every second phase, a line where one begins; names above, or inside on end."""
    for i, curve in enumerate(curves):
        stop = curve.start + len(curve.rates)
        if i % 2:
            axes.axvspan(curve.start, stop, color="#f2f2f2", zorder=0, linewidth=0)
        if i:
            axes.axvline(curve.start, color="#808080", linewidth=0.6, linestyle=(0, (4, 3)))
        room = _WIDTH * 0.88 * len(curve.rates) / end
        narrow = room < _LETTER * (len(curve.name) + 1)
        axes.annotate(
            curve.name,
            ((curve.start + stop) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -3 if narrow else 3),
            textcoords="offset points",
            ha="center",
            va="top" if narrow else "bottom",
            rotation=90 if narrow else 0,
            fontsize=8.5,
        )


def _thin(rates: NDArray[np.float32]) -> NDArray[np.intp]:
    """Indices enough for a picture: evenly spread, and both sides of every jump."""
    count = len(rates)
    if count <= _POINTS:
        return np.arange(count)
    even = np.linspace(0, count - 1, _POINTS // 2).astype(np.intp)
    with np.errstate(invalid="ignore"):
        steps = np.nan_to_num(np.abs(np.diff(rates)), nan=np.inf)
    sharpest = np.argsort(steps, kind="stable")[-_POINTS // 4 :]
    return np.unique(np.concatenate([even, sharpest, sharpest + 1]))
