"""Draws a net as a graph of layers and blobs, with pydot (or pydotplus) and Graphviz.

Source of the behaviour, the colours and the labels: python/caffe/draw.py (BVLC).
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from caffeio.errors import UnsupportedError
from caffeio.pycaffe.proto import caffe_pb2

LAYER_STYLE_DEFAULT = {"shape": "record", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE = {"shape": "record", "fillcolor": "#90EE90", "style": "filled"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}
_COLOURS = {
    "Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900",
    "InnerProduct": "#CC33FF",
}  # fmt: skip
_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
_NOTHING = '""'


def _pydot() -> Any:
    for name in ("pydot", "pydotplus"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise UnsupportedError("drawing needs the package pydot: pip install 'caffeio[draw]'")


def get_pooling_types_dict() -> dict[int, str]:
    """Number of a pooling method -> its name."""
    values = caffe_pb2.PoolingParameter.PoolMethod.DESCRIPTOR.values
    return {value.number: value.name for value in values}


def get_edge_label(layer: Any) -> str:
    """What stands at the edge from a layer to its top: the batch size, or the channels."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return _NOTHING


def get_layer_lr_mult(layer: Any) -> tuple[float, float]:
    """The learning-rate factors of weights and bias; 1 where the layer gives none.

    Raises ValueError for layers of other types than Convolution, Deconvolution and InnerProduct.
    """
    if layer.type not in _LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    given = [param.lr_mult for param in layer.param]
    if len(given) > 2:
        raise ValueError("Could not parse the learning rate multiplier")
    weight, bias = (given + [1.0, 1.0][len(given) :])[:2]
    return weight, bias


def get_layer_label(layer: Any, rankdir: str, display_lrm: bool = False) -> str:
    """The text in a layer's box: name, type, window, and the learning-rate factors if wanted."""
    # a graph from top to bottom has room beside, one from left to right has room below
    separator = " " if rankdir in ("TB", "BT") else r"\n"
    kind = layer.type
    if kind == "Pooling":
        kind += " " + get_pooling_types_dict()[layer.pooling_param.pool]
    lines = [layer.name, f"({kind})"]
    if (window := _window(layer)) is not None:
        names = ("kernel size", "stride", "pad")
        lines += [f"{name}: {size}" for name, size in zip(names, window, strict=True)]
    if display_lrm and layer.type in _LEARNING:
        factors = get_layer_lr_mult(layer)
        if any(factors):
            lines.append("lr mult: {:.1f}, {:.1f}".format(*factors))
    return f'"{separator.join(lines)}"'  # in quotes, for the colons


def _window(layer: Any) -> tuple[int, int, int] | None:
    """Kernel size, stride and pad: those of the first axis."""
    if layer.type == "Pooling":
        param = layer.pooling_param
        return param.kernel_size, param.stride, param.pad
    if layer.type in ("Convolution", "Deconvolution"):
        param = layer.convolution_param
        first = [
            next(iter(getattr(param, name)), default)
            for name, default in (("kernel_size", 1), ("stride", 1), ("pad", 0))
        ]
        return first[0], first[1], first[2]
    return None


def choose_color_by_layertype(layertype: str) -> str:
    """The colour of a layer's box."""
    return _COLOURS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def _takes_part(layer: Any, phase: int | None) -> bool:
    if phase is None:
        return True
    if layer.include and layer.exclude:
        raise ValueError(f"layer {layer.name} has both include and exclude specified.")
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return all(rule.phase != phase for rule in layer.exclude)


def get_pydot_graph(
    caffe_net: Any,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Any:
    """The graph of a NetParameter as a pydot.Dot.

    `rankdir` is LR, TB or BT; `phase` leaves out layers of the other phase; `display_lrm` shows
    learning-rate factors. Raises UnsupportedError if neither pydot nor pydotplus is there.
    """
    pydot = _pydot()
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str, str]] = []
    for layer in caffe_net.layer:
        if not _takes_part(layer, phase):
            continue
        own = f"{layer.name}_{layer.type}"
        in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
        colour = choose_color_by_layertype(layer.type)
        style = NEURON_LAYER_STYLE if in_place else {**LAYER_STYLE_DEFAULT, "fillcolor": colour}
        nodes[own] = pydot.Node(get_layer_label(layer, rankdir, display_lrm=display_lrm), **style)
        for blob in layer.bottom:
            nodes[f"{blob}_blob"] = pydot.Node(f'"{blob}"', **BLOB_STYLE)
            edges.append((f"{blob}_blob", own, _NOTHING))
        for blob in layer.top:
            nodes[f"{blob}_blob"] = pydot.Node(f'"{blob}"')
            label = get_edge_label(layer) if label_edges else _NOTHING
            edges.append((own, f"{blob}_blob", label))
    name = caffe_net.name or "Net"
    graph = pydot.Dot(f'"{name}"', graph_type="digraph", rankdir=rankdir)
    for node in nodes.values():
        graph.add_node(node)
    for source, goal, label in edges:
        graph.add_edge(pydot.Edge(nodes[source], nodes[goal], label=label))
    return graph


def draw_net(
    caffe_net: Any,
    rankdir: str,
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """The picture of a NetParameter as the bytes of a file of type `ext`; `raw` is text.

    The other arguments are those of get_pydot_graph. Needs Graphviz's program dot.
    """
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    picture: bytes = graph.to_string().encode() if ext == "raw" else graph.create(format=ext)
    return picture


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draw a NetParameter into a file; what stands behind the last dot of its name is the type."""
    ext = os.fspath(filename).rpartition(".")[2]
    picture = draw_net(caffe_net, rankdir, ext, phase, display_lrm)
    with open(filename, "wb") as file:
        file.write(picture)
