"""One run of the model tells every shape and every constant; what only computes them goes.

With the input shapes fixed, a value is constant if it depends on weights and on shapes alone. The
run is onnxruntime's (or onnx's reference evaluator's), so nothing is evaluated by code of ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from caffeio.converters.from_onnx.branches import inline_ifs, outer_values
from caffeio.converters.from_onnx.graph import Array, Dims, Graph, Node
from caffeio.converters.from_onnx.inputs import sample
from caffeio.converters.from_onnx.model import Model, array_of, opset_of
from caffeio.converters.onnx.runtime import OnnxRunner
from caffeio.errors import UnsupportedError

_SHAPE_OF = "caffeio:shape of "
_SHAPES = ("Shape", "Size")  # their values are known, whatever goes in
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
           "Multinomial")  # fmt: skip
# Their shapes depend on the data: of all inputs, or of those behind the first.
_BY_DATA = ("NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "Scan", "If",
            "SequenceAt", "OptionalGetElement", "Range", "ConstantOfShape")  # fmt: skip
_BY_INPUTS = ("Reshape", "Expand", "Tile", "Slice", "Pad", "Resize", "Upsample", "TopK", "OneHot",
              "Split")  # fmt: skip
_NOTHING = ("Identity", "Dropout")  # in inference
_ORDINARY = ("", "ai.onnx")


def fold(model: Model) -> Graph:
    """The graph of a fixed model without constants' makers.

    Raises UnsupportedError if the model cannot be run.
    """
    while True:
        constant, values, shapes = _constant_values(model)
        if not inline_ifs(model, constant, values):
            break
    empty = _empty(model, shapes) - constant
    values |= {name: np.zeros(shapes[name], np.float32) for name in empty}
    graph = _graph(model, constant | empty, values, shapes)
    graph.larger = larger_shapes(model)
    _drop_nothings(graph, model)
    graph.sweep()
    return graph


def larger_shapes(model: Model) -> dict[str, Dims] | None:
    """All shapes with one example more; None if the model fixes its batch."""
    other = with_batch(model, 1)
    if other is None:
        return None
    try:
        return _constant_values(other)[2]
    except UnsupportedError:
        return None


def with_batch(model: Model, more: int) -> Model | None:
    """The fixed model with `more` examples; None if its inputs have no common first axis."""
    first = {
        item.type.tensor_type.shape.dim[0].dim_value if item.type.tensor_type.shape.dim else 0
        for item in model.graph.input
    }
    if len(first) != 1 or first == {0}:
        return None
    other = model.copy()
    for item in other.graph.input:
        item.type.tensor_type.shape.dim[0].dim_value += more
    return other


def _constant_values(model: Model) -> tuple[set[str], dict[str, Array], dict[str, Dims]]:
    """Names of constant values, their values, and all shapes."""
    model.check_files()
    constant, made = _constant_names(model)
    values = {t.name: array_of(t) for t in model.graph.initializer} | model.weights
    shapes: dict[str, Dims] = {}
    try:
        found = _probe(model, made, constant)
    except UnsupportedError:  # a sequence has no shape; or the model does not run at all
        found = _probe(model, made, made)
    for name, value in found.items():
        if not isinstance(value, np.ndarray | np.generic):
            continue  # a sequence or nothing: its operator is refused by name
        if name.startswith(_SHAPE_OF):
            shapes[name.removeprefix(_SHAPE_OF)] = tuple(int(n) for n in np.asarray(value))
            continue
        shapes[name] = value.shape
        if name in constant:
            values[name] = np.asarray(value)
    _cast_plainly(model, found)
    for item in model.graph.input:
        shapes[item.name] = tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)
    return constant, values, shapes


def _probe(model: Model, made: Collection[str], whole: Collection[str]) -> dict[str, Array]:
    """Run the model for the values `whole`, and the shapes of the others.

    All values of a net for large pictures take gigabytes; those that nothing asks for are freed.
    """
    import onnx

    kept = {*whole, *(n for node in model.graph.node if node.op_type == "CastLike"
                      for n in node.output)}  # fmt: skip
    probe = model.copy()
    del probe.graph.output[:]
    for name in made:
        asked = name
        if name not in kept:
            asked = _SHAPE_OF + name
            probe.graph.node.add(op_type="Shape", input=[name], output=[asked])
        probe.graph.output.append(onnx.ValueInfoProto(name=asked))
    return OnnxRunner(probe.runnable(), weights=probe.weights)(sample(model))


def _cast_plainly(model: Model, found: Mapping[str, Array]) -> None:
    """Let a CastLike be a Cast to the type that the run shows."""
    import onnx

    for node in model.graph.node:
        value = found.get(node.output[0]) if node.op_type == "CastLike" else None
        if isinstance(value, np.ndarray):
            node.op_type = "Cast"
            del node.input[1:]
            kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            node.attribute.append(onnx.helper.make_attribute("to", kind))


def _constant_names(model: Model) -> tuple[set[str], list[str]]:
    constant = {tensor.name for tensor in model.graph.initializer} | {"", *model.weights}
    made = []
    for node in model.graph.node:
        made += [name for name in node.output if name]
        inputs = {*node.input, *outer_values(node)}
        fixed = node.op_type in _SHAPES or inputs <= constant
        if fixed and node.op_type not in _RANDOM and node.domain in _ORDINARY:
            constant.update(node.output)
    return constant, made


def _empty(model: Model, shapes: Mapping[str, Dims]) -> set[str]:
    """Values without a number in them, whatever goes in: they are as good as constants."""
    unsure: set[str] = set()
    out: set[str] = set()
    constant = _constant_names(model)[0]
    for node in model.graph.node:
        if constant.issuperset(node.output):
            continue
        sized = node.op_type in _BY_INPUTS and not constant.issuperset(node.input[1:])
        if sized or node.op_type in _BY_DATA or unsure.intersection(node.input):
            unsure.update(node.output)
        else:
            out.update(name for name in node.output if 0 in shapes.get(name, ()))
    return out


def _graph(
    model: Model, constant: set[str], values: dict[str, Array], shapes: dict[str, Dims]
) -> Graph:
    import onnx

    nodes = []
    for number, proto in enumerate(model.graph.node):
        if set(proto.output) <= constant:
            continue
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        attrs = {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}
        ordinary = proto.domain in _ORDINARY
        op = proto.op_type if ordinary else f"{proto.domain}::{proto.op_type}"
        node = Node(op, proto.name, list(proto.input), list(proto.output), attrs, number, [number])
        while node.inputs and not node.inputs[-1]:
            node.inputs.pop()
        nodes.append(node)
    return Graph(
        nodes,
        values,
        shapes,
        [item.name for item in model.graph.input],
        [item.name for item in model.graph.output],
        opset_of(model.proto),
    )


def _drop_nothings(graph: Graph, model: Model) -> None:
    """Take out what does nothing in inference, unless it makes an output of an input."""
    produced = {name for node in graph.nodes for name in node.outputs}
    kept = []
    for node in graph.nodes:
        if not _is_nothing(graph, node):
            kept.append(node)
            continue
        source, top = node.inputs[0], node.outputs[0]
        if top not in graph.outputs:
            graph.rename(top, source)
        elif source in produced and source not in graph.outputs:
            _take_name(graph, source, top)  # the output's name is the one to keep
            for other in kept:
                other.outputs = [top if name == source else name for name in other.outputs]
        else:
            node.op = "Identity"
            node.inputs = node.inputs[:1]
            kept.append(node)
    graph.nodes = kept


def _take_name(graph: Graph, old: str, new: str) -> None:
    graph.rename(old, new)
    graph.shapes[new] = graph.shapes[old]
    if graph.larger is not None:
        graph.larger[new] = graph.larger.get(old, graph.larger.get(new, ()))


def _is_nothing(graph: Graph, node: Node) -> bool:
    if node.op in _NOTHING:
        used = {name for other in graph.nodes for name in other.inputs} | set(graph.outputs)
        if node.op == "Dropout" and set(node.outputs[1:]) & used:
            raise UnsupportedError(f"node {node.name!r}: the mask of a Dropout is used")
        return True
    if node.op == "Cast":  # numbers of Caffe's are float32: only what keeps them does nothing
        return (
            node.attrs.get("to") in (1, 6, 7)
            and node.attrs.get("saturate", 1) is not None
            and (node.attrs["to"] == 1 or _whole(graph, node.inputs[0]))
        )
    return False


def _whole(graph: Graph, name: str) -> bool:
    """Whether a value is made of whole numbers: an ArgMax's."""
    maker = graph.makers().get(name)
    return maker is not None and maker.op in ("ArgMax", "ArgMin")
