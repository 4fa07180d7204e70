"""Layers that the model's metadata tell (see `converters/onnx/told.py`)."""

from __future__ import annotations

import math

from caffeio.converters.from_onnx.graph import Array, Graph, Node
from caffeio.converters.from_onnx.targets import Target
from caffeio.converters.onnx.told import Told
from caffeio.errors import ParseError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.text.text_format import parse

KIND = "caffe::layer"


def restore(graph: Graph, told: list[Told], target: Target) -> None:
    """Put told layers back where the target has their types; their operators go.

    A note whose values are not in the graph any more is not believed. What the layer computes is
    compared with the operators' numbers like everything else.
    """
    for one in (note.renamed(graph.aliases) for note in told):
        makers = graph.makers()
        try:
            param = parse(one.layer, pb.LayerParameter).message
        except ParseError:
            continue
        known = all(
            name in makers or name in graph.inputs or graph.constant(name) is not None
            for name in one.bottoms
        )
        if not (known and target.has(param.type) and all(top in makers for top in one.tops)):
            continue
        last = max(graph.nodes.index(makers[top]) for top in one.tops)
        blobs = _blobs(graph, one)
        if blobs is None:
            continue
        attrs = {"layer": param, "blobs": blobs}
        node = Node(KIND, param.name, list(one.bottoms), list(one.tops), attrs)
        node.place = graph.nodes[last].place
        node.part_of = [node.place]
        for maker in {id(makers[top]): makers[top] for top in one.tops}.values():
            maker.outputs = ["" if name in one.tops else name for name in maker.outputs]
        graph.nodes.insert(last + 1, node)
        graph.sweep()


def _blobs(graph: Graph, one: Told) -> list[Array] | None:
    """A told layer's blobs in the layer's shapes; None if they are not all there."""
    found = []
    for index, name in enumerate(one.blobs):
        blob = graph.constant(name)
        shape = one.shapes[index] if index < len(one.shapes) else None
        if blob is None or (shape is not None and not _fits(blob, shape)):
            return None
        found.append(blob if shape is None else blob.reshape(shape))
    return found


def _fits(blob: Array, shape: list[int]) -> bool:
    return min(shape, default=0) >= 0 and math.prod(shape) == blob.size
