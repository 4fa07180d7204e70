"""What the user of an exporter chooses beside the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffeio.layers.onnx.graph import OPSET

if TYPE_CHECKING:
    from caffeio.converters.onnx.pictures import PictureOptions


@dataclass(frozen=True)
class Choices:
    """How an ONNX model is written; the defaults give what most runtimes read."""

    opset: int = OPSET  # from 9 to 24
    fold: bool = False  # fewer nodes, where that is exact but for rounding
    dynamic: frozenset[str] = frozenset()  # of batch, height, width: what may be of any size
    half: bool = False  # weights and most of the arithmetic in float16
    client: str = ""  # "opencv": version 4, with its own DetectionOutput
    unroll: bool = False  # LSTM and RNN step by step
    pictures: PictureOptions | None = None  # preprocessing becomes part of the model
    labels: Sequence[str] = ()  # names of the classes, for the metadata
