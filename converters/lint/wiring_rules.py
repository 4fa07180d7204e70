"""Rules about how layers hang together."""

from __future__ import annotations

from collections.abc import Iterator

from caffeio.converters.lint.model import ERROR, Finding, NetContext, is_loss, net_rule
from caffeio.layers.registry import may_end_type, reads_data
from caffeio.net.graph import LayerNode, NetGraph


def reached(graph: NetGraph) -> set[int]:
    """Indices of the nodes that feed a loss."""
    maker: dict[str, int] = {}
    sources: list[list[int]] = []
    for i, node in enumerate(graph.nodes):
        sources.append([maker[b] for b in node.bottoms if b in maker])
        maker.update(dict.fromkeys(node.tops, i))
    out: set[int] = set()
    for i in reversed(range(len(graph.nodes))):
        if i in out or is_loss(graph.nodes[i].param):
            out.add(i)
            out.update(sources[i])
    return out


@net_rule("CIO200", "does-not-build", ERROR)
def does_not_build(context: NetContext) -> Iterator[Finding]:
    """The layers do not fit together: Caffe dies while it builds the net.

    A net that can be built for one phase only is well if all that the other lacks is its data.
    """
    errors = context.build_errors
    for phase, error in errors.items():
        if len(errors) == 1 and _lacks_its_data(context, phase, error.message):
            continue
        if phase == "TEST" and "TRAIN" in errors and error.message == errors["TRAIN"].message:
            continue
        yield context.finding("CIO200", f"({phase}) {error.message}", error.where or context.path)


def _lacks_its_data(context: NetContext, phase: str, message: str) -> bool:
    """Whether the net reads data, but not in this phase: then it is not meant for it."""
    sources = [layer for layer in context.layers if reads_data(layer.type)]
    here = any(context.in_phase(layer, phase) for layer in sources)
    return "unknown bottom blob" in message and bool(sources) and not here


@net_rule("CIO201", "unused-top")
def unused_top(context: NetContext) -> Iterator[Finding]:
    """In training, a layer makes something that nothing reads and that is no measure.

    Caffe takes it for an output of the net: it is computed, and printed at every display. Name the
    right blob where it should be read, or end it in a Silence layer.
    """
    graph = context.graphs.get("TRAIN")
    if graph is None or not context.trains:
        return
    for node in graph.nodes:
        if node.source_index is None or is_loss(node.param) or may_end_type(node.type):
            continue
        for i, top in enumerate(node.tops):
            if top in graph.outputs and _last_maker(graph, top) is node:
                message = f"nothing reads its top {top!r} in TRAIN"
                yield context.layer("CIO201", node.source_index, message, "top", i)


def _last_maker(graph: NetGraph, blob: str) -> LayerNode | None:
    return next((node for node in reversed(graph.nodes) if blob in node.tops), None)


@net_rule("CIO202", "no-loss")
def no_loss(context: NetContext) -> Iterator[Finding]:
    """A net reads data meant for training, and has no loss: nothing would be learned."""
    graph = context.graphs.get("TRAIN")
    if graph is None or any(is_loss(node.param) for node in graph.nodes):
        return
    if any(node.type == "Python" for node in graph.nodes):
        return  # a Python layer may be the loss
    for index, layer in enumerate(context.layers):
        only_train = context.in_phase(layer, "TRAIN") and not context.in_phase(layer, "TEST")
        if reads_data(layer.type) and only_train:
            message = "reads data for TRAIN, but the net has no loss there"
            yield context.layer("CIO202", index, message)
            return


@net_rule("CIO203", "unreached")
def unreached(context: NetContext) -> Iterator[Finding]:
    """A layer has weights to be learned, and no way leads from it to a loss.

    Its weights stay as they were filled.
    """
    graph = context.graphs.get("TRAIN")
    if graph is None or not context.trains or any(n.type == "Python" for n in graph.nodes):
        return
    good = reached(graph)
    shapes = context.shapes["TRAIN"]
    for i, node in enumerate(graph.nodes):
        learns = shapes.layers[i].blobs and any(
            index >= len(node.param.param) or node.param.param[index].lr_mult
            for index in range(len(shapes.layers[i].blobs))
        )
        if i not in good and learns and node.source_index is not None:
            yield context.layer("CIO203", node.source_index, "its weights reach no loss in TRAIN")


@net_rule("CIO204", "no-in-place")
def no_in_place(context: NetContext) -> Iterator[Finding]:
    """A layer works in place that cannot: it overwrites what it still has to read.

    Caffe does not check this for most types. Give the top a name of its own.
    """
    yield from context.refused("CIO204", "in-place")


@net_rule("CIO206", "same-name")
def same_name(context: NetContext) -> Iterator[Finding]:
    """Two layers of one phase that have weights have the same name.

    Weights are loaded by name: only the first gets them (from HDF5: the last), and a snapshot holds
    both under one name.
    """
    seen: set[int] = set()
    for shapes in context.shapes.values():
        first: dict[str, int] = {}
        for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
            index = node.source_index
            if index is None or index in seen or not found.blobs:
                continue
            if node.name in first:
                seen.add(index)
                message = f"the name is taken by {context.file.locate('layer', first[node.name])}"
                yield context.layer("CIO206", index, message, "name")
            first.setdefault(node.name, index)


@net_rule("CIO207", "shared-mults", ERROR)
def shared_mults(context: NetContext) -> Iterator[Finding]:
    """Shared weights with different lr_mult or decay_mult: Caffe dies while it builds the net."""
    yield from context.refused("CIO207", "shared-mults")


@net_rule("CIO208", "loss-weights", ERROR)
def loss_weights(context: NetContext) -> Iterator[Finding]:
    """loss_weight must be given once for each top, or not at all; Caffe dies otherwise."""
    yield from context.refused("CIO208", "loss-weights")


@net_rule("CIO209", "shared-shapes", ERROR)
def shared_shapes(context: NetContext) -> Iterator[Finding]:
    """Shared weights of different shapes: Caffe dies while it builds the net.

    share_mode: PERMISSIVE asks only for equal numbers of values.
    """
    yield from context.refused("CIO209", "shared-shapes")
