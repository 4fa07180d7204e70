"""`caffeio upgrade`."""

from __future__ import annotations

import click

from caffeio.cli._options import dialect
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio upgrade old_train_val.prototxt train_val.prototxt
  caffeio upgrade old.caffemodel new.caffemodel
  caffeio upgrade solver.prototxt solver.prototxt
  caffeio upgrade - - < deploy.prototxt | head
"""


@click.command(epilog=EPILOG)
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("target", metavar="OUT", type=click.Path())
@dialect("The Caffe that IN was written for (default: what it tells).")
@click.option("--quiet", "-q", is_flag=True, help="Do not say what was done.")
@click.pass_context
def command(ctx: click.Context, source: str, target: str, dialect: str | None, quiet: bool) -> None:
    """Rewrite an old net or solver in today's form.

    IN is a net or a solver in text, or a binary net (.caffemodel). V0 and V1 layers, padding
    layers, transform fields of data layers, input fields, BatchNorm specs and solver_type are
    rewritten just as Caffe does when it loads such a file. A file that needs nothing is copied as
    it is; else comments are lost. - stands for standard input and output.

    The exit code is 1 if something could not be carried over; OUT is written all the same.
    """
    from caffeio.cli._files import read_input, write_output
    from caffeio.proto.rewrite import upgrade_bytes

    path = "<stdin>" if source == "-" else source
    result = upgrade_bytes(read_input(source), path, dialect)
    write_output(target, result.parts)
    if not quiet:
        lines = result.done or [f"the {result.kind} is in today's form: copied as it is"]
        for line in lines:
            say(f"{path}: {line}", err=True)
    for line in result.problems:
        say(f"{path}: warning: {line}", err=True)
    if result.problems:
        ctx.exit(1)
