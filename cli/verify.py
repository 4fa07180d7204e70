"""`caffeio verify`."""

from __future__ import annotations

from typing import Any

import click

from caffeio.cli._given import apart, there
from caffeio.cli._options import DIALECT, dialect, forms, input_shape, output
from caffeio.cli._terminal import write_report

EPILOG = """
\b
Examples:
  caffeio verify deploy.prototxt model.caffemodel model.onnx
  caffeio verify fork.prototxt fork.caffemodel plain.prototxt plain.caffemodel
  caffeio verify fork.prototxt a.caffemodel b.safetensors --inputs picture.npz
  caffeio verify deploy.prototxt x.caffemodel model.onnx --html -o same.html
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("files", nargs=-1, metavar="A... B...", type=click.Path())
@click.option("--inputs", type=click.Path(), help="An .npz with an array for each input blob.")
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="What is the same.")
@forms(json="Write all of it as JSON.", html="Write one page: the certificate.")
@output()
@dialect("The Caffe that A's files were written for (default: what they tell).")
@click.option("--other-dialect", metavar="NAME", type=DIALECT,
              help="The Caffe that B's files were written for.")  # fmt: skip
@input_shape()
@click.option("--output-blob", multiple=True, metavar="BLOB",
              help="Compare up to this blob; may be repeated.")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, files: tuple[str, ...], **options: Any) -> None:
    """Compare two models layer by layer.

    A and B are each a net prototxt with weights of any format, a caffemodel alone, an ONNX model,
    or a PyTorch program (TorchScript .pt, torch.export .pt2). Both are run on the same inputs:
    several random ones, and the net's own data if it is there, or those of --inputs. The first
    layer that differs is named with its likely cause. The exit code is 1 if the outputs differ.
    """
    there(*files)
    apart(options["output"])
    from caffeio.converters.deploy.deploy_net import DeployOptions
    from caffeio.converters.request import parse_input_shape
    from caffeio.converters.verify.report import compare
    from caffeio.converters.verify.sides import open_sides, pair_up

    shapes = dict(parse_input_shape(text) for text in options["input_shape"])
    common: dict[str, Any] = {"input_shapes": shapes, "outputs": options["output_blob"]}
    first = DeployOptions(dialect=options["dialect"], **common)
    second = DeployOptions(dialect=options["other_dialect"] or options["dialect"], **common)
    sides = open_sides(*pair_up(files), first, second)
    given = _arrays(options["inputs"]) if options["inputs"] else None
    found, report = compare(*sides, first, given=given, tolerance=options["tolerance"])
    write_report(report, options["form"], options["output"])
    if not found.same:
        ctx.exit(1)


def _arrays(path: str) -> dict[str, Any]:
    import numpy as np

    from caffeio.errors import CaffeIOError
    from caffeio.proto.io.regular import open_regular
    from caffeio.proto.weights.npz import BROKEN_ARCHIVE, check_array

    try:
        with open_regular(path) as raw, np.load(raw, allow_pickle=False) as archive:
            for name in archive.files:
                check_array(archive.zip, f"{name}.npy", path)
            return {name: archive[name].astype(np.float32) for name in archive.files}
    except OSError as error:
        raise CaffeIOError(f"cannot be read: {error.strerror or error}", where=path) from None
    except BROKEN_ARCHIVE:
        said = "is no .npz of arrays: np.savez(path, BLOB=array) writes one"
        raise CaffeIOError(said, where=path) from None
