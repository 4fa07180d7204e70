"""Net -> OnnxGraph: every layer's ONNX form, values named after the blobs, what is unused gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caffeio.converters.onnx.told import LEAST, Told
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.layers.batch_norm import BatchNorm
from caffeio.layers.onnx.graph import OPSET, OnnxGraph
from caffeio.layers.scale import Scale
from caffeio.net.graph import Readers
from caffeio.net.net import Net
from caffeio.net.step import Step
from caffeio.proto.text.printer import format_message


@dataclass
class Built:
    """A graph that is whole: `inputs` are names of values, `outputs` maps blobs to values.

    A value is named as its blob, except where that name is taken: by an input that is changed in
    place, or because two blobs are one value.
    """

    graph: OnnxGraph
    inputs: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)  # layers for the model's metadata
    opset: int = OPSET
    declared: dict[str, tuple[int | str | None, ...]] = field(default_factory=dict)
    tried: list[dict[str, tuple[int, ...]]] = field(default_factory=list)  # other inputs' shapes
    elements: dict[str, Any] = field(default_factory=dict)  # dtypes of values that are not float32


def build(
    net: Net,
    outputs: Sequence[str] | None = None,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    unroll: bool = False,
    client: str = "",
) -> Built:
    """The ONNX form of `net`, which has memory and values.

    `outputs` are blobs (default: the net's outputs that are computed). Raises UnsupportedError
    that names the layer if one that they need has no ONNX form.
    """
    made = {top for step in net.steps if not step.layer.is_source for top in step.tops}
    fed = [top for step in net.steps if step.layer.is_source for top in step.tops]
    outputs = list(outputs) if outputs is not None else [b for b in net.outputs if b in made]
    if not outputs:
        raise UnsupportedError(f"net {net.name!r} has no output to export")
    graph = OnnxGraph(
        dynamic_batch=dynamic_batch, dynamic_size=dynamic_size, unroll=unroll, client=client
    )
    for name in (*fed, *made):
        graph.reserve(name)
    told: list[Told] = []
    values = _add_steps(net, graph, outputs, told)
    built = Built(graph, told=told)
    _name_blobs(built, values, fed, outputs)
    sweep(built)
    used = {name for node in graph.nodes for name in node.inputs}
    built.inputs = [name for name in fed if name in used]
    return built


def needed_steps(net: Net, outputs: Sequence[str]) -> set[int]:
    """Find the steps that compute the blobs `outputs`, by their indices."""
    alive, steps = set(outputs), set()
    for i in reversed(range(len(net.steps))):
        step = net.steps[i]
        if alive.intersection(step.tops):
            steps.add(i)
            alive.difference_update(step.tops)
            alive.update(step.bottoms)
    return steps


def _add_steps(
    net: Net, graph: OnnxGraph, outputs: Sequence[str], told: list[Told]
) -> dict[str, str]:
    """Add the layers in order; returns the value of every blob in the end."""
    values: dict[str, str] = {}
    needed = needed_steps(net, outputs)
    merged = dict(batch_norm_pairs(net, needed, outputs))
    scales = set(merged.values())
    held: dict[str, tuple[Step, str]] = {}  # blob -> the BatchNorm that waits, its bottom's value
    for i, step in enumerate(net.steps):
        if i not in needed:
            continue
        graph.layer = step.layer
        if step.layer.is_source:
            graph.shapes.update(zip(step.tops, step.layer.top_shapes, strict=True))
            values.update(zip(step.tops, step.tops, strict=True))
            continue
        bottoms = [values[name] for name in step.bottoms]
        if i in merged:
            held[step.tops[0]] = (step, bottoms[0])
            values[step.tops[0]] = bottoms[0]
            continue
        if i in scales:
            tops: tuple[str, ...] = (_merged(graph, step, *held.pop(step.bottoms[0])),)
        else:
            before = len(graph.nodes)
            tops = _tops(graph, step, bottoms, None if graph.dynamic_batch else net, i)
            masks = step.node.type == "Pooling" and len(tops) > 1  # which Upsample reads
            if len(graph.nodes) - before >= LEAST or masks:
                blobs = [graph.used_param(step.layer, k) for k in range(len(step.layer.blobs))]
                shapes = [list(blob.shape) for blob in step.layer.blobs]
                text = format_message(step.node.param)
                told.append(Told(text, bottoms, list(tops), blobs, shapes))
        graph.shapes.update(zip(tops, step.layer.top_shapes, strict=True))
        graph.shapes.update(graph.own_shapes)
        values.update(zip(step.tops, tops, strict=True))
    return values


def _cut(net: Net, index: int) -> str:
    """Words on how to export what comes before a step; none where that cannot be said."""
    made = {top for s in net.steps[:index] if not s.layer.is_source for top in s.tops}
    changed = {top for s in net.steps[index:] for top in s.tops}  # in place: not what is read here
    copies = {top: s.bottoms[0] for s in net.steps if s.node.type == "Split" for top in s.tops}
    read = [copies.get(blob, blob) for blob in net.steps[index].bottoms]
    blobs = dict.fromkeys(blob for blob in read if blob in made)
    if not blobs or changed.intersection(blobs):
        return ""
    flags = " ".join(f"--output-blob {blob}" for blob in blobs)
    return f"; what comes before it can be exported: {flags}"


def located(net: Net, error: UnsupportedError) -> UnsupportedError:
    """An error that names a layer, with its place and the blobs at which to cut before it."""
    for i, step in enumerate(net.steps):
        if error.message.startswith(f"layer {step.node.name!r} "):
            where = error.where or step.node.where or None
            return UnsupportedError(error.message + _cut(net, i), where=where)
    return error


def _tops(
    graph: OnnxGraph, step: Step, bottoms: list[str], net: Net | None, index: int
) -> tuple[str, ...]:
    """Add step `index`; with a `net`, the error says where that can be cut before it."""
    try:
        if graph.client == "opencv" and not all(step.layer.top_shapes):
            raise graph.unsupported("OpenCV 4 has no blobs without axes, and ends at one")
        tops = step.layer.onnx(graph, *bottoms)
    except UnsupportedError as error:
        where = error.where or step.node.where or None
        hint = _cut(net, index) if net is not None else ""
        raise UnsupportedError(error.message + hint, where=where) from None
    return (tops,) if isinstance(tops, str) else tuple(tops)


def _merged(graph: OnnxGraph, scale: Step, norm: Step, bottom: str) -> str:
    """BatchNorm and Scale as one BatchNormalization with the Scale's blobs."""
    assert isinstance(norm.layer, BatchNorm)
    blobs = [graph.param(scale.layer, j) for j in range(len(scale.layer.blobs))]
    graph.layer = norm.layer
    return norm.layer.onnx_scaled(graph, bottom, *blobs)


def batch_norm_pairs(
    net: Net, needed: set[int], outputs: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Steps (BatchNorm, Scale) where nothing but the Scale reads what the BatchNorm makes."""
    readers = Readers([step.node.param for step in net.steps])
    for i, step in enumerate(net.steps):
        if not isinstance(step.layer, BatchNorm) or not step.layer.fusible or i not in needed:
            continue
        top = step.tops[0]
        reader = readers.first(top, i + 1)
        if reader is None or reader not in needed:
            continue
        scale = net.steps[reader]
        shown = top in outputs and top not in scale.tops
        if isinstance(scale.layer, Scale) and scale.layer.fusible and not shown:
            yield i, reader


def _name_blobs(
    built: Built, values: Mapping[str, str], fed: Sequence[str], outputs: Sequence[str]
) -> None:
    """Give the last value of each blob the blob's name; make every output a value of its own."""
    graph, taken = built.graph, set(fed)
    names: dict[str, str] = {}  # of values, as they were made -> as they are called in the end
    constants = graph.constants.keys()
    order = [*outputs, *(blob for blob in values if blob not in outputs)]
    for blob in order:
        value = values.get(blob)
        if value is None:
            raise CaffeIOError(f"there is no blob {blob!r} in the net")
        free = value not in names and value not in fed and value not in constants
        name = blob if blob not in taken else ""
        if not free and blob in outputs:
            graph.layer, source = None, value
            value = graph.op("Identity", [names.get(source, source)])
            graph.shapes[value] = graph.shapes[source]
            graph.varying[value] = graph.varying.get(source, set())
            free = True
        if free:
            names[value] = name or value
            taken.add(names[value])
        if blob in outputs:
            built.outputs[blob] = names[value]
    for node in graph.nodes:
        node.inputs = [names.get(name, name) for name in node.inputs]
        node.outputs = [names.get(name, name) for name in node.outputs]
    built.told = [one.renamed(names) for one in built.told]
    for old, new in names.items():
        if old in graph.varying:
            graph.varying[new] = graph.varying[old]
        if old in graph.shapes:
            graph.shapes[new] = graph.shapes[old]


def sweep(built: Built) -> None:
    """Drop the nodes and constants that no output needs."""
    alive = set(built.outputs.values())
    kept = []
    for node in reversed(built.graph.nodes):
        if alive.intersection(node.outputs):
            alive.update(node.inputs)
            kept.append(node)
    built.graph.nodes = kept[::-1]
    built.graph.constants = {k: v for k, v in built.graph.constants.items() if k in alive}


def declared_shapes(built: Built) -> dict[str, tuple[int | None, ...]]:
    """Shapes of inputs, outputs and all blobs between; None where a size depends on the data."""
    graph = built.graph
    tainted: set[str] = set(graph.varying)
    for node in graph.nodes:
        if tainted.intersection(node.inputs):
            tainted.update(node.outputs)
    out: dict[str, tuple[int | None, ...]] = {}
    made = [n for node in graph.nodes for n in node.outputs if n in graph.shapes]
    for name in (*built.inputs, *built.outputs.values(), *made):
        unknown = graph.varying.get(name, range(len(graph.shapes[name])) if name in tainted else ())
        out[name] = tuple(None if i in unknown else n for i, n in enumerate(graph.shapes[name]))
    return out
