"""A model -> a Caffe net: the steps in their order, and all that cannot be done in one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caffeio.converters.from_onnx.caffe_net import CaffeLayer, Refused, Writer
from caffeio.converters.from_onnx.finish import finish, name_blob, own_output, silence_inputs
from caffeio.converters.from_onnx.fix import fixed
from caffeio.converters.from_onnx.fold import fold
from caffeio.converters.from_onnx.graph import Dims, Graph, Node
from caffeio.converters.from_onnx.model import Model, model_of
from caffeio.converters.from_onnx.names import plain, stem_of
from caffeio.converters.from_onnx.ops import load_operators
from caffeio.converters.from_onnx.patterns import fuse
from caffeio.converters.from_onnx.patterns.told import restore
from caffeio.converters.from_onnx.table import NO_CONVERTER, REASONS
from caffeio.converters.from_onnx.targets import Target, get_target, target_names
from caffeio.converters.onnx.told import Told, told_layers
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.proto import caffe_pb2 as pb
from caffeio.shape_text import format_shape

DEFAULT_TARGET = "bvlc-1.0"
_ORDINARY = ("", "ai.onnx")


@dataclass
class Compiled:
    """A Caffe net: its layers, and which blob holds which value of the model.

    `model` is the model as it was compiled, with fixed shapes; `notes` are for people.
    """

    name: str
    target: Target
    layers: list[CaffeLayer]
    inputs: dict[str, str]
    outputs: dict[str, str]
    model: Model
    any_batch: bool
    notes: list[str] = field(default_factory=list)

    def message(self) -> pb.NetParameter:
        """The net without weights."""
        net = pb.NetParameter(name=self.name)
        net.layer.extend(layer.param for layer in self.layers)
        return net


def compile_model(
    model: Any,
    *,
    target: str = DEFAULT_TARGET,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    where: str = "model",
) -> Compiled:
    """Compile an ONNX model (a ModelProto, or what `load_model` gives) for a target.

    `input_shapes` fixes shapes by input name, `outputs` are values or nodes to stop at. Raises
    UnsupportedError that lists every operator which the target cannot do.
    """
    chosen = get_target(target)
    try:
        count = len(model.graph.node)
        ready = fixed(model_of(model), input_shapes or {}, outputs)
        _refuse_foreign(ready, chosen)
        graph = fold(ready)
    except CaffeIOError as error:
        raise type(error)(error.message, where=error.where or where) from None
    refuse_inputs(graph, ready, where)
    told, folded = told_layers(ready.proto), graph.copy()
    w, problems = _written(graph, told, chosen)
    if problems:
        said = _listing(problems, count, chosen, graph) + _elsewhere(folded, told, chosen)
        raise UnsupportedError(said, where=where)
    return _finished(w, ready)


def _written(
    graph: Graph, told: list[Told], target: Target
) -> tuple[Writer, list[tuple[Node, Refused]]]:
    """The layers of a folded graph, which is changed; and what was refused."""
    restore(graph, told, target)
    fuse(graph)
    w = Writer(graph, target)
    return w, _write_layers(w)


def _elsewhere(graph: Graph, told: list[Told], target: Target) -> str:
    """A line that names the other targets which can do all of a graph, "" if none can."""
    able = []
    for name in target_names():
        if name != target.name and not _written(graph.copy(), told, get_target(name))[1]:
            able.append(name)
    return f"\n  all of it can be done with --target {', '.join(able)}" if able else ""


def refuse_inputs(graph: Graph, model: Model, where: str) -> None:
    """Raise UnsupportedError if nothing is left to compute, or an input is unused."""
    if not graph.inputs:
        raise UnsupportedError("the model has no inputs: all of it is constant", where=where)
    constant = [name for name in graph.outputs if graph.constant(name) is not None]
    for name in constant:
        if 0 in graph.shape(name):
            raise UnsupportedError(
                f"output {name!r} is empty, ({format_shape(graph.shape(name), ', ')}): leave it "
                "out with --output-blob",
                where=where,
            )
    if constant:
        raise UnsupportedError(
            f"output {constant[0]!r} depends on no input: leave it out with --output-blob",
            where=where,
        )


def _write_layers(w: Writer) -> list[tuple[Node, Refused]]:
    """Let the converters write; returns what was refused."""
    table, problems = load_operators(), []
    for name in w.graph.inputs:
        _input(w, name)
    for node in w.graph.nodes:
        weights = next((n for n in node.inputs[1:2] if w.graph.constant(n) is not None), "")
        w.node, w.stem = node, stem_of(node, weights)
        try:
            if node.op not in table:
                raise Refused(*REASONS.get(node.op, NO_CONVERTER))
            found = table[node.op](w, node)
            _mind_batch(w, node, table[node.op].__module__)
        except Refused as refused:
            problems.append((node, refused))
            found = _stand_in(w, node)
        tops = [found] if isinstance(found, str) else list(found)
        for value, blob in zip(node.outputs, tops, strict=False):
            if value and blob:
                w.values[value] = blob
                _tell_batch(w, value, blob)
    return problems


_WINDOWS = ("conv", "pool", "resize", "norm")  # families that take axis 0 for the batch


def _mind_batch(w: Writer, node: Node, module: str) -> None:
    """What has windows over the axis that grows with the batch fits one batch only."""
    axes = {w.batch.get(w.values[name]) for name in node.inputs if name in w.values}
    if module.rpartition(".")[2] in _WINDOWS and axes - {0, None}:
        w.fix_batch()


def _tell_batch(w: Writer, value: str, blob: str) -> None:
    """Hold the batch's axis as it was written against what two runs of the model tell."""
    if w.graph.larger is None:
        return
    goal = w.graph.batch_axis(value)
    if w.batch.get(blob) != goal:
        w.fix_batch()
        w.batch[blob] = goal


def _input(w: Writer, name: str) -> None:
    w.stem = plain(name)
    shape = w.graph.shapes[name]
    batch = w.graph.batch_axis(name) if w.graph.larger is not None else None
    fields = {"shape": [{"dim": list(shape)}]}
    layer = pb.LayerParameter(name=w.unique(w.stem), type="Input")
    layer.top.append(layer.name)
    layer.input_param.shape.add().dim.extend(fields["shape"][0]["dim"])
    w.layers.append(CaffeLayer(layer))
    w.shapes[layer.name], w.batch[layer.name] = shape, batch
    w.values[name] = layer.name


def _stand_in(w: Writer, node: Node) -> list[str]:
    """Blobs for what was refused, so that the rest of the graph is looked at too."""
    out = []
    for value in node.outputs:
        blob = w.unique("refused")
        w.shapes[blob] = w.graph.shapes.get(value, ())
        w.batch[blob] = w.graph.batch_axis(value)
        out.append(blob)
    return out


def _listing(
    problems: list[tuple[Node, Refused]], count: int, target: Target, graph: Graph | None = None
) -> str:
    lines = [
        (
            f"{len(problems)} of {count} operators cannot be done by {target.name} "
            f"({target.title}); nothing is written:"
        )
    ]
    for node, refused in problems:
        lines.append(f"  {_described(node, graph)}: {refused.why}")
        if refused.remedy:
            lines.append(f"      what could be done: {refused.remedy}")
    return "\n".join(lines)


def _described(node: Node, graph: Graph | None) -> str:
    name = f" {node.name!r}" if node.name else ""
    shapes = ""
    if graph is not None:
        known = [[graph.shape(n) for n in names if n in graph.shapes or n in graph.constants]
                 for names in (node.inputs, node.outputs)]  # fmt: skip
        shapes = f" {format_shapes(known[0])} -> {format_shapes(known[1])}"
    return f"node {node.place}{name} ({node.op}{shapes})"


def _refuse_foreign(model: Model, target: Target) -> None:
    """Refuse operators that no runtime of ONNX knows: they cannot even be run for their shapes."""
    foreign = [
        (number, node)
        for number, node in enumerate(model.graph.node)
        if node.domain not in _ORDINARY
    ]
    if not foreign:
        return
    problems = []
    table = load_operators()
    for number, proto in enumerate(model.graph.node):
        if proto.domain not in _ORDINARY:
            node = Node(f"{proto.domain}::{proto.op_type}", proto.name, [], [], {}, number)
            problems.append((node, Refused("an operator of its own, not ONNX's", NO_CONVERTER[1])))
        elif proto.op_type in REASONS and proto.op_type not in table:
            node = Node(proto.op_type, proto.name, [], [], {}, number)
            problems.append((node, Refused(*REASONS[proto.op_type])))
    raise UnsupportedError(_listing(problems, len(model.graph.node), target))


def _finished(w: Writer, model: Model) -> Compiled:
    graph = w.graph
    for value in graph.outputs:  # an output is a blob of its own
        blob = w.values[value]
        same = [v for v in (*graph.inputs, *graph.outputs) if w.values[v] == blob and v != value]
        if same:
            w.stem = plain(value)
            w.values[value] = w.unary("Power", blob, power_param={})
    finish(w, [w.values[value] for value in graph.outputs])
    inputs = {value: w.values[value] for value in graph.inputs}
    for value in graph.outputs:
        w.values[value] = own_output(w, w.values[value])
    silence_inputs(w, set(inputs.values()) - {w.values[value] for value in graph.outputs})
    outputs = {value: name_blob(w, w.values[value], value) for value in graph.outputs}
    name = plain(model.graph.name or "net")
    any_batch = graph.larger is not None and not w.one_batch
    if w.one_batch:
        w.notes.append(f"for this batch only: {', '.join(w.one_batch[:5])}")
    w.notes += _of_inputs(w)
    return Compiled(name, w.target, w.layers, inputs, outputs, model, any_batch, w.notes)


def _of_inputs(w: Writer) -> list[str]:
    """What the target wants of inputs that the model has otherwise."""
    shapes, name = [w.graph.shapes[value] for value in w.graph.inputs], w.target.name
    notes = []
    if w.target.rule("batch_1") and any(shape[:1] not in ((), (1,)) for shape in shapes):
        notes.append(f"{name} wants a batch of 1: --input-shape fixes it")
    if w.target.rule("one_input") and len(shapes) > 1:
        notes.append(f"{name} wants one input, and the model has {len(shapes)}")
    return notes


def format_shapes(shapes: Sequence[Dims]) -> str:
    """Shapes for people: (1, 3, 8, 8)."""
    return ", ".join(f"({format_shape(shape, ', ')})" for shape in shapes)
