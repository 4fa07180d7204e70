"""Rewrite the layers of a net that a target's Caffe lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffeio.converters.deploy.deploy import from_snapshot
from caffeio.converters.netstate import NetState, StateBlob, StateLayer
from caffeio.converters.rewrites.forms import rewrite_of
from caffeio.converters.rewrites.piece import CannotRewriteError, Piece
from caffeio.errors import CaffeIOError
from caffeio.net.graph import build_graph
from caffeio.net.shapes import infer_net
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.dialect.schema import Schema
from caffeio.proto.upgrade.upgrade import upgrade_net

Shapes = Mapping[str, Sequence[int]]


def rewrite_layers(
    state: NetState, target: Schema, input_shapes: Shapes | None = None
) -> tuple[list[str], list[str]]:
    """Replace layers whose type (or rounding) `target` lacks by such as it has, if that is exact.

    Returns a line for each that was rewritten, and a line with the reason for each that was not.
    Blobs keep their names, the new layers' own ones begin with the old layer's name.
    """
    done: list[str] = []
    failed: list[str] = []
    shapes: dict[str, tuple[int, ...] | None] | None = None
    names = {layer.param.name for layer in state.layers}
    names |= {top for layer in state.layers for top in layer.param.top}

    def free(name: str) -> str:
        while name in names:
            name += "_"
        names.add(name)
        return name

    pooling = target.messages.get("PoolingParameter", {})
    at = 0
    while at < len(state.layers):
        layer = state.layers[at]
        form = rewrite_of(layer.param, target.layer_types, pooling)
        if form is None:
            at += 1
            continue
        if shapes is None:
            shapes = _shapes(state, input_shapes)
        arrays = [blob.array() for blob in layer.blobs]
        bottoms = [shapes.get(name) for name in layer.param.bottom]
        piece = Piece(layer.param, arrays, bottoms, target, free)
        try:
            form(piece)
        except CannotRewriteError as reason:
            failed.append(
                f"layer {layer.param.name!r} ({layer.param.type}) cannot be said: {reason}"
            )
            at += 1
            continue
        state.layers[at : at + 1] = [_layer(new, blobs, layer) for new, blobs in piece.new]
        kinds = ", ".join(new.type for new, _ in piece.new)
        done.append(f"layer {layer.param.name!r} ({layer.param.type}) as {kinds}")
        at += len(piece.new)
    return done, failed


def _layer(param: pb.LayerParameter, blobs: Sequence[object], old: StateLayer) -> StateLayer:
    made = StateLayer(param, [StateBlob(array=array) for array in blobs])  # type: ignore[arg-type]
    if len(blobs) == len(old.blobs) and len(blobs):
        made.origin = list(old.origin)
    return made


def _shapes(state: NetState, given: Shapes | None) -> dict[str, tuple[int, ...] | None]:
    """Shapes of all blobs as far as they are known."""
    net = state.message()
    for index, layer in enumerate(state.layers):  # shapes that only the blobs tell
        for blob in layer.blobs:
            net.layer[index].blobs.add().shape.dim.extend(blob.shape)
    from_snapshot(net)
    try:
        graph = build_graph(upgrade_net(net, batch_norm=False).message, phase="TEST")
    except CaffeIOError:
        return {}
    found = dict(infer_net(graph, given).blobs)
    for node in graph.nodes:  # Splits that the file has itself were healed: their tops too
        if node.type == "Split":
            found.update((top, found.get(node.param.bottom[0])) for top in node.param.top)
    for layer in state.layers:
        if layer.param.type == "Split" and layer.param.bottom:
            source = found.get(layer.param.bottom[0])
            for top in layer.param.top:
                found.setdefault(top, source)
    return found
