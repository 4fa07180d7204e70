"""The table of operators: one converter each, registered like the layer types.

    @operator("Relu")
    def relu(w: Writer, node: Node) -> str:
        return w.unary("ReLU", w.blob(node.inputs[0]))

A converter returns the blob of its output (a list of them if it has several). What it cannot do it
raises as Refused, with the reason and what could be done; all of these are told together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caffeio.converters.from_onnx.caffe_net import Writer
from caffeio.converters.from_onnx.graph import Node

Converter = Callable[[Writer, Node], str | Sequence[str]]
OPERATORS: dict[str, Converter] = {}

# Why an operator that has no converter cannot be said in Caffe, and what could be done.
CUT = "cut the graph in front of it with --output-blob, and do the rest in the program that runs it"
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv",
              "QLinearMatMul", "ConvInteger", "MatMulInteger")  # fmt: skip
REASONS: dict[str, tuple[str, str]] = {
    "NonMaxSuppression": ("its result has a size that depends on the data", CUT),
    "NonZero": ("its result has a size that depends on the data", CUT),
    "TopK": ("Caffe sorts nothing", CUT),
    "GatherElements": ("Caffe picks nothing by computed indices", CUT),
    "ScatterND": ("Caffe writes nothing at computed places", CUT),
    "ScatterElements": ("Caffe writes nothing at computed places", CUT),
    "GridSample": ("Caffe samples nothing at computed places", CUT),
    "RoiAlign": ("Caffe samples nothing at computed places", CUT),
    "Loop": ("Caffe has no loops", "export with fixed shapes, so that the loop is unrolled"),
    "Scan": ("Caffe has no loops", "export with fixed shapes, so that the loop is unrolled"),
    "If": ("Caffe has no branches", "export with fixed shapes, so that one branch is chosen"),
    "Erf": ("Caffe has no error function (but GELU as a whole has a form)", CUT),
    "Attention": ("Caffe multiplies no two computed matrices", CUT),
    **dict.fromkeys(
        _QUANTISED, ("Caffe's blobs are floats", "export the model before quantisation")
    ),
}
NO_CONVERTER = ("Caffe has no layer for it", CUT)


def operator(*kinds: str) -> Callable[[Converter], Converter]:
    """Register a converter for operators of ONNX."""

    def add(converter: Converter) -> Converter:
        for kind in kinds:
            if kind in OPERATORS:
                raise ValueError(f"operator {kind!r} has a converter")
            OPERATORS[kind] = converter
        return converter

    return add
