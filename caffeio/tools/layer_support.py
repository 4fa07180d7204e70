"""Which nets can be built, phase by phase, and why the others cannot."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from caffeio.errors import CaffeIOError, LayerError, NetError
from caffeio.layers import REGISTRY, known_types, lookup
from caffeio.layers.base import Shape
from caffeio.layers.python.native import NATIVE
from caffeio.layers.registry import reads_data
from caffeio.layers.sources import SourceLayer, usual_shapes
from caffeio.net.graph import is_included, net_state
from caffeio.net.recipe import NetRecipe
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.io.regular import open_regular

PHASES = ("TRAIN", "TEST")
SUFFIXES = (".prototxt", ".pt", ".pbtxt", ".txt")
SIZES: tuple[Shape, ...] = (  # images that nets are made for, where the parameters do not say
    (3, 224, 224), (3, 299, 299), (3, 32, 32), (1, 28, 28), (2, 28, 28), (3, 64, 64), (1, 64, 64),
)  # fmt: skip


@dataclass
class PhaseCheck:
    """Whether one phase of a net builds."""

    built: bool
    reason: str = ""  # the error's text
    unknown: tuple[str, ...] = ()  # layer types that nobody defines
    guess: dict[str, Shape] = field(default_factory=dict)  # shapes of data that had to be tried


@dataclass
class NetCheck:
    """One file; `phases` has those that the net is written for."""

    path: str
    phases: dict[str, PhaseCheck] = field(default_factory=dict)
    reason: str = ""  # why the file cannot be read

    @property
    def built(self) -> bool:
        """Whether all its phases build."""
        return not self.reason and all(outcome.built for outcome in self.phases.values())

    def as_json(self) -> dict[str, Any]:
        """A record for --json."""
        phases = {
            phase: {"built": o.built, "reason": o.reason, "unknown": list(o.unknown),
                    "guess": {name: list(shape) for name, shape in o.guess.items()}}
            for phase, o in self.phases.items()
        }  # fmt: skip
        return {"path": self.path, "built": self.built, "reason": self.reason, "phases": phases}


@dataclass
class NetChecks:
    """What became of each net."""

    nets: list[NetCheck]

    @property
    def built(self) -> int:
        """How many nets build in all their phases."""
        return sum(net.built for net in self.nets)

    @property
    def unknown(self) -> Counter[str]:
        """In how many nets each unknown type occurs."""
        return Counter(
            chain.from_iterable(
                {type_name for outcome in net.phases.values() for type_name in outcome.unknown}
                for net in self.nets
            )
        )


def check_nets(paths: Iterable[str | os.PathLike[str]]) -> NetChecks:
    """Try to build each net of the files and folders `paths` on the meta device.

    Text files without layers (solvers, label maps) of folders are passed over. Nothing is read but
    the prototxts, and no code of Python layers runs.
    """
    return NetChecks([net for path in paths for net in _nets(Path(path))])


def _nets(path: Path) -> Iterator[NetCheck]:
    if not path.is_dir():
        net = check_net(path)
        if not net.phases and not net.reason:
            net.reason = "this is no net: it has no layers"
        yield net
        return
    for file in sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()):
        net = check_net(file)
        if net.phases or net.reason:
            yield net


def check_net(path: str | os.PathLike[str]) -> NetCheck:
    """Try to build the net of one file in its phases."""
    result = NetCheck(os.fspath(path))
    try:
        file = read_net(path)
    except CaffeIOError as error:
        if _names_layers(path):
            result.reason = str(error)
        return result
    for phase in PHASES:
        if len(file.message.layer) and written_for(file.message, phase):
            result.phases[phase] = _check_phase(file, phase)
    return result


def _names_layers(path: str | os.PathLike[str]) -> bool:
    try:
        with open_regular(path) as file:
            return b"layer" in file.read(1 << 20)
    except OSError:
        return False


def written_for(net: pb.NetParameter, phase: str) -> bool:
    """Whether the net has its data in `phase`: no layer misses a top that a source left out makes.

    A train_val net whose only data layer is for TRAIN is not written for TEST.
    """
    state = net_state(net, phase, 0, ())
    sources = {name for layer in net.layer if not layer.bottom for name in layer.top}
    present: set[str] = set()
    for layer in net.layer:
        if is_included(layer, state):
            if any(name in sources and name not in present for name in layer.bottom):
                return False
            present.update(layer.top)
    return True


def _check_phase(file: NetFile, phase: str) -> PhaseCheck:
    """Build the net of `file` in `phase`, if need be with other shapes of its data."""
    state = net_state(file.message, phase, 0, ())
    known = set(known_types())
    types = {layer.type for layer in file.message.layer if is_included(layer, state)}
    unknown = tuple(sorted(types - known))
    try:
        recipe = NetRecipe.of_file(file, phase=phase)
        recipe.build(device="meta")
        return PhaseCheck(True)
    except CaffeIOError as error:
        reason = str(error)
        if unknown or not isinstance(error, LayerError | NetError):
            return PhaseCheck(False, reason, unknown)
    for shapes in _candidates(file.message, phase):
        try:
            replace(recipe, input_shapes=shapes).build(device="meta")
            return PhaseCheck(True, guess=shapes)
        except CaffeIOError:
            continue
    return PhaseCheck(False, reason)


def _candidates(net: pb.NetParameter, phase: str) -> Iterator[dict[str, Shape]]:
    """Shapes to try for the data whose layers do not tell them.

    First what the net's other phase says of the same blob, then as many maps of labels as
    the layer that reads them has classes, then usual images, with one label and
    with two; for Fast R-CNN's regions the class-agnostic width.
    """
    here, there = (
        [layer for layer in net.layer if not layer.bottom
         and is_included(layer, net_state(net, which, 0, ()))]
        for which in (phase, PHASES[phase == "TRAIN"])
    )  # fmt: skip
    agnostic = {name: shape for layer in here for name, shape in _agnostic(layer).items()}
    if agnostic:
        yield agnostic
    guessed = [layer for layer in here if reads_data(layer.type)]
    told = {name: shape for layer in there if not reads_data(layer.type)
            for name, shape in _shapes(layer).items()}  # fmt: skip
    if not guessed:
        return
    if told:
        yield {name: told.get(name, shape) for layer in guessed
               for name, shape in _shapes(layer).items()}  # fmt: skip
    maps = [n for layer in net.layer for n in (
        layer.yolo_seg_param.num_class, layer.segmentation_evaluate_param.num_classes
    ) if layer.type in ("YoloSeg", "SegmentationEvaluate") and n]  # fmt: skip
    for layer in guessed:
        shapes = _shapes(layer)
        if len(shapes) == 3 and maps:
            *others, (name, shape) = shapes.items()
            yield {**dict(others), name: (shape[0], maps[0], *shape[2:])}
    for labels in (1, 2):
        for size in SIZES:
            shapes = {}
            for layer in guessed:
                for i, (name, shape) in enumerate(_shapes(layer).items()):
                    label = (shape[0], labels) if layer.type == "HDF5Data" else shape
                    shapes[name] = label if i else (shape[0], *size)
            yield shapes


def _shapes(layer: pb.LayerParameter) -> dict[str, Shape]:
    """Shapes of a source's tops by name, as far as its parameters tell."""
    cls = REGISTRY.get(layer.type)
    if cls is None or not issubclass(cls, SourceLayer):
        return {}
    try:
        return dict(zip(layer.top, usual_shapes(layer, cls), strict=False))
    except CaffeIOError:
        return {}


def _agnostic(layer: pb.LayerParameter) -> dict[str, Shape]:
    """Shapes of a RoIDataLayer's tops with offsets of two classes in place of all."""
    code = (layer.python_param.module, layer.python_param.layer)
    if layer.type != "Python" or code[1] != "RoIDataLayer" or code not in NATIVE:
        return {}
    shapes = usual_shapes(layer, NATIVE[code])
    usual = ("data", "im_info", "gt_boxes", "rois", "labels")
    pairs = zip(layer.top, shapes, strict=True)
    return {name: shape if name in usual else (1, 8, 1, 1) for name, shape in pairs}


@dataclass(frozen=True)
class TypeInfo:
    """A layer type and where it is defined."""

    name: str  # as prototxts write it; "Python:module.Class" for Python layers
    family: str  # the module of caffeio.layers, or the package that brings it
    bottoms: str
    tops: str
    loss: bool
    source: bool

    def as_json(self) -> dict[str, Any]:
        """A record for --json."""
        return asdict(self)


def layer_types() -> list[TypeInfo]:
    """All known types, those of third parties and known Python layers included, by name."""
    named = {type_name: lookup(type_name, type_name) for type_name in known_types()}
    named |= {f"Python:{module}.{name}": cls for (module, name), cls in NATIVE.items()}
    return [
        TypeInfo(
            type_name, cls.__module__.removeprefix("caffeio.layers."), str(cls.bottoms),
            str(cls.tops), cls.is_loss, cls.is_source,
        )
        for type_name, cls in sorted(named.items())
    ]  # fmt: skip
