"""`caffeio diff`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._given import apart
from caffeio.cli._options import caffe, dialect, forms, output
from caffeio.cli._terminal import write_report
from caffeio.proto.io.opened import opened_once

EPILOG = """\b
Examples:
  caffeio diff solver_cyc1.prototxt solver_cyc2.prototxt
  caffeio diff HEAD~1:models/solver.prototxt models/solver.prototxt
  caffeio diff main HEAD --format markdown -o changes.md
  caffeio diff a/train_val.prototxt b/train_val.prototxt --html -o diff.html
  caffeio diff a.caffemodel b.caffemodel --tol 1e-5 --exit-code
  caffeio diff models_old/ models_new/
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("left")
@click.argument("right")
@click.option("--no-net", is_flag=True, help="Do not follow solvers and weights into their nets.")
@click.option("--dataset-size", type=click.IntRange(1), metavar="N", help="Images in an epoch.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Processes that train at once; batch_size is for each.",
)
@click.option(
    "--tol",
    type=click.FloatRange(0),
    default=0.0,
    metavar="T",
    help="Blobs that differ by no more than T of their largest value are the same.",
)
@click.option(
    "--atol",
    type=click.FloatRange(0),
    default=0.0,
    metavar="T",
    help="Blobs that differ by no more than T are the same.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), help="Draw both learning rates (PNG, SVG)."
)
@click.option("--all", "-a", "show_all", is_flag=True, help="Show what is equal, and every blob.")
@dialect("Read both files as files of this dialect (default: what they tell).")
@caffe(text="Whose solver runs the files")
@forms(
    "-f",
    json="Write all of it as JSON.",
    html="Write one page, with the rates drawn.",
    markdown="Write Markdown, for a pull request.",
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if they differ, 0 if not.")
@output()
@opened_once()
def command(left: str, right: str, **options: Any) -> None:
    """Show how two solvers, nets, weight files, solver states, LMDBs or folders differ.

    LEFT and RIGHT are files, folders, `-` for standard input, REVISION:PATH of a git repository,
    or two revisions: then all solvers, nets and weights that changed between them are compared.
    Solvers are compared by meaning: defaults, old fields and paths are resolved, the
    learning rate is compared at every iteration, and the nets that they train are compared too.

    Exit code: 0; with --exit-code 0 if they are the same, 1 if not; 2 in case of trouble.
    """
    from caffeio.converters.diff.compare import (
        Settings,
        compare,
        compare_revisions,
    )
    from caffeio.converters.diff.rates_picture import plot_rates, require_rates
    from caffeio.converters.source import open_revisions, open_source, scratch_folder
    from caffeio.errors import CaffeIOError

    apart(options["output"], options["plot"])
    settings = Settings(
        not options["no_net"],
        options["dataset_size"],
        options["workers"],
        options["tol"],
        options["atol"],
        options["show_all"],
        options["dialect"],
        options["caffe"],
    )
    with scratch_folder() as scratch:
        if left == right == "-":
            raise CaffeIOError("only one side can be standard input")
        revisions = open_revisions(left, right, scratch)
        sources = revisions or (open_source(left, scratch), open_source(right, scratch))
        if options["plot"]:
            require_rates(*sources, options["plot"])
        report = (compare_revisions if revisions else compare)(*sources, settings)
        if options["plot"]:
            plot_rates(*sources, settings, options["plot"])
    write_report(report, options["form"], options["output"])
    if options["exit_code"] and not report.data["same"]:
        raise SystemExit(1)
