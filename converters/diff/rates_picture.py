"""The learning rates of two solvers as a picture: `caffeio diff --plot`."""

from __future__ import annotations

from caffeio.converters.curve_files import require_suffix
from caffeio.converters.diff.compare import Settings, solver_diff_of
from caffeio.converters.report.model import short_names
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError


def require_rates(left: Source, right: Source, target: str) -> None:
    """Raise CaffeIOError, before any work, where `plot_rates` could draw nothing."""
    if (left.kind, right.kind) != ("solver", "solver"):
        raise CaffeIOError("--plot draws learning rates: both sides must be solvers")
    require_suffix(target)


def plot_rates(left: Source, right: Source, settings: Settings, target: str) -> None:
    """Draw the learning rates of two solvers (PNG, SVG, PDF), or list them (CSV)."""
    from caffeio.converters import plot as lr_plot

    diff = solver_diff_of(left, right, settings).rates
    names = short_names((left.label, right.label))
    curves = []
    for name, one in zip(names, (diff.left, diff.right), strict=True):
        if one.rates is None or not len(one.rates):
            raise CaffeIOError(one.problem or "max_iter is not set: no rates to draw", where=name)
        curves.append(lr_plot.Curve(name, one.rates))
    lr_plot.write(target, curves)
