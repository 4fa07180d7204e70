"""A net as people look at it: in-place layers folded into the layer they work on, splits hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from caffeio.converters.show.layer_summary import layer_summary
from caffeio.net.graph import LayerNode, NetGraph
from caffeio.net.shapes import LayerShapes, NetShapes, Shape, parameters_of, product
from caffeio.shape_text import format_shape


@dataclass
class Part:
    """One layer of the file."""

    node: LayerNode
    shapes: LayerShapes
    bottoms: list[str]  # as the file names them, not the tops of Split layers

    @property
    def parameters(self) -> int | None:
        """Values in its blobs, None if unknown."""
        return parameters_of(self.node.param, self.shapes)


@dataclass
class LayerRow:
    """A layer with the in-place layers behind it."""

    index: int
    parts: list[Part]
    sources: list[int] = field(default_factory=list)  # rows that it reads from
    readers: list[int] = field(default_factory=list)

    @property
    def node(self) -> LayerNode:
        """The first layer."""
        return self.parts[0].node

    @property
    def name(self) -> str:
        """The first layer's name."""
        return self.node.name

    @property
    def type_name(self) -> str:
        """`Convolution+BatchNorm+Scale+ReLU`."""
        return "+".join(part.node.type for part in self.parts)

    @property
    def summary(self) -> str:
        """What the first layer does."""
        return layer_summary(self.node.param)

    @property
    def tops(self) -> tuple[Shape | None, ...]:
        """Shapes of the first layer's tops."""
        return self.parts[0].shapes.tops

    @property
    def parameters(self) -> int | None:
        """Values in all blobs, None if unknown."""
        return _sum([part.parameters for part in self.parts])

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one forward pass, None if unknown."""
        return _sum([part.shapes.macs for part in self.parts])

    @property
    def bytes(self) -> int:
        """Memory of its tops, in-place ones once."""
        return 4 * sum(max(product(top), 0) for top in self.tops if top is not None)


@dataclass
class View:
    """All rows of a net in one phase."""

    graph: NetGraph
    shapes: NetShapes
    rows: list[LayerRow]

    @property
    def inputs(self) -> list[tuple[str, Shape | None]]:
        """Blobs that layers without bottoms make."""
        return [
            (top, shape)
            for node, shapes in zip(self.graph.nodes, self.shapes.layers, strict=True)
            if not node.bottoms and node.type != "Parameter"
            for top, shape in zip(node.tops, shapes.tops, strict=False)
        ]

    @property
    def outputs(self) -> list[tuple[str, Shape | None]]:
        """The net's outputs, in Caffe's order."""
        return [(name, self.shapes.blobs.get(name)) for name in self.graph.outputs]

    def types(self) -> dict[str, int]:
        """Layer type -> how many, most frequent first."""
        counts: dict[str, int] = {}
        for row in self.rows:
            for part in row.parts:
                counts[part.node.type] = counts.get(part.node.type, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _sum(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value for value in values if value is not None)


def make_view(shapes: NetShapes, *, fold: bool = True) -> View:
    """Arrange the layers of a net in rows; `fold` folds in-place layers."""
    rows: list[LayerRow] = []
    maker: dict[str, int] = {}  # blob -> row
    alias = split_names(shapes.graph)
    for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
        if node.type == "Split":
            source = maker[node.bottoms[0]]
            maker.update(dict.fromkeys(node.tops, source))
            continue
        part = Part(node, found, [alias.get(name, name) for name in node.bottoms])
        if fold and _folds(node) and len(rows[maker[node.bottoms[0]]].node.tops) == 1:
            rows[maker[node.bottoms[0]]].parts.append(part)
            continue
        row = LayerRow(len(rows), [part])
        row.sources = list(dict.fromkeys(maker[b] for b in node.bottoms if b in maker))
        for source in row.sources:
            rows[source].readers.append(row.index)
        rows.append(row)
        maker.update(dict.fromkeys(node.tops, row.index))
    return View(shapes.graph, shapes, rows)


def split_names(graph: NetGraph) -> dict[str, str]:
    """Tops of Split layers -> the blob that they are copies of."""
    return {
        top: node.bottoms[0] for node in graph.nodes if node.type == "Split" for top in node.tops
    }


def _folds(node: LayerNode) -> bool:
    """Whether a layer works in place on one blob."""
    return bool(node.in_place) and len(node.tops) == len(node.bottoms) == 1


def as_data(view: View) -> dict[str, Any]:
    """The net as plain data: every layer with shapes, parameters and MACs."""
    layers = []
    alias = split_names(view.graph)
    for node, found in zip(view.graph.nodes, view.shapes.layers, strict=True):
        if node.type == "Split" and node.source_index is None:
            continue
        layers.append(
            {
                "name": node.name,
                "type": node.type,
                "where": node.where,
                "bottoms": [alias.get(name, name) for name in node.bottoms],
                "tops": node.tops,
                "top_shapes": [None if s is None else list(s) for s in found.tops],
                "blob_shapes": [list(s) for s in found.blobs],
                "parameters": parameters_of(node.param, found),
                "macs": found.macs,
                "known_type": found.known_type,
            }
        )
    return {
        "name": view.graph.name,
        "phase": view.graph.phase,
        "inputs": [{"name": n, "shape": s} for n, s in view.inputs],
        "outputs": [{"name": n, "shape": s} for n, s in view.outputs],
        "parameters": view.shapes.parameters,
        "parameters_known": view.shapes.parameters_known,
        "macs": view.shapes.macs,
        "macs_known": view.shapes.macs_known,
        "data_bytes": view.shapes.data_bytes,
        "guessed": view.shapes.guessed,
        "problems": [{"layer": node.name, "message": m} for node, m in view.shapes.problems],
        "layers": layers,
    }


def shape_words(shapes: Sequence[Shape | None]) -> str:
    """Shapes of several tops; equal ones once."""
    texts = list(dict.fromkeys(map(format_shape, shapes)))
    if len(texts) == 1 and len(shapes) > 1:
        return f"{len(shapes)} of {texts[0]}"
    return ", ".join(texts)
