"""A conversion: Request (options), Conversion (files), Outcome (messages)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from caffeio.errors import CaffeIOError

if TYPE_CHECKING:
    from caffeio.converters.verify.check import Checked


@dataclass
class Request:
    """What a conversion may be told beside its files."""

    dialect: str | None = None  # of the source; None: as detected
    to_dialect: str | None = None
    deploy: bool = False
    input_shape: dict[str, tuple[int, ...]] = field(default_factory=dict)
    no_verify: bool = False
    dynamic_batch: bool = False
    output_blob: tuple[str, ...] = ()
    opset: int = 17  # of ONNX
    input_blob: tuple[str, ...] = ()  # ONNX: blobs at which the net begins
    dynamic: tuple[str, ...] = ()  # ONNX: of batch, height, width
    fold: bool = False  # ONNX: fewer nodes
    fp16: bool = False
    client: str = ""  # ONNX: whose reader it is for
    unroll: bool = False  # ONNX: LSTM and RNN step by step
    preprocess: bool = False  # ONNX: pictures go in
    mean: str | None = None  # of pictures: numbers, or a .binaryproto
    scale: float | None = None
    order: str | None = None  # of pictures: bgr or rgb
    size: tuple[int, int] | None = None  # of pictures: height and width
    labels: str | None = None  # a file of class names, one a line
    external_data: bool = False  # ONNX: weights in a file beside the model
    caffe: str | None = None  # name of a profile
    stage: tuple[str, ...] = ()
    level: int = 0
    merge_batch_norm: bool = False
    float32: bool = False
    modern_shapes: bool = False
    untrained: bool = False
    force: bool = False
    allow_loss: bool = False
    map: str | None = None  # a file: which PyTorch module belongs to which layer
    names: str = "caffe"  # or "torch": how tensors are called
    certificate: str | None = None  # where the comparison layer by layer goes
    target: str | None = None  # of ONNX to Caffe: a name in from_onnx/targets
    prototxt: str | None = None  # where the prototxt goes


@dataclass
class Outcome:
    """`messages` is the result in words, `warnings` tells what was left out or changed on the way.

    `checked` is what was compared with the net as given, if it was.
    """

    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    checked: Checked | None = None


@dataclass
class Conversion:
    """One conversion: the net's file first, then the weights'; `kinds` are the sources' formats.

    `out` is the path to write to; what is there in the end takes the place of `target`. `own` says
    that a file at `target` is known to be an earlier product of this command.
    """

    sources: list[Path]
    kinds: list[str]
    target: Path
    target_format: str
    request: Request
    out: Path
    own: bool = False


def parse_input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The blob name and shape of an option such as data=1,3,224,224. Raises CaffeIOError."""
    name, equals, dims = text.rpartition("=")
    try:
        shape = tuple(int(n) for n in dims.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not equals or not name or not shape or min(shape) < 1:
        raise CaffeIOError(
            f"{text!r} is no input shape; one looks like data=1,3,224,224 (NAME=N,C,H,W)"
        )
    return name, shape
