"""`caffeio edit`."""

from __future__ import annotations

import sys

import click

from caffeio.cli._complete import Setting
from caffeio.cli._options import output
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio edit solver.prototxt base_lr=0.05 'stepvalue=[1000, 2000]'
  caffeio edit net.prototxt 'layer[data].data_param.source=/data/lmdb' --diff
  caffeio edit net.prototxt 'layer[type=Pooling].pooling_param.pool=AVE' -o -
  caffeio edit net.prototxt 'layer[conv1].param+={ lr_mult: 0 }'
  caffeio edit - max_iter=100 < solver.prototxt > short.prototxt
\b
Keys:
  base_lr                  a field
  layer[conv1].name        of the layer called conv1; a number in quotes
  layer[3], stepvalue[-1]  by place
  layer[type=Pooling]      by the value of a field
  layer[data][include.phase=TEST]  by two of them
  KEY+=VALUE               append to a repeated field
  --remove 'layer[drop6]'  take it out
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path())
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...", type=Setting())
@click.option(
    "--remove", "-r", multiple=True, metavar="KEY", type=Setting(), help="Take a field out."
)
@output("Write there, not back to FILE; - for standard output.")
@click.option("--in-place", "-i", is_flag=True, help="Write back to FILE: the default.")
@click.option("--diff", "-d", is_flag=True, help="Show what would change; write nothing.")
def command(
    file: str,
    changes: tuple[str, ...],
    remove: tuple[str, ...],
    output: str | None,
    in_place: bool,
    diff: bool,
) -> None:
    """Change fields of a prototxt and not one other byte of it.

    Comments, spaces and line ends stay. A value is checked before it is written; strings need no
    quotes, lists stand in brackets, messages in braces. FILE may be - for standard input; the
    result then goes to standard output.
    """
    if not changes and not remove:
        raise click.UsageError("Nothing to do: give KEY=VALUE or --remove KEY.")
    if in_place and output:
        raise click.UsageError("--in-place and --output exclude each other.")
    from caffeio.cli._files import read_input, show_diff, write_output
    from caffeio.proto.files import decode_file_text, encode_text
    from caffeio.proto.rewrite import edit_text

    data = read_input(file)
    path = "<stdin>" if file == "-" else file
    old = decode_file_text(data, path)
    new, count = edit_text(old, changes, remove, path=path)
    if diff:
        show_diff(old, new, path)
        return
    write_output(output or file, [encode_text(new)], unless_same=None if output else data)
    if sys.stderr.isatty():
        say(f"{path}: {count} {'place' if count == 1 else 'places'} changed", err=True)
