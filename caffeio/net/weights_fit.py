"""Which of two readings of a net fits its weights: shapes from the input to the weights.

The layer types' own classes are asked. Only what decides counts: an InnerProduct, whose number of
inputs is written in its weights, an Eltwise or Concat, whose bottoms must agree, and windows that
do not fit into what they are moved over. Where the input's size is not in the file, every square up
to 1024 is tried. `caffeio.proto.dialect.detect_dialect` names this module and imports it when two
readings of a file are equally good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from caffeio.errors import CaffeIOError, LayerError
from caffeio.layers.base import LayerContext, LayerType, Shape
from caffeio.layers.dims import UnknownDimError, with_unknown, without_unknown
from caffeio.layers.sources import PictureLayer, SourceLayer
from caffeio.net.shapes import class_asked, is_known
from caffeio.profiles import Profile, profile_of_dialect
from caffeio.proto.dialect.detect_dialect import Walk
from caffeio.proto.upgrade.upgrade import upgrade_net
from caffeio.shape_text import format_shape

_LARGEST = 1024
_DECIDES = ("conv", "pool")  # families whose windows must fit


class _MisfitError(Exception):
    """The shapes of this reading do not fit together."""


def walk_shapes(net: Any, dialect: str = "bvlc") -> Walk:
    """Follow the shapes through a canonical net whose blobs have shapes (no numbers needed)."""
    try:
        layers = list(upgrade_net(net).message.layer)
    except CaffeIOError as error:
        return Walk(False, [], [error.message])
    profile = profile_of_dialect(dialect)
    steps = [_Step(param, profile) for param in layers]
    known = all(step.size_is_known() for step in steps)
    necks, refuted = _Necks(steps), ""
    for size in (0,) if known else range(1, _LARGEST + 1):
        try:
            confirmed = _follow(steps, size, necks)
        except _MisfitError as problem:
            refuted = refuted or str(problem)
            continue
        given = "" if known else f" (for an input of {size} x {size})"
        return Walk(True, [text + given for text in confirmed], [])
    if not known:
        refuted = f"no square input of up to {_LARGEST} pixels fits the weights"
    return Walk(False, [], [refuted])


class _Necks:
    """The places of a net where one blob decides all that follows.

    Another input's size that gives that blob the same shape fits as little as the first did.
    """

    def __init__(self, steps: Sequence[_Step]) -> None:
        last = {name: i for i, step in enumerate(steps) for name in step.param.bottom}
        self.blobs: list[str | None] = []
        self.misfits: dict[tuple[int, Shape | None], str] = {}
        sources = max((i for i, step in enumerate(steps) if step.is_source), default=-1)
        live: set[str] = set()
        for i, step in enumerate(steps):
            live = {name for name in (*live, *step.param.top) if last.get(name, -1) > i}
            self.blobs.append(next(iter(live)) if len(live) == 1 and i >= sources else None)


def _follow(steps: Sequence[_Step], size: int, necks: _Necks) -> list[str]:
    """Give the net a square input of that size; return what agrees with the weights."""
    blobs: dict[str, Shape] = {}
    confirmed: list[str] = []
    passed: list[tuple[int, Shape | None]] = []
    for i, step in enumerate(steps):
        bottoms = [blobs.get(name) for name in step.param.bottom]
        for top in step.param.top:
            blobs.pop(top, None)
        if step.is_source:
            found = _Found(step.source(size))
        elif None in bottoms or not bottoms:
            continue
        else:
            found = step.ask(tuple(shape for shape in bottoms if shape is not None))
        if found.misfit:
            necks.misfits.update(dict.fromkeys(passed, found.misfit))
            raise _MisfitError(found.misfit)
        confirmed += found.confirmed
        blobs.update(
            (name, shape) for name, shape in zip(step.param.top, found.tops, strict=False) if shape
        )
        neck = necks.blobs[i]
        if neck is not None:
            passed.append((i, blobs.get(neck)))
            if passed[-1] in necks.misfits:
                necks.misfits.update(dict.fromkeys(passed, necks.misfits[passed[-1]]))
                raise _MisfitError(necks.misfits[passed[-1]])
    return confirmed


@dataclass
class _Found:
    """What a layer makes of its bottoms."""

    tops: Sequence[Shape | None] = ()
    confirmed: list[str] = field(default_factory=list)
    misfit: str = ""


class _Step:
    """One layer; the same bottoms are asked for once, whatever the input's size was."""

    def __init__(self, param: Any, profile: Profile) -> None:
        self.param = param
        self.layer: LayerType | None = None
        cls = class_asked(param)
        if cls is not None and not cls.runs_code and not hasattr(cls, "forward"):
            names = tuple(param.top), tuple(param.bottom)
            context = LayerContext(profile=profile, bottom_names=names[1], top_names=names[0])
            self.layer = cls(param, context)
        self.is_source = isinstance(self.layer, SourceLayer)
        self._told: list[Shape | None] | None = None
        self._memo: dict[tuple[Shape, ...], _Found] = {}

    def size_is_known(self) -> bool:
        """Whether the file tells the size of the images of a data layer."""
        told = self.source(0) if isinstance(self.layer, PictureLayer) else []
        return not told or told[0] is None or 0 not in told[0][2:]

    def source(self, size: int) -> list[Shape | None]:
        """Return the tops' shapes of a data layer; `size` is used where the file gives none."""
        assert self.layer is not None
        if self._told is None:
            try:
                self.layer.configure()
                found = self.layer.told()
                self._told = [None if s is None else without_unknown(s) for s in found]
            except (LayerError, UnknownDimError):
                self._told = []
        return [s if s is None else _sized(s, size) for s in self._told]

    def ask(self, bottoms: tuple[Shape, ...]) -> _Found:
        """Find the tops, what the weights say of the bottoms, and what does not fit."""
        found = self._memo.get(bottoms)
        if found is None:
            found = self._memo[bottoms] = self._ask(bottoms)
        return found

    def _ask(self, bottoms: tuple[Shape, ...]) -> _Found:
        layer, name, type_name = self.layer, self.param.name, self.param.type
        if layer is None or layer.count_problem(
            type_name, len(bottoms), len(layer.context.top_names)
        ):
            return _Found()
        if type(layer).shapes is LayerType.shapes and not layer.is_loss:
            return _Found([bottoms[0]] * len(layer.context.top_names))
        layer.blob_specs = []
        known = [with_unknown(shape) for shape in bottoms]
        try:
            layer.setup(*known)
            tops = [without_unknown(shape) for shape in layer.shapes(*known)]
            fits = all(size >= 0 or size == -1 for shape in tops for size in shape)
        except UnknownDimError:
            return _Found()
        except LayerError as error:
            if layer.family == "join" and len(bottoms) > 1:
                shapes = " and ".join(format_shape(shape[1:], " x ") for shape in bottoms)
                return _Found(misfit=f"layer {name!r} ({type_name}) would join {shapes}")
            return _Found(misfit=error.message if layer.family in _DECIDES else "")
        if not fits:
            return _Found(misfit=f"layer {name!r} would have no output")
        if layer.family == "join" and len(bottoms) > 1 and all(is_known(s[2:]) for s in bottoms):
            together = len(bottoms[0]) == 4
            return _Found(tops, [f"the bottoms of layer {name!r} agree"] if together else [])
        return self._weights(tops) if type_name == "InnerProduct" else _Found(tops)

    def _weights(self, tops: list[Shape]) -> _Found:
        """Compare an InnerProduct's number of inputs with its weights."""
        layer = self.layer
        assert layer is not None
        if not self.param.blobs:
            return _Found(tops)
        blob, spec = self.param.blobs[0], without_unknown(layer.blob_specs[0].shape)
        place = 0 if layer.param.inner_product_param.transpose else -1
        wanted = (blob.shape.dim or (blob.height, blob.width))[place]
        given, name = spec[place], self.param.name
        if given == -1:
            return _Found(tops)
        if wanted != given:
            misfit = f"layer {name!r} has {wanted} inputs and would get {given}"
            return _Found(misfit=misfit)
        return _Found(tops, [f"layer {name!r} has {wanted} inputs and gets as many"])


def _sized(shape: Shape, size: int) -> Shape:
    """`shape` with a batch of 1 and sides of `size` where they are not known."""
    if len(shape) != 4:
        return tuple(1 if n == -1 and axis == 0 else n for axis, n in enumerate(shape))
    batch, channels, high, wide = shape
    return (abs(batch), channels, size if high == -1 else high, size if wide == -1 else wide)
