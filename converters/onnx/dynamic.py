"""Sizes that may be any: which they are, whether the graph holds at other sizes, how they are told.

A graph is for any height and width if the net, built at other sizes, becomes the very same graph:
the same operators, attributes and constants. What differs is a layer whose form is for one size,
and it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffeio.converters.onnx.build import Built, build, declared_shapes, located
from caffeio.errors import CaffeIOError, UnsupportedError
from caffeio.layers.onnx.graph import OnnxNode
from caffeio.net.net import Net
from caffeio.shape_text import format_shape

Shape = tuple[int, ...]
Declared = Mapping[str, tuple[int | str | None, ...]]
AXES = {"batch": 0, "height": 2, "width": 3}
NAMES = ("N", "C", "H", "W")
_FAR, _NEAR = (32, 64, 128), (1, 2, 5, 8, 16)  # pixels by which other sizes are tried


@dataclass
class Sizes:
    """Names of the sizes of all values, the inputs' shapes that were tried, and notes."""

    declared: Declared
    tried: list[dict[str, Shape]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_sizes(net: Net, built: Built, outputs: Sequence[str] | None, axes: set[str]) -> Sizes:
    """Hold a graph with `axes` (of batch, height, width) of any size against nets of other sizes.

    Raises UnsupportedError, with the layer and the reason, if it does not hold.
    """
    declared: Declared = declared_shapes(built)
    if not axes:
        return Sizes(declared)
    found = Sizes(declared)
    changed: list[tuple[str, dict[str, Shape]]] = []
    base = {t: net.blob_shapes[t] for s in net.steps if s.layer.is_source for t in s.tops}
    for name in ("batch", "height", "width"):
        if name in axes:
            others = _others(net, base, name)
            changed += [(name, shapes) for shapes in others]
            found.tried += others
    found.tried = [
        {k: v for k, v in one.items() if k in built.inputs} for one in (base, *found.tried)
    ]
    nets = [(name, shapes, _resized(net, shapes, name)) for name, shapes in changed]
    for name, shapes, other in nets:
        if name != "batch":
            _compare(net, built, _rebuilt(net, other, built, outputs), shapes)
    found.declared = _named(built, declared, base, nets)
    found.notes += _merged(built, found.declared) if "batch" in axes else []
    return found


def _others(net: Net, base: Mapping[str, Shape], name: str) -> list[dict[str, Shape]]:
    """Other shapes of the inputs along an axis at which the net can be built."""
    axis = AXES[name]
    fit = {k: s for k, s in base.items() if len(s) == 4 or (axis == 0 and s)}
    if not fit:
        raise UnsupportedError(f"no input has a {name} that could be any")
    out: list[dict[str, Shape]] = []
    for deltas, wanted in (((1,), 1),) if axis == 0 else ((_FAR, 1), (_NEAR, 2)):
        problem = None
        for more in deltas:
            shapes = {**base, **{k: _longer(s, axis, more) for k, s in fit.items()}}
            found = _problem(net, shapes)
            problem = problem or found
            if found is None:
                out.append(shapes)
                wanted -= 1
            if not wanted:
                break
        if not out:
            assert problem is not None
            raise UnsupportedError(
                f"the {name} cannot be dynamic: {problem.message}", where=problem.where
            )
    return out


def _problem(net: Net, shapes: Mapping[str, Shape]) -> CaffeIOError | None:
    """Why the net, with its weights, cannot have inputs of these shapes."""
    try:
        other = Net(net.graph, profile=net.profile, input_shapes=shapes)
    except CaffeIOError as error:
        return error
    for mine, step in zip(net.steps, other.steps, strict=True):
        for a, b in zip(mine.layer.blob_specs, step.layer.blob_specs, strict=True):
            if tuple(a.shape) != tuple(b.shape):
                sizes = " and ".join(f"{k} {format_shape(s)}" for k, s in shapes.items())
                return UnsupportedError(
                    f"at {sizes} layer {step.node.name!r} ({step.node.type}) would need a blob "
                    f"{a.name!r} of {format_shape(b.shape)}, not "
                    f"{format_shape(a.shape)}",
                    where=step.node.where or None,
                )
    return None


def _longer(shape: Shape, axis: int, more: int) -> Shape:
    return (*shape[:axis], shape[axis] + more, *shape[axis + 1 :])


def _resized(net: Net, shapes: Mapping[str, Shape], name: str) -> Net:
    other = Net(net.graph, profile=net.profile, input_shapes=shapes)
    return other if name == "batch" else other.initialize()


def _rebuilt(net: Net, other: Net, built: Built, outputs: Sequence[str] | None) -> Built:
    """The graph of the net at other sizes, with the same weights."""
    other.share_trained_layers_with(net)
    try:
        return build(
            other,
            outputs,
            dynamic_batch=built.graph.dynamic_batch,
            dynamic_size=True,
            unroll=built.graph.unroll,
            client=built.graph.client,
        )
    except UnsupportedError as error:
        raise located(net, error) from None


def _compare(net: Net, mine: Built, other: Built, shapes: Mapping[str, Shape]) -> None:
    """Raise UnsupportedError that names the layer where two graphs differ."""
    layer = ""
    for a, b in zip(mine.graph.nodes, other.graph.nodes, strict=False):
        if not _same(a, b) or not _same_constants(mine, other, a):
            layer = _maker(net, mine, a)
            break
    if not layer and len(mine.graph.nodes) != len(other.graph.nodes):
        layer = max(mine.graph.nodes, other.graph.nodes, key=len)[-1].layer
    if layer:
        sizes = " and ".join(f"{k} {format_shape(s)}" for k, s in shapes.items())
        error = UnsupportedError(
            f"layer {layer!r} has a form for one size only: at {sizes} it would be another"
        )
        raise located(net, error)


def _maker(net: Net, built: Built, node: OnnxNode) -> str:
    """The layer of a node; of one that hands an output over, the layer that makes the blob."""
    blobs = {blob for blob, name in built.outputs.items() if name in node.outputs}
    makers = [step.node.name for step in net.steps if blobs & set(step.tops)]
    return node.layer if node.layer in {step.node.name for step in net.steps} else makers[-1]


def _same(a: OnnxNode, b: OnnxNode) -> bool:
    return (a.op_type, a.inputs, a.outputs, str(a.attributes)) == (
        b.op_type, b.inputs, b.outputs, str(b.attributes))  # fmt: skip


def _same_constants(mine: Built, other: Built, node: OnnxNode) -> bool:
    for name in node.inputs:
        a, b = (one.graph.constants.get(name) for one in (mine, other))
        if (a is None) != (b is None):
            return False
        if a is not None and b is not None and not np.array_equal(a, b):
            return False
    return True


def _named(
    built: Built,
    declared: Declared,
    base: Mapping[str, Shape],
    nets: Sequence[tuple[str, Mapping[str, Shape], Net]],
) -> Declared:
    """Shapes with names for sizes of inputs, and for those that are as they everywhere."""
    blobs = {name: blob for blob, name in built.outputs.items()}
    out: dict[str, tuple[int | str | None, ...]] = {}
    for value, shape in declared.items():
        blob = blobs.get(value, value)
        if any(blob not in other.blob_shapes for _, _, other in nets):
            continue  # a value on the way, whose sizes at other inputs nobody tells
        dims = list(shape)
        for name, shapes, other in nets:
            new = other.blob_shapes[blob]
            axis = AXES[name]
            for i, n in enumerate(new):
                if built.graph.shapes[value][i] == n:
                    continue
                fits = i == axis and all(
                    (built.graph.shapes[value][i], n) == (base[k][axis], shapes[k][axis])
                    for k in base if len(base[k]) > axis and base[k] != shapes[k]
                )  # fmt: skip
                kept = dims[i] in (built.graph.shapes[value][i], NAMES[axis])
                dims[i] = NAMES[axis] if fits and kept else None
        out[value] = tuple(dims)
    return out


def _merged(built: Built, declared: Declared) -> list[str]:
    """Notes on outputs in which the images of a batch are not apart."""
    out = []
    for blob, value in built.outputs.items():
        dims = declared[value]
        lost = bool(dims) and dims[0] != "N" and None in dims
        if lost and value not in built.graph.varying:
            shape = ", ".join("?" if n is None else str(n) for n in dims)
            out.append(
                f"WARNING: output {blob!r} is [{shape}]: the images of a batch are merged in it, "
                "since a Reshape of the net has another first size; run one image at a time, or "
                "split it by hand"
            )
    return out
