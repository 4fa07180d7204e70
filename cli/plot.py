"""`caffeio plot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from caffeio.cli._options import caffe
from caffeio.cli._terminal import say

EPILOG = """\b
Examples:
  caffeio plot solver_init.prototxt solver_cyc1.prototxt -o lr.png
  caffeio plot a/solver.prototxt b/solver.prototxt --overlay --log -o lr.svg
  caffeio plot solver.prototxt -o - > lr.csv
  caffeio plot train.jsonl -o run.png
  caffeio plot caffe.INFO other_run.log --log -o runs.svg
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output",
    "-o",
    type=click.Path(),
    metavar="FILE",
    help="A .png, .svg, .pdf or .csv; - writes CSV to standard output. Default: lr.png of "
    "solvers, run.png of runs.",
)
@click.option(
    "--chain/--overlay",
    "chain",
    default=True,
    help="Phases end to end, as `caffeio train` runs them (default), or all from 0.",
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    metavar="N",
    help="Iterations of each solver (default: its max_iter).",
)
@click.option("--log", is_flag=True, help="Logarithmic rates, or losses.")
@caffe()
@click.option(
    "--losses",
    metavar="FILE",
    help="For lr_policy plateau: the loss of every iteration (metrics JSON lines, CSV, numbers).",
)
def command(files: tuple[str, ...], output: str | None, log: bool, **options: Any) -> None:
    """Draw learning rates of solvers, or what trainings have told.

    Of solver prototxts: the rate at every iteration, exactly as Caffe computes it; several are
    the phases of one training, one after the other. Of runs: loss, test loss, scores and rate.
    A run is a log of Caffe's (ours, BVLC's, Intel's, NVIDIA's), a file of `train --metrics`, or a
    TensorBoard folder; several are drawn over each other.
    """
    from caffeio.cli._given import apart
    from caffeio.converters.curve_files import require_suffix
    from caffeio.log.runs import is_run

    apart(output)
    if output and output != "-":
        require_suffix(output)
    runs = [name for name in files if is_run(name)]
    if not runs:
        _draw_rates(files, output or "lr.png", log, options)
        return
    if len(runs) < len(files):
        other = next(name for name in files if name not in runs)
        raise click.UsageError(f"{other} is no run, as {runs[0]} is: draw solvers by themselves")
    _draw_runs(runs, output or "run.png", log)


def _draw_rates(solvers: Sequence[str], output: str, log: bool, options: dict[str, Any]) -> None:
    from caffeio.cli._given import require_kind

    for name in solvers:
        require_kind(
            name, ("solver", "phases"), "plot takes solvers, or logs and metrics of trainings"
        )
    from caffeio.converters import plot as lr_plot
    from caffeio.profiles import get_profile

    curves = lr_plot.read_curves(
        solvers,
        overlay=not options["chain"],
        iterations=options["iterations"],
        profile=get_profile(options["caffe"]) if options["caffe"] else None,
        losses=lr_plot.read_losses(options["losses"]) if options["losses"] else None,
    )
    if output == "-":
        click.echo(lr_plot.csv_text(curves), nl=False)
        return
    lr_plot.write(output, curves, log=log)
    for curve in curves:
        first, last, top = curve.rates[0], curve.rates[-1], curve.rates.max()
        say(f"{curve.name}: {len(curve.rates)} iterations, {first:g} to {last:g}, highest {top:g}")
    say(f"Written: {output}")


def _draw_runs(files: Sequence[str], output: str, log: bool) -> None:
    from caffeio.converters import run_plot
    from caffeio.converters.plot import phase_names
    from caffeio.log.runs import read_run

    runs = [read_run(path, name) for path, name in zip(files, phase_names(files), strict=True)]
    if output == "-":
        click.echo(run_plot.csv_text(runs), nl=False)
        return
    run_plot.write(output, runs, log=log)
    for run in runs:
        said = [f"{run.length} iterations"]
        if run.loss.values:
            said.append(f"loss {run.loss.values[0]:g} to {run.loss.values[-1]:g}")
        for name, series in run_plot.scores_of(run).items():
            if name.startswith("test"):
                said.append(f"{name} {series.values[-1]:g}, best {max(series.values):g}")
        say(f"{run.name}: {'; '.join(said)}")
    say(f"Written: {output}")
