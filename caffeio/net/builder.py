"""Graph -> Steps: set up each layer on the meta device, check it as Caffe does, share params.

Sources: src/caffe/net.cpp (Init, AppendTop, AppendBottom, AppendParam), src/caffe/layer.cpp,
src/caffe/layers/batch_norm_layer.cpp (masking of statistics).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from caffeio.data import DataSource
from caffeio.errors import NetError
from caffeio.layers import LayerContext, LayerType
from caffeio.layers.inference import check_blob_shape
from caffeio.layers.python.native import class_of
from caffeio.net.checks import SharedParams, insist, wrong_counts, wrong_params, wrong_weights
from caffeio.net.given_blobs import take_given_blobs
from caffeio.net.graph import LayerNode, NetGraph
from caffeio.net.step import (
    AUTOMATIC,
    LearnableParam,
    Shape,
    Step,
    raw_blobs,
)
from caffeio.ops.module import Layer, make_module
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import caffe_shape


class Assembler:
    """Builds the steps of one net; blobs stay on the meta device."""

    def __init__(
        self,
        graph: NetGraph,
        *,
        profile: Profile,
        sources: Mapping[str, DataSource],
        input_shapes: Mapping[str, Sequence[int]],
        allow_python: bool,
        search_path: Iterable[str],
    ) -> None:
        self.graph = graph
        self.profile = profile
        self.sources = sources
        self.input_shapes = {k: tuple(v) for k, v in input_shapes.items()}
        self.allow_python = allow_python
        self.search_path = tuple(search_path)
        self.blob_shapes: dict[str, Shape] = {}  # of all blobs, as the net is built
        self.steps: list[Step] = []

    def run(self) -> list[Step]:
        """Set up all layers in order, then share params by name and see what is trained."""
        for node in self.graph.nodes:
            self.steps.append(self.build(node))
        share_params(self.steps)
        mark_backward(self.steps, force=self.graph.force_backward)
        return self.steps

    def build(self, node: LayerNode) -> Step:
        """Make the layer of `node`, find its tops' shapes, check its specs."""
        param = node.param
        cls = class_of(
            param, allow_python=self.allow_python, search_path=self.search_path,
            where=node.where or None,
        )  # fmt: skip
        if not param.HasField("phase"):
            param.phase = pb.TRAIN if self.graph.phase == "TRAIN" else pb.TEST
        tops = list(param.top)
        if cls.is_loss:
            tops += [f"{AUTOMATIC}{len(self.steps)}"] * max(0, cls.tops.low - len(tops))
        insist(node, wrong_counts(node, cls, len(tops)))
        context = LayerContext(
            phase=pb.Phase.Name(param.phase),
            profile=self.profile,
            where=node.where,
            bottom_names=tuple(param.bottom),
            top_names=tuple(tops),
            allow_python=self.allow_python,
            search_path=self.search_path,
        )
        layer = make_module(cls, param, context)
        self.set_up(node, layer, tops)
        take_given_blobs(node, layer, is_text=self.graph.is_text)
        weights = loss_weights(node, cls, len(tops))
        learns = tuple(
            i >= len(param.param) or param.param[i].lr_mult != 0 for i in range(len(layer.blobs))
        )
        check_param_specs(node, layer)
        force = self.graph.force_backward
        stop = tuple(
            not flag and not (force and layer.allows_force_backward(i))
            for i, flag in enumerate(node.propagate_down or [True] * len(param.bottom))
        )
        return Step(node, layer, tuple(param.bottom), tuple(tops), weights, stop, learns)

    def set_up(self, node: LayerNode, layer: Layer, tops: list[str]) -> None:
        """Let the layer declare its blobs, and find its tops' shapes."""
        found: Sequence[Shape]
        if layer.is_source and node.key in self.sources:
            found = self.sources[node.key].top_shapes
        else:
            found = layer.configure(*(self.blob_shapes[name] for name in node.param.bottom))
            if layer.is_source:
                found = [self.input_shapes.get(top, s) for top, s in zip(tops, found, strict=True)]
        layer.top_shapes = tuple(found)
        for shape in layer.top_shapes:
            check_blob_shape(layer, shape)
        self.blob_shapes.update(zip(tops, layer.top_shapes, strict=True))


def loss_weights(node: LayerNode, cls: type[LayerType], n_tops: int) -> tuple[float, ...]:
    """The loss weight of every top; a loss without any gets 1 for its first."""
    insist(node, wrong_weights(node, n_tops))
    weights = list(node.param.loss_weight)
    if not weights and cls.is_loss:
        node.param.loss_weight.append(1.0)  # as Caffe's set-up does: snapshots show it
        weights = [1.0] + [0.0] * (n_tops - 1)
    return tuple(weights) or (0.0,) * n_tops


def check_param_specs(node: LayerNode, layer: Layer) -> None:
    """Check the `param` list; statistics that are masked get lr_mult 0 as in Caffe's set-up."""
    statistics = [i for i, spec in enumerate(layer.blob_specs) if spec.statistic]
    insist(node, wrong_params(node, len(layer.blobs), statistics))
    for i in statistics:
        if len(node.param.param) == i:
            node.param.param.add(lr_mult=0)


def refusal_forward(steps: Sequence[Step]) -> NetError | None:
    """Find what Caffe would die of in the first forward."""
    for step in steps:
        reason = step.layer.dies_forward() or _without_numbers(step)
        if reason:
            return NetError(f"layer {step.node.name!r}: {reason}", where=step.node.where or None)
    return None


def _without_numbers(step: Step) -> str:
    """Say that a blob has no memory: Caffe gives none to shapes with a 0, and dies when asked."""
    layer = step.layer
    if layer.is_source or layer.dynamic or step.node.type == "Silence":
        return ""
    for name, shape in zip(
        (*step.bottoms, *step.tops), (*layer.bottom_shapes, *layer.top_shapes), strict=False
    ):
        if 0 in shape:
            return f"blob {name!r} of shape {caffe_shape(shape)} holds no numbers"
    return ""


def refusal_backward(steps: Sequence[Step]) -> NetError | None:
    """Find what Caffe would die of in Backward, which begins with the last layer."""
    for step in reversed(steps):
        reason = step.layer.dies_backward(step.bottom_needs_gradient) if step.needs_backward else ""
        if reason:
            return NetError(f"layer {step.node.name!r}: {reason}", where=step.node.where or None)
    return None


def share_params(steps: Sequence[Step]) -> None:
    """Let params of the same name be one tensor: the first layer that names it owns it."""
    shared = SharedParams()
    layers = {id(step.node): step.layer for step in steps}
    for step in steps:
        shapes = dict(enumerate(tuple(blob.shape) for blob in step.layer.blobs))
        for i, owner, refusal in shared.add(step.node, shapes):
            insist(step.node, [refusal] if refusal is not None else [])
            step.layer.blobs[i] = raw_blobs(layers[id(owner.node)])[owner.index]
            for key, value in owner.mults.items():
                setattr(owner.node.param.param[owner.index], key, value)


def keeps_later(layer: Layer, index: int) -> bool:
    """Whether later steps of a recurrent layer would not see that blob `index` is shared."""
    context = layer.context
    stale: bool = index in layer.filled_again
    return stale and context.phase == "TRAIN" and context.profile.recurrent_steps_keep_own


def learnable_params(steps: Sequence[Step], force_backward: bool) -> list[LearnableParam]:
    """The blobs that layers own, in Caffe's order; those that are learned require gradients."""
    out: list[LearnableParam] = []
    seen: dict[int, LearnableParam] = {}
    wanted: set[int] = set()
    for step in steps:
        specs = step.node.param.param
        for i, blob in enumerate(raw_blobs(step.layer)):
            spec = specs[i] if i < len(specs) else pb.ParamSpec()
            always = step.layer.learns_all and step.needs_backward
            if spec.lr_mult != 0 or force_backward or always:
                wanted.add(id(blob))
            if id(blob) not in seen:
                label = spec.name or str(i)
                item = LearnableParam(label, step.node.name, i, blob, spec.lr_mult, spec.decay_mult)
                seen[id(blob)] = item
                out.append(item)
    for item in out:
        item.tensor.requires_grad_(id(item.tensor) in wanted)
    return out


def mark_backward(steps: Sequence[Step], *, force: bool = False) -> None:
    """Decide which layers Caffe would run backward: something learns below, a loss is above.

    `force` (force_backward) runs all of them, down to every bottom that a layer allows.
    """
    needs: dict[str, bool] = {}
    flags: list[list[bool]] = []
    for step in steps:
        bottoms = [needs[name] for name in step.bottoms]
        step.needs_backward = any(bottoms) or any(step.param_needs_gradient)
        flags.append(step.node.propagate_down or bottoms)
        for top in step.tops:
            needs[top] = step.needs_backward
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for step, bottoms in zip(reversed(steps), reversed(flags), strict=True):
        tops = list(zip(step.tops, step.loss_weights, strict=True))
        contributes = any(weight or name in under_loss for name, weight in tops)
        if step.needs_backward and all(name in skipped for name, _ in tops):
            step.needs_backward = False
            bottoms = [False] * len(bottoms)
        step.needs_backward = step.needs_backward and contributes
        step.logged_backward = step.needs_backward
        step.bottom_needs_gradient = tuple(contributes and bool(flag) for flag in bottoms)
        for name, flag in zip(step.bottoms, step.bottom_needs_gradient, strict=True):
            if contributes:
                under_loss.add(name)
            if not flag:
                skipped.add(name)
    if force:
        for step in steps:
            step.needs_backward = True
            step.bottom_needs_gradient = tuple(
                flag or step.layer.allows_force_backward(i)
                for i, flag in enumerate(step.bottom_needs_gradient)
            )
