"""What the user of an exporter chooses beside the net."""

from __future__ import annotations

from dataclasses import dataclass

from caffeio.layers.onnx.graph import OPSET


@dataclass(frozen=True)
class Choices:
    """How an ONNX model is written; the defaults give what most runtimes read."""

    opset: int = OPSET  # from 9 to 24
    fold: bool = False  # fewer nodes, where that is exact but for rounding
