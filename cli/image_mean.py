"""`caffeio image-mean`."""

from __future__ import annotations

import click

from caffeio.cli._gflags import GflagsCommand
from caffeio.cli._options import max_pixels
from caffeio.cli._terminal import say
from caffeio.shape_text import format_shape

EPILOG = """
\b
Examples:
  caffeio image-mean train_lmdb mean.binaryproto
  caffeio image-mean train_leveldb --backend leveldb
"""


@click.command(epilog=EPILOG, cls=GflagsCommand)
@click.argument("database", metavar="DB", type=click.Path())
@click.argument("target", metavar="[OUT]", type=click.Path(), required=False)
@max_pixels
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb",
              show_default=True, help="The kind of database.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="No log lines.")
def command(database: str, target: str | None, backend: str, quiet: bool) -> None:
    """Compute the mean image of a database: Caffe's `compute_image_mean`.

    OUT is what transform_param's mean_file reads (a .binaryproto). The mean of each channel, for
    mean_value, is printed. All images must be of one size.
    """
    from caffeio.log.glog import NULL_LOG, Log
    from caffeio.proto.weights.blobproto import write_blobproto
    from caffeio.tools.imageset import compute_image_mean, mean_values

    log = NULL_LOG if quiet else Log(lambda line: say(line, err=True))
    mean = compute_image_mean(database, backend.upper(), log)
    if target:
        log.info("compute_image_mean.cpp:108", f"Write to {target}")
        write_blobproto(target, mean)
        say(f"{target}: {format_shape(mean.shape, ' x ')} (channels, height, width)")
    log.info("compute_image_mean.cpp:114", f"Number of channels: {len(mean)}")
    for channel, value in enumerate(mean_values(mean)):
        text = f"mean_value channel [{channel}]: {value:.6g}"
        log.info("compute_image_mean.cpp:119", text)
        say(text)
