"""Rules about what a target's compiler refuses: they speak with `--target` only."""

from __future__ import annotations

import re
from collections.abc import Iterator

from caffeio.converters.from_onnx.rules import complaints
from caffeio.converters.from_onnx.targets import RULES as HABITS
from caffeio.converters.from_onnx.targets import Target, TargetRow, get_target
from caffeio.converters.lint.model import ERROR, Finding, NetContext, is_loss, net_rule
from caffeio.layers.registry import reads_data
from caffeio.net.shapes import is_known

_ODD = re.compile(r"[^A-Za-z0-9_.\-]")


def _target(context: NetContext) -> Target | None:
    return get_target(context.target) if context.target else None


def _unsure(target: Target, row: TargetRow | None = None) -> str:
    """Words for what was not checked with the target itself."""
    hearsay = row.state == "hearsay" if row else any(r.state == "hearsay" for r in target.rows)
    return f" (not verified with {target.name} itself)" if hearsay else ""


@net_rule("CIO701", "target-lacks-layer", ERROR)
def target_lacks_layer(context: NetContext) -> Iterator[Finding]:
    """The target's Caffe has no such layer, or not with these fields, axes or shapes.

    `caffeio lint --target NAME` holds a deploy net against the table of that target. Choose another
    target, or `caffeio convert model.onnx --target NAME`, which uses the layers that are there.
    """
    target = _target(context)
    if target is None:
        return
    for index, layer in enumerate(context.layers):
        if not context.in_phase(layer, "TEST") or reads_data(layer.type) or is_loss(layer):
            continue
        tops, bottoms = [], []
        for phase, found, own in context.shapes_of(index):
            if phase == "TEST":
                bottoms = [s for s in found if s is not None and is_known(s)]
                tops = [s for s in own.tops if s is not None and is_known(s)]
        shapes = [[tuple(map(int, s)) for s in group] for group in (bottoms, tops)]
        for message in complaints(target, layer, *shapes):
            yield context.layer("CIO701", index, message + _unsure(target), "type")


@net_rule("CIO702", "target-names")
def target_names(context: NetContext) -> Iterator[Finding]:
    """A name has characters that the target's tools stumble over: they make file names of it.

    Use letters, digits, and _ . - only.
    """
    target = _target(context)
    row = target.rule("plain_names") if target else None
    if target is None or row is None:
        return
    for index, layer in enumerate(context.layers):
        if _ODD.search(layer.name):
            yield context.layer(
                "CIO702", index, HABITS["plain_names"] + _unsure(target, row), "name"
            )


@net_rule("CIO703", "target-inputs")
def target_inputs(context: NetContext) -> Iterator[Finding]:
    """The net's inputs are not as the target wants them: one Input layer, a batch of 1.

    `caffeio convert net.prototxt deploy.prototxt --deploy` makes Input layers of data layers and of
    `input` fields.
    """
    target = _target(context)
    if target is None:
        return
    inputs = [i for i, layer in enumerate(context.layers) if layer.type == "Input"]
    old = context.file.upgraded is not None and any(
        "input" in str(done).lower() for done in context.file.upgraded.done
    )
    row = target.rule("input_layer") or target.rule("one_input")
    if row is not None and old:
        yield context.at("CIO703", HABITS["input_layer"] + _unsure(target, row))
    row = target.rule("one_input")
    if row is not None and len(inputs) > 1:
        yield context.layer("CIO703", inputs[1], HABITS["one_input"] + _unsure(target, row))
    row = target.rule("batch_1")
    for index in inputs if row is not None else ():
        shapes = context.layers[index].input_param.shape
        if any(shape.dim and shape.dim[0] != 1 for shape in shapes):
            message = HABITS["batch_1"] + _unsure(target, row)
            yield context.layer("CIO703", index, message, "input_param")
    for index, layer in enumerate(context.layers):
        if reads_data(layer.type) and context.in_phase(layer, "TEST"):
            message = f"a data layer ({layer.type}): a deploy net has Input layers"
            yield context.layer("CIO703", index, message, "type")


@net_rule("CIO704", "target-in-place")
def target_in_place(context: NetContext) -> Iterator[Finding]:
    """A ReLU behind a convolution is not in place, where the target's compiler fuses the two so.

    Give it its bottom's name as its top, if nothing else reads the bottom.
    """
    target = _target(context)
    row = target.rule("in_place_relu") if target else None
    if target is None or row is None:
        return
    makers = {top: layer.type for layer in context.layers for top in layer.top}
    readers = [name for layer in context.layers for name in layer.bottom]
    for index, layer in enumerate(context.layers):
        if layer.type != "ReLU" or list(layer.bottom) == list(layer.top) or not layer.bottom:
            continue
        name = layer.bottom[0]
        if makers.get(name) in ("Convolution", "InnerProduct") and readers.count(name) == 1:
            message = HABITS["in_place_relu"] + _unsure(target, row)
            yield context.layer("CIO704", index, message, "top")
