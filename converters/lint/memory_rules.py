"""Rules about memory: layers in place that change others' gradients, steps that share nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from caffeio.converters.lint.model import Finding, NetContext, is_loss, net_rule
from caffeio.errors import CaffeIOError
from caffeio.layers.base import LayerContext, LayerType, Shape
from caffeio.layers.dims import UnknownDimError, with_unknown
from caffeio.layers.registry import lookup
from caffeio.net.checks import SharedParams
from caffeio.net.graph import LayerNode
from caffeio.net.overwritten import plan_memory
from caffeio.net.shapes import NetShapes
from caffeio.proto import caffe_pb2 as pb


@dataclass
class _Place:
    """A layer in its net, as far as it is known without running it."""

    node: LayerNode
    layer: Any
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    loss_weights: tuple[float, ...]
    needs_backward: bool
    needs: bool  # does a gradient go down through it?
    fused: tuple[()] = ()


@net_rule("CIO205", "overwritten-top")
def overwritten_top(context: NetContext) -> Iterator[Finding]:
    """A layer in place overwrites what another layer's backward pass reads.

    In Caffe a blob is memory: ReLU before BatchNorm or Scale in place, TanH before Dropout in
    place, MVN before ReLU in place ... find the later layer's output where they left their own, and
    Power, Log, BNLL, Eltwise in place have gradients of their own. The net trains, but not with the
    derivative of what it computes. caffeio does the same, as the models that people trained have
    it. Give the later layer a top of its own, or train with `--caffe bvlc,math`.
    """
    shapes = context.shapes.get("TRAIN")
    if shapes is None or not context.profile.gradients_from_memory:
        return
    places = _places(context, shapes)
    for place, use in zip(places, plan_memory(places).uses, strict=True):
        index = place.node.source_index
        if use is None or index is None or not place.needs:
            continue
        if use.lost:
            yield context.layer(
                "CIO205", index, "its gradient is lost: the Flatten behind it takes it away"
            )
        elif use.overwritten and places[use.writer] is place:
            yield context.layer(
                "CIO205", index, f"in place, Caffe's gradient of {place.node.type} is not its own"
            )
        elif use.overwritten:
            writer = places[use.writer].node
            yield context.layer(
                "CIO205", index,
                f"layer {writer.name!r} ({writer.type}), in place, overwrites what the backward "
                f"pass of {place.node.type} layer {place.node.name!r} reads: Caffe's gradient is "
                "not that of the net",
            )  # fmt: skip


@net_rule("CIO210", "first-step-shares")
def first_step_shares(context: NetContext) -> Iterator[Finding]:
    """An LSTM or RNN takes its recurrent weights from another layer: only its first step does.

    Caffe unrolls the layer before it shares weights by name, so that in TRAIN all further steps
    keep what the layer's own fillers drew: nothing trains these values and no file holds them. In
    TEST all steps share. caffeio does the same. Share the input's weights only, let one layer see
    both sequences, or train with `--caffe bvlc,math`, where all steps share.
    """
    shapes = context.shapes.get("TRAIN")
    if shapes is None or not context.profile.recurrent_steps_keep_own:
        return
    if not any(is_loss(node.param) for node in shapes.graph.nodes):
        return  # a net for use
    shared = SharedParams()
    for place, found in zip(_places(context, shapes), shapes.layers, strict=True):
        node, blobs = place.node, dict(enumerate(found.blobs))
        own = set(place.layer.filled_again)
        hits = [(i, owner.node) for i, owner, _ in shared.add(node, blobs) if i in own]
        if hits and node.source_index is not None and hits[0][1] is not node:
            i, owner = hits[0]
            yield context.layer(
                "CIO210", node.source_index,
                f"only the first time step uses the recurrent weights of layer {owner.name!r} in "
                "TRAIN; the others keep what their own fillers drew",
                "param", i,
            )  # fmt: skip


def _places(context: NetContext, shapes: NetShapes) -> list[_Place]:
    values: dict[str, Shape | None] = {}
    needs: dict[str, bool] = {}
    places = []
    for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
        layer = _layer(context, node, [values.get(name) for name in node.bottoms])
        below = any(needs.get(name, False) for name in node.bottoms)
        below = below or shapes.graph.force_backward
        specs = list(node.param.param)
        learns = any(i >= len(specs) or specs[i].lr_mult != 0 for i in range(len(found.blobs)))
        weights = tuple(node.param.loss_weight) or (0.0,) * len(node.tops)
        places.append(
            _Place(
                node, layer, tuple(node.bottoms), tuple(node.tops), weights[: len(node.tops)],
                below or learns, below,
            )
        )  # fmt: skip
        values.update(zip(node.tops, found.tops, strict=False))
        needs.update(dict.fromkeys(node.tops, below or learns))
    return places


def _layer(context: NetContext, node: LayerNode, bottoms: list[Shape | None]) -> LayerType:
    """Make the layer, set up as far as the bottoms' shapes are known."""
    param = pb.LayerParameter()
    param.CopyFrom(node.param)
    about = LayerContext(
        "TRAIN", context.profile, node.where, tuple(node.bottoms), tuple(node.tops)
    )
    try:
        cls = lookup(node.type, node.name)
    except CaffeIOError:
        return LayerType(param, about)
    layer = cls(param, about)
    known = [with_unknown(shape) for shape in bottoms if shape is not None]
    if known and len(known) == len(bottoms) and len(known) in cls.bottoms:
        try:
            layer.setup(*known)
        except (CaffeIOError, UnknownDimError):
            return layer
    return layer
