"""What a layer is, and the registry of layer types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from caffeio.errors import LayerError, UnknownLayerError, UnsupportedError
from caffeio.profiles import BVLC, Profile

if TYPE_CHECKING:
    from caffeio.boost_random import CaffeRng
    from caffeio.layers.onnx.graph import OnnxGraph
    from caffeio.proto.caffe_pb2 import FillerParameter, LayerParameter

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Count:
    """How many bottoms or tops a layer takes: at least `low`, at most `high` (None: no limit)."""

    low: int
    high: int | None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"

    def __contains__(self, n: int) -> bool:
        return n >= self.low and (self.high is None or n <= self.high)


def exactly(n: int) -> Count:
    """Just `n`."""
    return Count(n, n)


def at_least(n: int) -> Count:
    """`n` or more."""
    return Count(n, None)


def between(low: int, high: int) -> Count:
    """From `low` to `high`, both included."""
    return Count(low, high)


@dataclass(frozen=True)
class LayerContext:
    """What a layer may know of the net that it stands in."""

    phase: str = "TEST"  # of this layer: "TRAIN" or "TEST"
    profile: Profile = BVLC
    where: str = ""  # "file:line:column" of the layer, for messages
    bottom_names: tuple[str, ...] = ()
    top_names: tuple[str, ...] = ()  # automatic tops of losses included
    allow_python: bool = False  # may `type: "Python"` run code that the prototxt names?
    search_path: tuple[str, ...] = ()  # folders in which relative paths are looked up, in order


@dataclass
class BlobSpec:
    """A learnable blob as the layer declares it in `setup`."""

    name: str
    shape: Shape
    filler: FillerParameter | None
    default: float = 0.0  # constant value where no filler is given
    statistic: bool = False  # never trained (BatchNorm's mean, variance, factor)
    initial: Tensor | None = None  # values in place of a filler's (Python layers set their own)


class Layer(nn.Module):
    """One Caffe layer: its parameters, its maths, its blobs and its ONNX form.

    A subclass says how many bottoms and tops it takes, creates its blobs in `setup`, and computes
    in `forward`; gradients are autograd's unless Caffe's differ. Blobs keep Caffe's order, layout
    and shape. Shapes are found by running `forward` on the meta device, so `forward` must work
    there: no `.item()`, no data-dependent branches (guard those with `x.is_meta`).
    """

    bottoms: ClassVar[Count] = exactly(1)
    tops: ClassVar[Count] = exactly(1)
    equal_bottoms_tops: ClassVar[bool] = False  # one top for each bottom (Convolution)
    is_loss: ClassVar[bool] = False  # loss_weight 1 by default, an automatic top if none is named
    is_source: ClassVar[bool] = False  # makes data (Data, Input, ...): takes no bottoms
    differentiable: ClassVar[bool] = True  # False: bottoms never get a gradient (Accuracy, ArgMax)
    label_bottoms: ClassVar[frozenset[int]] = frozenset()  # bottoms that cannot get a gradient
    in_place: ClassVar[bool] = True  # may a top be the bottom of the same index?

    # Blobs are memory in Caffe, and Backward reads what later layers in place have left there: see
    # caffeio/net/memory.py. Where the parameters decide, `setup` sets these on the layer.
    reads_top: bool = False  # Backward reads the data of the tops
    reads_bottoms: frozenset[int] | None = frozenset()  # and of these bottoms (None: of all)
    reads_signs: bool = False  # of these it asks only whether a value is above 0
    keeps_signs: bool = False  # in place it leaves above 0 what is above 0, and nothing else
    writes_early: bool = False  # in place, Backward writes a gradient before it has read the top's
    shares_memory: bool = False  # the tops are the bottom's memory under other names
    backward: ClassVar[str] = (
        ""  # "module:class" of Caffe's Backward; empty: autograd at the bottoms
    )

    def __init__(self, param: LayerParameter, context: LayerContext | None = None) -> None:
        super().__init__()
        self.param = param
        self.name: str = param.name
        self.kind: str = param.type
        self.context = context or LayerContext()
        self.blob_specs: list[BlobSpec] = []
        self.blobs = nn.ParameterList()
        self.rng: CaffeRng | None = None  # Caffe's own generator, when a seed was given
        self.bottom_shapes: tuple[Shape, ...] = ()  # of the net as it was built
        self.top_shapes: tuple[Shape, ...] = ()

    @property
    def train_phase(self) -> bool:
        """Whether this layer's phase is TRAIN."""
        return self.context.phase == "TRAIN"

    @property
    def profile(self) -> Profile:
        """Which Caffe's numbers are wanted."""
        return self.context.profile

    def setup(self, *shapes: Shape) -> None:
        """Check the parameters against the bottoms' shapes and declare the blobs (`add_blob`)."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the top, or a tuple of tops (empty for none)."""
        raise NotImplementedError

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """Add this layer to the ONNX graph `g`; return the names of the tops' values."""
        raise UnsupportedError(
            f"layer {self.name!r}: type {self.kind} has no ONNX form",
            where=self.context.where or None,
        )

    def macs(self) -> int:
        """Multiply-accumulates of one forward pass at the shapes of the build; 0 if negligible."""
        return 0

    def add_blob(
        self,
        name: str,
        shape: Sequence[int],
        filler: FillerParameter | None = None,
        *,
        default: float = 0.0,
        statistic: bool = False,
    ) -> nn.Parameter:
        """Declare the next blob: float32, on the meta device until the net is materialized."""
        spec = BlobSpec(name, tuple(int(n) for n in shape), filler, default, statistic)
        values = torch.empty(spec.shape, device="meta")
        parameter = nn.Parameter(values, requires_grad=not statistic)
        self.blob_specs.append(spec)
        self.blobs.append(parameter)
        return parameter

    def error(self, message: str, *, field: str | None = None) -> LayerError:
        """An error of this layer, ready to be raised; `field` is the path of the wrong field."""
        place = f"layer {self.name!r} (type {self.kind})"
        if field:
            place += f", {field}"
        return LayerError(f"{place}: {message}", where=self.context.where or None)

    def check(self, ok: bool, message: str, *, field: str | None = None) -> None:
        """Raise `error(message)` unless `ok`."""
        if not ok:
            raise self.error(message, field=field)

    def axis(self, index: int, ndim: int, field: str = "axis") -> int:
        """The axis that Caffe's `CanonicalAxisIndex` makes of `index` (negative: from the end)."""
        if not -ndim <= index < ndim:
            raise self.error(f"axis {index} out of range for a {ndim}-D bottom", field=field)
        return index % ndim if ndim else 0

    def extra_repr(self) -> str:
        """Name and type."""
        return f"{self.name!r}, {self.kind}"


L = TypeVar("L", bound=type[Layer])
REGISTRY: dict[str, type[Layer]] = {}
ENTRY_POINTS = "caffeio.layers"  # third parties name a module or a Layer class here


def layer(*kinds: str) -> Callable[[L], L]:
    """Register the class that defines the Caffe layer types `kinds`."""

    def add(cls: L) -> L:
        for kind in kinds:
            if kind in REGISTRY:
                raise ValueError(f"layer type {kind!r} is already defined by {REGISTRY[kind]}")
            REGISTRY[kind] = cls
        return cls

    return add


_plugins_loaded = False


def _load_plugins() -> None:
    global _plugins_loaded
    if not _plugins_loaded:
        from importlib.metadata import entry_points

        _plugins_loaded = True
        for entry in entry_points(group=ENTRY_POINTS):
            entry.load()


def lookup(kind: str, name: str, where: str | None = None) -> type[Layer]:
    """Return the class of layer `name`, whose type is `kind`.

    Raises UnknownLayerError with the types whose names are close and how to register one.
    """
    if kind not in REGISTRY:
        _load_plugins()
    try:
        return REGISTRY[kind]
    except KeyError:
        folded = {known.lower(): known for known in REGISTRY}
        close = [folded[name] for name in get_close_matches(kind.lower(), folded, 3)]
        hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
        raise UnknownLayerError(
            f"layer {name!r}: unknown layer type {kind!r}{hint}; known are {len(REGISTRY)} types. "
            f"Define it with @caffeio.layers.layer({kind!r}) in a package that names it in the "
            f"entry-point group {ENTRY_POINTS!r} (see CONTRIBUTING.md)",
            where=where,
        ) from None


def known_types() -> list[str]:
    """All registered layer types, sorted."""
    _load_plugins()
    return sorted(REGISTRY)


__all__ = [
    "REGISTRY",
    "BlobSpec",
    "Count",
    "Layer",
    "LayerContext",
    "Shape",
    "at_least",
    "between",
    "exactly",
    "known_types",
    "layer",
    "lookup",
]
