"""`caffeio convert-imageset`."""

from __future__ import annotations

import click

from caffeio.cli._gflags import GflagsCommand
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio convert-imageset images/ train.txt train_lmdb --shuffle --seed 1
  caffeio convert-imageset images/ val.txt db --encoded --encode-type jpg
  caffeio convert-imageset "" list.txt db --resize-height 99 --resize-width 99
"""


@click.command(epilog=EPILOG, cls=GflagsCommand)
@click.argument("root", metavar="ROOT")
@click.argument("listing", metavar="LIST", type=click.Path())
@click.argument("database", metavar="DB", type=click.Path())
@click.option("--gray", is_flag=True, help="Read the images as gray.")
@click.option("--shuffle", is_flag=True, help="Shuffle the list.")
@click.option("--seed", type=int, metavar="N", help="Of the shuffle: the same order every time.")
@click.option("--resize-height", "--resize_height", type=int, default=0, metavar="N",
              help="Resize to this height, aspect not kept.")  # fmt: skip
@click.option("--resize-width", "--resize_width", type=int, default=0, metavar="N",
              help="Resize to this width; both must be given.")  # fmt: skip
@click.option("--check-size", "--check_size", is_flag=True, help="Stop if a record's size differs.")
@click.option("--encoded", is_flag=True, help="Store image files, not pixels.")
@click.option("--encode-type", "--encode_type", default="", metavar="TYPE",
              help="Type of the stored files (jpg, png): implies --encoded.")  # fmt: skip
@click.option("--intel", is_flag=True, help="Store encoded images as Intel's Caffe does.")
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb",
              show_default=True, help="The kind of database.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="No log lines.")
def command(
    root: str, listing: str, database: str, backend: str, quiet: bool, **options: object
) -> None:
    """Write a list of images into a database: Caffe's `convert_imageset`.

    Each line of LIST is a path and an integer label, with a blank between; ROOT is put before the
    path as it is. Images are resized only if height and width are both given. DB is a new folder.
    Images that cannot be read are named and left out.
    """
    from caffeio.log.glog import NULL_LOG, Log
    from caffeio.tools.imageset import convert_imageset

    log = NULL_LOG if quiet else Log(lambda line: say(line, err=True))

    def skipped(message: str) -> None:
        say(f"warning: {message}", err=True)

    options["seed"] = options["seed"] if options["shuffle"] else None
    try:
        count = convert_imageset(
            root, listing, database, skipped=skipped, backend=backend.upper(), log=log,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
    except FileNotFoundError as error:
        raise click.BadParameter(f"{error.filename!r} does not exist", param_hint="LIST") from None
    if not quiet:
        say(f"{database}: {count} records")
