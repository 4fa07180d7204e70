"""`caffeio extract-features`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._gflags import GflagsCommand
from caffeio.cli._options import caffe, phase
from caffeio.cli._python import permit
from caffeio.cli._terminal import say
from caffeio.proto.io.opened import opened_once

EPILOG = """
\b
Examples:
  caffeio extract-features x.caffemodel net.prototxt fc7 features_lmdb 10 lmdb
  caffeio extract-features x.caffemodel net.prototxt fc7,fc8 a,b 10 leveldb
  caffeio extract-features x.caffemodel net.prototxt conv1,fc7 features.npz 10
"""


@click.command(epilog=EPILOG, cls=GflagsCommand, no_args_is_help=True)
@click.argument("weights", type=click.Path())
@click.argument("model", type=click.Path())
@click.argument("blobs", metavar="BLOB[,BLOB]")
@click.argument("targets", metavar="OUT[,OUT]")
@click.argument("batches", type=click.IntRange(1))
@click.argument("backend", metavar="[lmdb|leveldb]", default="lmdb",
                type=click.Choice(["lmdb", "leveldb"], case_sensitive=False))  # fmt: skip
@click.argument("mode", metavar="[CPU|GPU]", default="CPU",
                type=click.Choice(["CPU", "GPU"], case_sensitive=False))  # fmt: skip
@click.argument("device_id", metavar="[DEVICE_ID]", default=0, type=int)
@phase("TEST")
@caffe("profile")
@click.option("--allow-python", is_flag=True, help="Run the code that Python layers name.")
@opened_once()
def command(
    weights: str, model: str, blobs: str, targets: str, batches: int, **options: Any
) -> None:
    """Write what blobs hold for the net's own data: Caffe's `extract_features`.

    MODEL has a data layer; BATCHES batches of it are run. OUT is a new database for each BLOB, or
    one .npz or .h5 file for all of them. In a database every image is a Datum of floats, under its
    number.
    """
    names, files = blobs.split(","), targets.split(",")
    if len(files) == 1 and files[0].lower().endswith((".npz", ".h5", ".hdf5")):
        files *= len(names)
    if len(names) != len(files):
        raise click.UsageError(
            f"the number of feature blobs ({len(names)}) and of outputs ({len(files)}) must be "
            "equal"
        )
    from caffeio.cli import _given

    order = "the weights go first, then the net"
    if _given.is_one(weights, _given.NET):
        _given.require_kind(weights, _given.WEIGHTS, f"extract-features takes WEIGHTS NET: {order}")
    _given.require_net(model, "extract-features", example=order)
    from caffeio.gpus import require_gpu
    from caffeio.proto.files import read_net
    from caffeio.proto.weights.load import load_weights

    read_net(model)
    load_weights(weights)
    on_gpu = options["mode"] == "GPU"
    require_gpu("cuda" if on_gpu else None, "mode GPU")
    # in the words of Caffe's tool
    _given.require_blobs(model, names, "Unknown feature blob name {} in the network")
    from caffeio.log.glog import Log
    from caffeio.tools.extract_features import extract_features

    log = Log(lambda line: say(line, err=True))
    log.error("extract_features.cpp:62", "Using GPU" if on_gpu else "Using CPU")
    extract_features(
        model, weights, dict(zip(names, files, strict=True)), batches,
        backend=options["backend"].upper(), phase=options["phase"], profile=options["profile"],
        device=f"cuda:{options['device_id']}" if on_gpu else "cpu",
        allow_python=permit(options["allow_python"]), log=log,
    )  # fmt: skip
