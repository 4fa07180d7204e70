"""`caffeio convert`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio convert deploy.prototxt model.caffemodel model.onnx
  caffeio convert train_val.prototxt model.caffemodel model.onnx --dynamic-batch
  caffeio convert model.caffemodel model.safetensors
  caffeio convert train_val.prototxt model.safetensors model.caffemodel
  caffeio convert fork.caffemodel plain.caffemodel --to-dialect bvlc
  caffeio convert model.caffemodel deploy.prototxt --deploy --input-shape data=1,3,224,224
  caffeio convert model.onnx out.caffemodel --target bvlc-1.0
  caffeio convert mean.binaryproto mean.npy
  caffeio convert model.caffemodel - --to prototxt | less
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.argument("output", type=click.Path())
@click.option("--from", "source_format", metavar="FORMAT", help="Format of the (last) input.")
@click.option("--to", "target_format", metavar="FORMAT", help="Format of the output.")
@click.option("--dialect", metavar="NAME", help="The Caffe that the input was written for.")
@click.option("--to-dialect", metavar="NAME", help="The Caffe that the output is for.")
@click.option("--deploy", is_flag=True, help="Write a prototxt for use: no data layers, no losses.")
@click.option(
    "--input-shape",
    multiple=True,
    metavar="NAME=N,C,H,W",
    help="The shape of an input, where the files do not tell, or another one; may be repeated.",
)
@click.option("--dynamic-batch", is_flag=True, help="ONNX: let the batch be of any size.")
@click.option(
    "--output-blob", multiple=True, metavar="BLOB", help="ONNX: an output; may be repeated."
)
@click.option("--no-verify", is_flag=True, help="ONNX: do not run the model to compare.")
@click.option(
    "--caffe", type=click.Choice(["bvlc", "intel", "nvidia"]), help="Whose numbers are wanted."
)
@click.option("--stage", multiple=True, help="A stage of the net; may be repeated.")
@click.option("--level", type=int, default=0, help="The level of the net.")
@click.option("--merge-batch-norm", is_flag=True, help="Put Scale layers into their BatchNorm.")
@click.option("--float32", is_flag=True, help="Make floats of doubles (caffemodel).")
@click.option("--modern-shapes", is_flag=True, help="Give old blobs today's shapes (caffemodel).")
@click.option("--target", metavar="NAME", help="ONNX to Caffe: whose layers (default bvlc-1.0).")
@click.option("--prototxt", type=click.Path(), help="ONNX to Caffe: the prototxt to write.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def command(
    inputs: tuple[str, ...],
    output: str,
    source_format: str | None,
    target_format: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert a model between formats and dialects.

    INPUTS are one file, or a net prototxt and its weights; OUTPUT's suffix says what is wanted.
    Formats: prototxt, caffemodel, h5, safetensors, pt, npz, onnx, binary (a net without weights),
    mean (a .binaryproto) and npy. An ONNX model is run in onnxruntime, if that is installed, and
    compared with the net; above 1e-4 nothing is written. What the new file cannot express is said
    on standard error. - stands for standard input or output.
    """
    from caffeio.converters.convert.convert import convert
    from caffeio.converters.source import scratch_folder

    with scratch_folder() as scratch:
        target = scratch / "stdout" if output == "-" else Path(output)
        if output == "-" and target_format is None:
            raise click.UsageError("standard output needs --to FORMAT")
        outcome = convert(
            [_stdin(scratch) if name == "-" else name for name in inputs],
            target,
            _request(options),
            source_format=source_format,
            target_format=target_format,
        )
        if output == "-":
            with target.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    if quiet:
        return
    for line in outcome.notes:
        say(f"{output}: {line}", err=True)
    for line in outcome.said:
        say(f"{output}: {line}", err=output == "-")


def _stdin(scratch: Path) -> Path:
    path = scratch / "stdin"
    from caffeio.proto.io.regular import read_stream

    path.write_bytes(read_stream(sys.stdin.buffer))
    return path


def _request(options: dict[str, Any]) -> Any:
    from caffeio.converters.convert.conversions import Request
    from caffeio.converters.prototxt import parse_input_shape

    shapes = dict(parse_input_shape(text) for text in options.pop("input_shape"))
    return Request(input_shape=shapes, **options)
