"""`caffeio db`: what is done with databases."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli import image_mean
from caffeio.cli._files import read_names, require_picture, write_picture
from caffeio.cli._options import forms, max_pixels
from caffeio.cli._terminal import say, say_json
from caffeio.shape_text import format_shape
from caffeio.tools.source_formats import SOURCE_FORMATS

BACKEND = click.option(
    "--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb", show_default=True,
    help="The kind of database.",
)  # fmt: skip
CREATE = """
\b
Examples:
  caffeio db create train.txt train_lmdb --root images/ --shuffle
  caffeio db create photos/ train_lmdb --resize 256x256 --classes classes.txt
  caffeio db create mnist/train-images-idx3-ubyte.gz mnist_train_lmdb
  caffeio db create cifar-10-batches-bin/data_batch_*.bin db --swap-colors
  caffeio db create digits.npz digits_lmdb --images x_train --labels y_train
"""
SHOW = """
\b
Examples:
  caffeio db show train_lmdb
  caffeio db show train_lmdb --sheet samples.png --classes classes.txt
"""

VERIFY = """
\b
Examples:
  caffeio db verify train_lmdb
  caffeio db verify train_leveldb --backend leveldb
"""


GROUP = """
\b
Examples:
  caffeio db create photos/ train_lmdb --resize 256x256 --classes classes.txt
  caffeio db show train_lmdb --sheet samples.png
  caffeio db mean train_lmdb mean.binaryproto
"""


@click.group("db", epilog=GROUP)
def command() -> None:
    """Make databases of records (LMDB, LevelDB), look into them, check them."""


@command.command(epilog=VERIFY)
@click.argument("database", metavar="DB", type=click.Path())
@BACKEND
@click.option("--annotated", is_flag=True, help="The records are AnnotatedDatums (SSD).")
@click.option("--threads", type=click.IntRange(1), help="Default: as many as there are cores.")
@max_pixels
@forms(json="Print the result as JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    database: str,
    backend: str,
    annotated: bool,
    threads: int | None,
    form: str,
) -> None:
    """Read and decode every record of DB; list the bad ones by key.

    The exit code is 1 if there are bad records, 2 if the database itself is damaged.
    """
    from caffeio.tools.verify_db import verify_db

    found = verify_db(database, backend.upper(), threads=threads, annotated=annotated)
    names = [(key.decode("utf-8", "backslashreplace"), reason) for key, reason in found.bad]
    if form == "json":
        rows = [{"key": key, "reason": reason} for key, reason in names]
        shapes = {format_shape(shape): n for shape, n in found.shapes.most_common()}
        say_json({"records": found.records, "shapes": shapes, "bad": rows})
    else:
        for key, reason in names:
            say(f"{database}, key {key}: {reason}")
        say(f"{database}: {found.records:,} records, {len(names):,} bad")
    if names:
        ctx.exit(1)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    width, cross, height = value.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise click.BadParameter(f"{value!r} is not of the form WIDTHxHEIGHT")
    return int(height), int(width)


@command.command(epilog=CREATE, no_args_is_help=True)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("database", metavar="DB", type=click.Path())
@click.option("--from", "--format", "format", help="What SOURCE is. Default: told by its content.",
              type=click.Choice(SOURCE_FORMATS))  # fmt: skip
@BACKEND
@click.option("--root", metavar="PREFIX",
              help="Of a list: put before each path as it is (default: its folder).")  # fmt: skip
@click.option("--classes", metavar="FILE", type=click.Path(),
              help="Of folders: class names in the order of their labels; written if it is not "
              "there, so that test data get the same labels.")  # fmt: skip
@click.option("--images", metavar="NAME", help="Of .npz and HDF5: the array of the pictures.")
@click.option("--labels", metavar="NAME",
              help="The labels' array; of IDX a file; of CIFAR-100 fine or coarse.")  # fmt: skip
@click.option("--layout", type=click.Choice(["NCHW", "NHWC", "NHW"]), help="Of arrays.")
@click.option("--swap-colors", is_flag=True,
              help="Of arrays that are RGB: store BGR, as most Caffe nets expect.")  # fmt: skip
@click.option("--gray", is_flag=True, help="Read image files as gray.")
@click.option("--shuffle/--no-shuffle", default=None,
              help="Default: folders are, which else stand class after class.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Of the shuffle.")
@click.option("--resize", "size", metavar="WxH", callback=_size, help="Resize, aspect not kept.")
@click.option("--encode-type", default="", metavar="TYPE",
              help="Store image files (png, jpg: less space), not pixels.")  # fmt: skip
@max_pixels
def create(sources: tuple[str, ...], database: str, backend: str, **options: Any) -> None:
    """Make a database of the data that you have.

    SOURCE is a list of images (a path and a label a line), a folder with one folder a class, an
    image file of MNIST's format (IDX, gzipped or not; the labels' file lies beside it), all binary
    batches of CIFAR-10 or CIFAR-100, an .npz or an HDF5 file. DB is a new folder.
    """
    from caffeio.cli._given import refuse
    from caffeio.tools.create_db import create_db

    for source in sources:
        refuse(
            source, "db create takes a list of images, a folder of classes, IDX, CIFAR, .npz, HDF5"
        )

    def skipped(message: str) -> None:
        say(f"warning: {message}", err=True)

    made = create_db(sources, database, backend=backend.upper(), skipped=skipped, **options)
    if made.classes and not options["classes"]:
        for label, name in enumerate(made.classes):
            say(f"label {label}: {name}")
    order = "shuffled" if made.shuffled else "in the source's order"
    lost = f"; {made.left_out:,} pictures could not be read" if made.left_out else ""
    say(f"{database}: {made.records:,} records of a source of kind {made.format}, {order}{lost}")


@command.command(epilog=SHOW)
@click.argument("database", metavar="DB", type=click.Path())
@BACKEND
@click.option("--sheet", metavar="FILE", type=click.Path(),
              help="Write a picture (.png, .jpg) of samples, one row a class.")  # fmt: skip
@click.option("--classes", metavar="FILE", type=click.Path(),
              help="Names of the labels, one a line, from label 0 on.")  # fmt: skip
@max_pixels
@forms(json="Print the result as JSON.")
@click.pass_context
def show(
    ctx: click.Context,
    database: str,
    backend: str,
    sheet: str | None,
    classes: str | None,
    form: str,
) -> None:
    """Say what DB holds: records, shapes, how often each label comes; draw samples of it.

    Every record is read, none is decoded (`db verify` does). The exit code is 1 if some are bad.
    """
    from caffeio.cli._given import apart
    from caffeio.tools.db_stats import db_stats

    apart(sheet)
    require_picture(sheet)
    names = read_names(classes)
    found = db_stats(database, backend.upper())
    (_say_json if form == "json" else _say)(database, found, names)
    if sheet:
        from caffeio.tools.sheet import sheet_of

        write_picture(sheet, sheet_of(found, names))
        if form != "json":
            say(f"Written: {sheet}")
    if found.bad:
        ctx.exit(1)


def _say_json(database: str, found: Any, names: list[str]) -> None:
    say_json({
        "file": database, "records": found.records, "bytes": found.size,
        "annotated": found.annotated, "boxes": found.boxes, "unlabelled": found.unlabelled,
        "shapes": dict(found.shapes.most_common()), "kinds": dict(found.kinds.most_common()),
        "labels": {str(label): n for label, n in sorted(found.labels.items())},
        "bad": [{"key": k.decode("utf-8", "backslashreplace"), "reason": r} for k, r in found.bad],
    })  # fmt: skip


BAR, MOST_BARS = 40, 30


def _say(database: str, found: Any, names: list[str]) -> None:
    from caffeio.converters.report.model import count, listed, size

    what = f"{count(found.records, 'record')}, {size(found.size)}"
    say(f"{database}: {what}" + (f", {count(found.boxes, 'box', 'boxes')}" * found.annotated))
    say("shapes: " + listed([f"{shape} ({n:,})" for shape, n in found.shapes.most_common()], 6))
    say("stored as: " + listed([f"{kind} ({n:,})" for kind, n in found.kinds.most_common()], 6))
    if found.unlabelled:
        say(f"without a label: {found.unlabelled:,}")
    if found.labels:
        _say_labels(found.labels, names, background=found.annotated)
    for key, reason in found.bad:
        say(f"bad: key {key.decode('utf-8', 'backslashreplace')}: {reason}")


def _say_labels(labels: Any, names: list[str], *, background: bool) -> None:
    numbers = sorted(labels)
    most, fewest = max(labels.values()), min(labels.values())
    say(f"labels: {len(numbers)}, from {numbers[0]} to {numbers[-1]}; {fewest:,} to {most:,} each")
    least = int(background)  # label 0 of boxes is what is no box
    if numbers[0] >= least and (missing := numbers[-1] + 1 - least - len(numbers)):
        first = next(i for i, label in enumerate([*numbers, -1], least) if i != label)
        say(f"labels that never come: {missing:,}, the first is {first}")
    text = {n: names[n] if 0 <= n < len(names) else "" for n in numbers[:MOST_BARS]}
    wide = max(map(len, text.values()))
    for label in numbers[:MOST_BARS]:
        bar = "█" * max(1, round(BAR * labels[label] / most))
        say(f"{label:>6} {text[label]:<{wide}} {bar} {labels[label]:,}")
    if len(numbers) > MOST_BARS:
        say(f"       and {len(numbers) - MOST_BARS} more labels (--json has all)")


command.add_command(image_mean.command, "mean")
