"""The vocabulary of shape rules: what a rule sees, what it answers, and the registry of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from caffeio.errors import LayerError
from caffeio.layers.inference import LayerShapes, infer_layer
from caffeio.layers.registry import find
from caffeio.profiles import BVLC, Profile

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import LayerParameter

Shape = tuple[int, ...]
UNKNOWN = -1  # a single dimension that nobody can know yet (the height of a missing LMDB's images)


class NotKnownError(Exception):
    """Raised inside a rule that needs a shape which is not known; never leaves `infer`."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a rule: the layer, its bottoms' shapes, how many tops it has."""

    kind: str
    param: LayerParameter
    bottoms: tuple[Shape | None, ...]
    top_count: int
    profile: Profile = BVLC
    extra: dict[str, object] = field(default_factory=dict)  # fields outside of the schema

    def shape(self, index: int = 0) -> Shape:
        """The shape of bottom `index`; the rule ends here if it is not known."""
        if index >= len(self.bottoms):
            self.fail(f"takes at least {index + 1} bottoms, has {len(self.bottoms)}", "bottom")
        shape = self.bottoms[index]
        if shape is None:
            raise NotKnownError
        return shape

    def axis(self, index: int, ndim: int, name: str) -> int:
        """Caffe's CanonicalAxisIndex of `index`, the value of field `name`."""
        if not -ndim <= index < ndim:
            self.fail(f"axis {index} is out of range for a {ndim}-D bottom", name)
        return index % ndim if ndim else 0

    def fail(self, message: str, name: str | None = None) -> NoReturn:
        """Raise the LayerError that says what is wrong, and in which field."""
        place = f"layer {self.param.name!r} (type {self.kind})"
        raise LayerError(f"{place}, {name}: {message}" if name else f"{place}: {message}")


Rule = Callable[[Query], LayerShapes]
RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register the shape rule of the layer types `kinds`."""

    def add(function: Rule) -> Rule:
        for kind in kinds:
            if kind in RULES:
                raise ValueError(f"the shapes of {kind!r} have a rule already")
            RULES[kind] = function
        return function

    return add


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


def macs_of(*factors: int) -> int | None:
    """The product of `factors`, or None if one is UNKNOWN."""
    total = product(factors)
    return None if total < 0 else total


def infer(
    kind: str,
    param: LayerParameter,
    bottoms: Sequence[Shape | None],
    profile: Profile = BVLC,
    *,
    top_count: int | None = None,
) -> LayerShapes:
    """Shapes of the tops and blobs of one layer, and its MACs.

    `bottoms`: the bottoms' shapes in order, None for an unknown one. `top_count` defaults to the
    tops that `param` names. Layers of unknown types, and layers whose bottoms are not known well
    enough, get None for every top. Raises LayerError if the parameters do not fit the bottoms.
    """
    count = len(param.top) if top_count is None else top_count
    cls = find(kind)
    if cls is not None and not hasattr(cls, "forward") and not cls.is_source:
        return infer_layer(cls, param, bottoms, profile, top_count=count)
    found = RULES.get(kind)
    if found is None:
        return LayerShapes((None,) * count, macs=None, known_type=False)
    query = Query(kind, param, tuple(bottoms), count, profile)
    try:
        result = found(query)
    except NotKnownError:
        return LayerShapes((None,) * count, macs=None)
    for shape in result.tops:
        if shape is not None and any(dim < UNKNOWN for dim in shape):
            query.fail(f"the top would get the shape {format_shape(shape)}")
    return result


def format_shape(shape: Shape | None) -> str:
    """`32x3x224x224`; `scalar` for [], `?` for what is not known."""
    if shape is None:
        return "?"
    return "x".join("?" if dim < 0 else str(dim) for dim in shape) or "scalar"


__all__ = [
    "RULES",
    "UNKNOWN",
    "LayerShapes",
    "NotKnownError",
    "Query",
    "Shape",
    "agree",
    "format_shape",
    "infer",
    "is_known",
    "macs_of",
    "product",
    "rule",
]
