"""`caffeio convert`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from caffeio.cli._given import there
from caffeio.cli._options import DIALECT, FORMAT, TARGET, caffe, dialect, input_shape, state
from caffeio.cli._terminal import say

EPILOG = """
\b
Examples:
  caffeio convert deploy.prototxt model.caffemodel model.onnx
  caffeio convert net.prototxt model.caffemodel model.onnx --dynamic batch
  caffeio convert model.caffemodel model.safetensors
  caffeio convert deploy.prototxt model.caffemodel net.py
  caffeio convert train_val.prototxt model.safetensors model.caffemodel
  caffeio convert fork.caffemodel plain.caffemodel --to-dialect bvlc
  caffeio convert x.caffemodel x.prototxt --deploy --input-shape data=1,3,9,9
  caffeio convert model.onnx out.caffemodel --target bvlc-1.0
  caffeio convert mean.binaryproto mean.npy
  caffeio convert model.caffemodel - --to prototxt | head
"""


@click.command(epilog=EPILOG, no_args_is_help=True)
@click.argument("files", nargs=-1, metavar="INPUTS... OUTPUT", type=click.Path())
@click.option("--output", "-o", type=click.Path(), help="The output: all FILES are inputs then.")
@click.option("--weights", "-w", type=click.Path(), help="An input: the weights of the net.")
@click.option(
    "--from", "source_format", metavar="FORMAT", type=FORMAT, help="Format of the (last) input."
)
@click.option("--to", "target_format", metavar="FORMAT", type=FORMAT, help="Format of the output.")
@dialect("The Caffe that the input was written for (default: what it tells).")
@click.option(
    "--to-dialect", metavar="NAME", type=DIALECT, help="The Caffe that the output is for."
)
@click.option("--deploy", is_flag=True, help="Write a prototxt for use: no data layers, no losses.")
@input_shape(text="The shape of an input, where the files do not tell, or another one")
@click.option("--dynamic-batch", is_flag=True, help="ONNX: let the batch be of any size.")
@click.option(
    "--output-blob", multiple=True, metavar="BLOB", help="ONNX: an output; may be repeated."
)
@click.option("--opset", type=int, default=17, metavar="N", help="ONNX: the opset, 9 to 24 (17).")
@click.option(
    "--input-blob",
    multiple=True,
    metavar="BLOB",
    help="ONNX: a blob at which the net begins; may be repeated.",
)
@click.option(
    "--dynamic",
    multiple=True,
    metavar="AXES",
    help="ONNX: sizes that may be any, of batch,height,width.",
)
@click.option("--fp16", is_flag=True, help="ONNX: weights and most of the arithmetic in float16.")
@click.option(
    "--for",
    "client",
    type=click.Choice(["opencv"]),
    help="ONNX: for OpenCV 4, with its own DetectionOutput (OpenCV 5 needs no flag).",
)
@click.option("--unroll", is_flag=True, help="ONNX: LSTM and RNN step by step.")
@click.option("--preprocess", is_flag=True, help="ONNX: uint8 pictures (NHWC) go in.")
@click.option(
    "--mean", metavar="B,G,R|FILE", help="ONNX: the mean of pictures, in place of the net's."
)
@click.option("--scale", type=float, metavar="X", help="ONNX: the scale of pictures.")
@click.option("--bgr/--rgb", "bgr", default=None, help="ONNX: channels of pictures (BGR).")
@click.option("--size", metavar="H,W", help="ONNX: the size of pictures, where the net crops them.")
@click.option("--labels", type=click.Path(), metavar="FILE", help="ONNX: names of the classes.")
@click.option("--fold", is_flag=True, help="ONNX: put factors and constants into the weights.")
@click.option("--external-data", is_flag=True, help="ONNX: weights in a file beside the model.")
@click.option("--no-verify", is_flag=True, help="Do not run the result to compare it.")
@click.option("--untrained", is_flag=True, help="Convert without (some of) the weights.")
@click.option("--allow-loss", is_flag=True, help="Write what computes something else, too.")
@click.option(
    "--names",
    type=click.Choice(["caffe", "torch"]),
    default="caffe",
    help="Tensors (.pt, .safetensors): Caffe's blobs as they are, or those of a PyTorch module.",
)
@click.option(
    "--map", type=click.Path(), metavar="FILE", help="Which PyTorch module is which layer."
)
@click.option(
    "--certificate",
    type=click.Path(),
    metavar="FILE",
    help="Write the comparison with the source, layer by layer, as .html or .json.",
)
@click.option("--force", "-f", is_flag=True, help="Replace an output that is there already.")
@caffe()
@state("stage")
@click.option("--merge-batch-norm", is_flag=True, help="Put Scale layers into their BatchNorm.")
@click.option("--float32", is_flag=True, help="Make floats of doubles (caffemodel).")
@click.option("--modern-shapes", is_flag=True, help="Give old blobs today's shapes (caffemodel).")
@click.option(
    "--target", metavar="NAME", type=TARGET, help="ONNX to Caffe: whose layers (default bvlc-1.0)."
)
@click.option("--prototxt", type=click.Path(), help="ONNX to Caffe: the prototxt to write.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def command(
    files: tuple[str, ...],
    output: str | None,
    weights: str | None,
    source_format: str | None,
    target_format: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert a model between formats and dialects.

    INPUTS are one file, or a net prototxt and its weights; OUTPUT's suffix says what is wanted.
    Formats: prototxt, caffemodel, h5, safetensors, pt, npz, onnx, py (a PyTorch module beside its
    weights), pt2 (a torch.export program), binary (a net without weights),
    mean (a .binaryproto) and npy. What is made is run (ONNX in onnxruntime, if that is installed)
    and compared with the net of the files as they were given; above 1e-4 of the largest value
    nothing is written. What could not be compared, and what the new file cannot express, is said
    on standard error. A file that is there already is replaced with --force only, unless it is the
    same or caffeio has made it. - stands for standard input or output.
    """
    inputs, output = _split(files, output, weights)
    if not any(name == "-" or os.path.exists(name) for name in (*inputs, output)):
        there(inputs[0])
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
    for line in outcome.warnings:
        say(f"{output}: {line}", err=True)
    for line in outcome.messages:
        say(f"{output}: {line}", err=output == "-")


def _split(files: Sequence[str], output: str | None, weights: str | None) -> tuple[list[str], str]:
    """Inputs and output, whichever way they are told."""
    inputs = [*files, *([weights] if weights else [])]
    if output is None:
        if len(inputs) < 2 or not files:
            raise click.UsageError(
                "an input and an output are needed: `caffeio convert INPUTS... OUTPUT`"
            )
        output = files[-1]
        inputs = [*files[:-1], *([weights] if weights else [])]
    if not inputs:
        raise click.UsageError("an input is needed: `caffeio convert INPUTS... OUTPUT`")
    return inputs, output


def _stdin(scratch: Path) -> Path:
    path = scratch / "stdin"
    from caffeio.proto.io.regular import read_stream

    path.write_bytes(read_stream(sys.stdin.buffer))
    return path


def _request(options: dict[str, Any]) -> Any:
    from caffeio.converters.request import Request, parse_input_shape

    shapes = dict(parse_input_shape(text) for text in options.pop("input_shape"))
    options["client"] = options["client"] or ""
    bgr, size = options.pop("bgr"), options.pop("size")
    options["order"] = None if bgr is None else "bgr" if bgr else "rgb"
    options["size"] = None if size is None else _size(size)
    return Request(input_shape=shapes, **options)


def _size(text: str) -> tuple[int, int]:
    """Height and width: H,W, or one number for both."""
    parts = text.replace("x", ",").split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r} is no size: give H,W", param_hint="--size")
    return int(parts[0]), int(parts[-1])
