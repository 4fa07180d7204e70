"""`caffeio plot`."""

from __future__ import annotations

import click

from caffeio.cli._terminal import say

EPILOG = """\b
Examples:
  caffeio plot solver_init.prototxt solver_cyc1.prototxt solver_collapse.prototxt -o lr.png
  caffeio plot a/solver.prototxt b/solver.prototxt --overlay --log -o lr.svg
  caffeio plot solver.prototxt -o - > lr.csv
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("solvers", nargs=-1, required=True)
@click.option(
    "--output",
    "-o",
    default="lr.png",
    show_default=True,
    metavar="FILE",
    help="A .png, .svg, .pdf or .csv; - writes CSV to standard output.",
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
@click.option("--log", is_flag=True, help="Logarithmic rates.")
@click.option("--caffe", metavar="NAME", help="Whose Caffe: bvlc, intel, nvidia ...")
@click.option(
    "--losses",
    metavar="FILE",
    help="For lr_policy plateau: the loss of every iteration (metrics JSON lines, CSV, numbers).",
)
def command(
    solvers: tuple[str, ...],
    output: str,
    chain: bool,
    iterations: int | None,
    log: bool,
    caffe: str | None,
    losses: str | None,
) -> None:
    """Draw the learning rate of SOLVERS, exactly as Caffe computes it.

    Several solvers are the phases of one training, one after the other.
    """
    from caffeio.converters import plot as lr_plot
    from caffeio.profiles import get_profile

    curves = lr_plot.read_curves(
        solvers,
        overlay=not chain,
        iterations=iterations,
        profile=get_profile(caffe) if caffe else None,
        losses=lr_plot.read_losses(losses) if losses else None,
    )
    if output == "-":
        click.echo(lr_plot.csv_text(curves), nl=False)
        return
    lr_plot.write(output, curves, log=log)
    for curve in curves:
        first, last, top = curve.rates[0], curve.rates[-1], curve.rates.max()
        say(f"{curve.name}: {len(curve.rates)} iterations, {first:g} to {last:g}, highest {top:g}")
    say(f"Written: {output}")
