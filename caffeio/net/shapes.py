"""Shapes, parameter counts, MACs and memory of a whole net."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from caffeio.data.first_record import first_record, opener
from caffeio.errors import LayerError
from caffeio.layers.base import LayerType
from caffeio.layers.inference import LayerShapes, infer_layer
from caffeio.layers.python.native import native_class
from caffeio.layers.registry import find
from caffeio.layers.sources import Record
from caffeio.net.checks import Refusal, SharedParams, wrong_counts, wrong_params, wrong_weights
from caffeio.net.graph import LayerNode, NetGraph
from caffeio.profiles import BVLC, Profile
from caffeio.proto import caffe_pb2 as pb

__all__ = [
    "UNKNOWN",
    "LayerShapes",
    "NetShapes",
    "Shape",
    "agree",
    "infer",
    "infer_net",
    "is_known",
    "product",
]

Shape = tuple[int, ...]
Key = tuple[bytes, tuple[Shape | None, ...], int, bool]
_OURS = "caffeio.layers."
Known = dict[Key, LayerShapes]  # what was found for a layer of the net, for those that are equal
UNKNOWN = -1  # a dimension that nobody can know yet (the height of a missing LMDB's images)


def product(dims: Iterable[int]) -> int:
    """The product of `dims`, UNKNOWN if one of them is."""
    total = 1
    for dim in dims:
        if dim < 0:
            return UNKNOWN
        total *= dim
    return total


def is_known(shape: Shape | None) -> bool:
    """Whether every dimension of `shape` is known."""
    return shape is not None and all(dim >= 0 for dim in shape)


def agree(a: int, b: int) -> bool:
    """Whether two dimensions are equal, as far as they are known."""
    return a == b or a < 0 or b < 0


def infer(
    type_name: str,
    param: pb.LayerParameter,
    bottoms: Sequence[Shape | None],
    profile: Profile = BVLC,
    *,
    top_count: int | None = None,
    phase: str = "TEST",
    where: str = "",
    search_path: Sequence[str] = (),
    record: Record | None = None,
) -> LayerShapes:
    """Ask the class of a layer type for the shapes of the tops and blobs, and for the MACs.

    `bottoms`: the bottoms' shapes in order, None for an unknown one. `top_count` defaults to the
    tops that `param` names. `record`: of a data layer, what its first record is. Layers of unknown
    types, and layers whose bottoms are not known well enough, get None for every top. Raises
    LayerError if the parameters do not fit the bottoms.
    """
    cls = class_asked(param, type_name)
    count = len(param.top) if top_count is None else top_count
    if cls is not None and top_count is None and not count:
        count = len(bottoms) if cls.equal_bottoms_tops else cls.tops.low
    if cls is None or cls.runs_code:
        return LayerShapes(
            (None,) * count, macs=None, known_type=type_name == "Python", set_up=False
        )
    if hasattr(cls, "forward") and not all(map(is_known, bottoms)):
        return LayerShapes(
            (None,) * count, macs=None, set_up=False
        )  # torch calculates with numbers
    return infer_layer(
        cls, param, bottoms, profile, top_count=count, phase=phase, where=where,
        search_path=search_path, record=record,
    )  # fmt: skip


def class_asked(param: pb.LayerParameter, type_name: str = "") -> type[LayerType] | None:
    """Find the class that is asked for a layer: its type's, or that of a known Python module."""
    cls = find(type_name or param.type)
    if (type_name or param.type) == "Python":
        cls = native_class(param) or cls
    return cls


@dataclass(slots=True)
class NetShapes:
    """What is known of a net's blobs without running it; lists are in the order of graph.nodes."""

    graph: NetGraph
    layers: list[LayerShapes] = field(default_factory=list)
    blobs: dict[str, Shape | None] = field(default_factory=dict)  # last value of an in-place chain
    guessed: dict[str, str] = field(default_factory=dict)  # data layer -> where its shapes are from
    errors: list[tuple[LayerNode, str]] = field(default_factory=list)  # of layers, by themselves
    refusals: list[tuple[LayerNode, Refusal]] = field(default_factory=list)  # of the net
    owned: list[tuple[Shape, ...]] = field(default_factory=list)  # blobs less those shared

    @property
    def problems(self) -> list[tuple[LayerNode, str]]:
        """Why the net cannot be built, in the errors' own words: by layers, in their order."""
        found = self.errors + [(node, refusal.text(node)) for node, refusal in self.refusals]
        places = {id(node): i for i, node in enumerate(self.graph.nodes)}
        return sorted(found, key=lambda item: places[id(item[0])])

    @property
    def parameters(self) -> int:
        """Values in all learnable blobs, shared ones once; unknown ones are left out."""
        return sum(max(product(blob), 0) for blobs in self.owned for blob in blobs)

    @property
    def parameters_known(self) -> bool:
        """Whether `parameters` is the whole truth."""
        pairs = zip(self.graph.nodes, self.layers, strict=True)
        return all(parameters_of(node.param, layer) is not None for node, layer in pairs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass, as far as they are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def macs_known(self) -> bool:
        """Whether `macs` is the whole truth."""
        return all(layer.macs is not None for layer in self.layers)

    @property
    def data_bytes(self) -> int:
        """What Caffe logs as "Memory required for data": 4 bytes for each value of each top."""
        tops = (top for layer in self.layers for top in layer.tops)
        named = sum(max(product(top), 0) for top in tops if top is not None)
        topless = (class_asked(node.param) for node in self.graph.nodes if not node.param.top)
        automatic = sum(1 for cls in topless if cls and cls.is_loss)
        return 4 * (named + automatic)  # a loss without a top has one of its own

    @property
    def batch(self) -> int | None:
        """Size of the first axis of the first data blob, None if unknown."""
        for layer in self.layers:
            for top in layer.tops:
                return top[0] if top and top[0] > 0 else None
        return None


def infer_net(
    graph: NetGraph,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    profile: Profile = BVLC,
    search_path: Sequence[str | os.PathLike[str]] = (),
) -> NetShapes:
    """Infer every blob's shape; what cannot be known stays None, nothing is raised.

    `input_shapes` gives shapes of blobs that data or Input layers make (they win over all else).
    `search_path`: folders in which the sources of data layers are looked up, after the working
    directory. Why the net cannot be built is collected in `problems`.
    """
    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    finder = opener(search_path)
    folders = tuple(os.fspath(folder) for folder in search_path)
    result, shared = NetShapes(graph), SharedParams()
    names: set[str] = set()
    known: Known = {}
    for node in graph.nodes:
        record = first_record(node.param, finder)
        shapes = _of_layer(result, node, profile, folders, record, known)
        if shapes.note and not all(top in given for top in node.tops):
            result.guessed[node.name] = shapes.note
        if given and not node.bottoms and _may_be_given(node):
            tops = zip(node.tops, shapes.tops, strict=False)
            shapes = replace(shapes, tops=tuple(given.get(name, top) for name, top in tops))
        blobs = dict(enumerate(shapes.blobs))
        result.refusals += [(node, r) for _, _, r in shared.add(node, blobs) if r is not None]
        result.layers.append(shapes)
        result.owned.append(_owned(node, shapes, names))
        result.blobs.update(zip(node.tops, shapes.tops, strict=False))
    return result


def _may_be_given(node: LayerNode) -> bool:
    """Whether a layer's top shapes may be given: it reads data, or its type is not known."""
    cls = class_asked(node.param)
    return cls is None or cls.is_source or cls.runs_code


def parameters_of(param: pb.LayerParameter, shapes: LayerShapes) -> int | None:
    """Values in all blobs of a layer, None if they are not known."""
    cls = class_asked(param)
    may_have = cls is None or cls.has_blobs or hasattr(cls, "forward")
    if not shapes.set_up and not shapes.blobs and may_have:
        return None
    count = sum(product(blob) for blob in shapes.blobs)
    return count if all(map(is_known, shapes.blobs)) else None


def _of_layer(
    result: NetShapes,
    node: LayerNode,
    profile: Profile,
    folders: Sequence[str],
    record: Record | None,
    known: Known,
) -> LayerShapes:
    bottoms = [result.blobs.get(name) for name in node.bottoms]
    count, cls = len(node.tops), class_asked(node.param)
    phase = pb.Phase.Name(node.param.phase) if node.param.HasField("phase") else result.graph.phase
    nothing = LayerShapes((None,) * count, macs=None, set_up=False)
    n_tops = max(count, cls.tops.low) if cls is not None and cls.is_loss else count
    refusals = list(wrong_counts(node, cls, n_tops)) if cls is not None else []
    refusals += wrong_weights(node, n_tops) if cls is not None else []
    counted = not any(refusal.check == "counts" for refusal in refusals)
    key = _key(node, cls, bottoms, count) if counted else None
    try:
        found = known.get(key) if key is not None else None
        if found is None and counted:
            found = infer(
                node.type, node.param, bottoms, profile, top_count=count, phase=phase,
                search_path=folders, record=record,
            )  # fmt: skip
        found = found or nothing
        if key is not None:
            known[key] = found
    except LayerError as error:
        result.errors.append((node, error.message))
        found = nothing
    if found.set_up:
        refusals += wrong_params(node, len(found.blobs), found.statistics)
    result.refusals += [(node, refusal) for refusal in refusals]
    return found


def _key(
    node: LayerNode, cls: type[LayerType] | None, bottoms: Sequence[Shape | None], count: int
) -> Key | None:
    """What decides a layer's shapes: all but its name and its blobs'; None if it is not known."""
    if cls is None or cls.is_source or cls.runs_code or not cls.__module__.startswith(_OURS):
        return None
    param = pb.LayerParameter()
    param.CopyFrom(node.param)
    for name in ("name", "bottom", "top"):
        param.ClearField(name)
    return param.SerializeToString(), tuple(bottoms), count, 0 in node.in_place


def _owned(node: LayerNode, shapes: LayerShapes, names: set[str]) -> tuple[Shape, ...]:
    """The blobs of a layer that no earlier layer shares by name."""
    own = []
    for index, blob in enumerate(shapes.blobs):
        name = node.param.param[index].name if index < len(node.param.param) else ""
        if not name or name not in names:
            own.append(blob)
        if name:
            names.add(name)
    return tuple(own)
