"""Rules about what a target's compiler refuses: they speak with `--target` only."""

from __future__ import annotations

import re
from collections.abc import Iterator

from caffeio.converters.from_onnx.rules import complaints
from caffeio.converters.from_onnx.targets import RULES as HABITS
from caffeio.converters.from_onnx.targets import Target, TargetRow, get_target
from caffeio.converters.lint.model import ERROR, Finding, NetContext, is_loss, net_rule
from caffeio.layers.registry import reads_data
from caffeio.layers.window import axis_values
from caffeio.net.shapes import is_known
from caffeio.proto import caffe_pb2 as pb

Shape = tuple[int, ...]
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
        shapes: list[list[Shape | None]] = [[], []]
        for phase, found, own in context.shapes_of(index):
            if phase == "TEST":
                shapes = [[_known(shape) for shape in group] for group in (found, own.tops)]
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


@net_rule("CIO705", "target-wrong-numbers", ERROR)
def target_wrong_numbers(context: NetContext) -> Iterator[Finding]:
    """The target loads the layer and computes other numbers than Caffe.

    Two Powers are kept apart by a Reshape to the same shape (`dim: 0` for each axis); rows of a
    3 x 3 kernel that see the padding only can be left out (`kernel_h: 1 pad_h: 0`). `caffeio
    convert model.onnx --target NAME` does both.
    """
    target = _target(context)
    if target is None:
        return
    found = (("line_behind_power", _lines), ("thin_depthwise", _thin))
    for name, places in found:
        row = target.rule(name)
        for index in places(context) if row is not None else ():
            yield context.layer("CIO705", index, HABITS[name] + _unsure(target, row), "type")


def _lines(context: NetContext) -> Iterator[int]:
    """Places of layers a * x + b that alone read a root or power without a shift of its own."""
    makers: dict[str, tuple[int, pb.LayerParameter]] = {}
    pairs, reads = [], dict.fromkeys(range(len(context.layers)), 0)
    for index, layer in enumerate(context.layers):
        if not context.in_phase(layer, "TEST"):
            continue
        for name in layer.bottom:
            if name in makers:
                at, maker = makers[name]
                reads[at] += 1
                if _is_bare_power(maker) and _is_line(context, index):
                    pairs.append((at, index))
        makers.update((name, (index, layer)) for name in layer.top)
    yield from (index for at, index in pairs if reads[at] == 1)


def _is_bare_power(layer: pb.LayerParameter) -> bool:
    p = layer.power_param
    return layer.type == "Power" and p.power != 1 and p.shift == 0


def _is_line(context: NetContext, index: int) -> bool:
    """Whether a layer does the same a * x + b to all numbers."""
    layer = context.layers[index]
    if layer.type == "Power":
        p = layer.power_param
        return p.power == 1 and (p.scale, p.shift) != (1, 0)
    bottom = _bottom(context, index)
    one = bottom is not None and bottom[1:2] == (1,)
    return one and layer.type in ("Scale", "BatchNorm") and len(layer.bottom) == 1


def _thin(context: NetContext) -> Iterator[int]:
    """Places of depthwise 3 x 3 convolutions, padding 1, stride 1 or 2, on one row or column."""
    for index, layer in enumerate(context.layers):
        p, bottom = layer.convolution_param, _bottom(context, index)
        if layer.type != "Convolution" or bottom is None or len(bottom) != 4:
            continue
        kernel, pad, stride = (
            axis_values(p, name, 2, default)
            for name, default in (("kernel_size", 0), ("pad", 0), ("stride", 1))
        )
        depthwise = p.group == bottom[1] == p.num_output > 1
        window = set(kernel) == {3} and set(pad) == {1} and max(stride) <= 2
        if depthwise and window and 1 in bottom[2:]:
            yield index


def _bottom(context: NetContext, index: int) -> Shape | None:
    """The shape of a layer's first bottom in TEST, if it is known."""
    for phase, found, _ in context.shapes_of(index):
        if phase == "TEST" and found and (shape := _known(found[0])) is not None:
            return shape
    return None


def _known(shape: Shape | None) -> Shape | None:
    """A shape all of whose dimensions are known, else None."""
    return tuple(map(int, shape)) if shape is not None and is_known(shape) else None
