"""Nets and the weights beside them: read, arranged, reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.converters.preprocessing import Recipe, recipe_of
from caffeio.converters.report.model import Cell, Report, Section, Tone, count, listed, scaled, size
from caffeio.converters.show.layer_summary import short_type
from caffeio.converters.show.view import LayerRow, View, as_data, make_view, shape_words
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError, NetError
from caffeio.layers.base import FOREIGN_FIELD
from caffeio.layers.unread_fields import unread_fields
from caffeio.memory import free_bytes
from caffeio.net.graph import NetGraph, build_graph, is_included, net_state
from caffeio.net.shapes import NetShapes, infer_net, is_known
from caffeio.profiles import BVLC, Profile, choose_profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile, read_net
from caffeio.proto.io.mapped import map_file
from caffeio.proto.weights.blob_names import blob_name
from caffeio.shape_text import format_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffeio.converters.show.stats import Stats


@dataclass(frozen=True)
class ShowOptions:
    """What the user chooses of how a net is shown."""

    phase: str | None = None  # by default TEST, or TRAIN if that alone can be built
    stages: tuple[str, ...] = ()
    level: int = 0
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    dialect: str | None = None
    caffe: str | None = None
    show_all: bool = False
    weights: Path | None = None


@dataclass
class ShownNet:
    """A net ready to be shown; `view` is None if it cannot be built at all."""

    source: Source
    file: NetFile | None = None
    view: View | None = None
    dialect: str = ""  # in words: which, and how sure
    profile: Profile = BVLC
    warnings: list[str] = field(default_factory=list)
    stats: dict[str, list[Stats]] = field(default_factory=dict)  # layer -> blobs
    blob_types: dict[str, str] = field(default_factory=dict)
    filters: tuple[str, NDArray[Any]] | None = None  # of the first layer that reads pictures


def load(source: Source, options: ShowOptions) -> ShownNet:
    """Read a prototxt or caffemodel. What is wrong with the net ends up in `warnings`."""
    shown = ShownNet(source)
    if source.kind != "caffemodel.h5":  # HDF5 weights hold no net
        try:
            shown.file = read_net(source.path, dialect=options.dialect)
        except CaffeIOError as error:
            if source.kind == "net":
                raise
            shown.warnings.append(f"its net cannot be read: {error}")
    weights = options.weights or (source.path if source.kind.startswith("caffemodel") else None)
    if weights is not None:
        _load_weights(shown, weights)
    if shown.file is None:
        return shown
    shown.dialect = dialect_words(shown.file, source, options.dialect)
    shown.profile = choose_profile(options.caffe, shown.file.dialect)
    graph = _graph(shown, options)
    if graph is not None:
        search = (str(source.path.resolve().parent),)
        shapes = infer_net(graph, options.inputs, profile=shown.profile, search_path=search)
        _blobs_from_file(shapes, shown.stats)
        shown.view = make_view(shapes)
        shown.warnings += [f"{node.where}: {message}" for node, message in shapes.problems[:5]]
        shown.warnings += _unread(graph)
        shown.warnings += _unknown_inputs(shown.view)
    shown.warnings += [str(unknown) for unknown in shown.file.unknown[:5]]
    return shown


def _unread(graph: NetGraph) -> list[str]:
    """Fields of data layers for which no source can be opened: a training stops there."""
    return [
        f"{node.where}: layer {node.name!r} (type {node.type}), {path}: {FOREIGN_FIELD}"
        for node in graph.nodes
        for path in unread_fields(node.param)
    ]


def _unknown_inputs(view: View) -> list[str]:
    """What to type where the data that would tell a shape are not there."""
    return [
        f"the size of {name} ({format_shape(shape)}) is told by data that are not here: "
        f"give it with --input {name}={','.join(str(d) if d > 0 else 'N' for d in shape)}"
        for name, shape in view.inputs
        if shape is not None and not is_known(shape)
    ][:3]


def _blobs_from_file(shapes: NetShapes, stats: Mapping[str, Sequence[Stats]]) -> None:
    """Where a layer's blobs cannot be inferred, those in the file tell their shapes."""
    for i, node in enumerate(shapes.graph.nodes):
        known = all(is_known(blob) for blob in shapes.layers[i].blobs)
        if node.name in stats and not (shapes.layers[i].blobs and known):
            blobs = tuple(s.shape for s in stats[node.name])
            shapes.layers[i] = replace(shapes.layers[i], blobs=blobs)
            shapes.owned[i] = blobs


def _load_weights(shown: ShownNet, path: Path) -> None:
    from caffeio.proto.weights.load import load_weights

    weights = load_weights(path)
    from caffeio.converters.show.stats import stats_of  # with numpy: a net alone needs none

    shown.stats = {name: [stats_of(blob) for blob in weights[name]] for name in weights}
    shown.blob_types = {entry.name: entry.type for entry in weights.layers}
    for name, blobs in shown.stats.items():
        shape = blobs[0].shape if blobs else ()
        if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= 3 and shape[0] > 1:
            shown.filters = name, weights[name][0][:256]
            break


def dialect_words(file: NetFile, source: Source, given: str | None) -> str:
    """The dialect, how sure that is, and why."""
    if given:
        return f"{file.dialect} (as you said)"
    if file.parsed is not None:
        guess = file.guess
        if not guess.evidence:
            return "bvlc (no name in it is foreign to BVLC's Caffe)"
        also = f"; also fits {listed(guess.alternatives, 4)}" if guess.alternatives else ""
        return f"{guess.dialect} (by {listed(guess.evidence, 3)}{also})"
    from caffeio.proto.dialect.dialect import detect

    found = detect(map_file(source.path, CaffeIOError, "a net"), kind="net")
    also = f"; {listed(found.also, 4)} would read it alike" if found.also else ""
    return f"{found.dialect}, {100 * found.confidence:.0f} % sure{also}"


def _graph(shown: ShownNet, options: ShowOptions) -> NetGraph | None:
    """Build the net for the phase that was asked for, else for the first that works."""
    assert shown.file is not None
    message, locate = shown.file.message, shown.file.locate
    phases = [options.phase] if options.phase else ["TEST", "TRAIN"]
    errors = []
    for add_inputs in (False, True):
        for phase in phases:
            net = message
            if add_inputs:
                net = _with_inputs(message, phase, options, shown)

            def place(index: int, shift: int = len(net.layer) - len(message.layer)) -> str:
                return locate("layer", index - shift) if index >= shift else ""

            try:
                return build_graph(
                    net,
                    phase=phase,
                    level=options.level,
                    stages=options.stages,
                    locate=place,
                    profile=shown.profile,
                )
            except NetError as error:
                errors.append(f"cannot be built for {phase}: {error}")
    shown.warnings += errors[:2]
    return None


def _with_inputs(
    message: pb.NetParameter, phase: str, options: ShowOptions, shown: ShownNet
) -> pb.NetParameter:
    """A copy of the net in which an Input layer makes the blobs that nothing makes."""
    state = net_state(message, phase, options.level, options.stages)
    made: set[str] = set()
    missing: list[str] = []
    for layer in message.layer:
        if is_included(layer, state):
            missing += [b for b in layer.bottom if b not in made and b not in missing]
            made.update(layer.top)
    net = pb.NetParameter()
    if missing:
        net.layer.add(name="(inputs)", type="Input", top=missing)
        words = f"nothing makes {listed(missing)} in {phase}: taken as net inputs"
        if not options.inputs:
            words += " (give shapes with --input NAME=N,C,H,W)"
        shown.warnings.append(words)
    net.MergeFrom(message)
    layers = list(net.layer)
    if missing:  # MergeFrom appends: the Input layer is the first already
        assert layers[0].name == "(inputs)"
    return net


def report(shown: ShownNet, options: ShowOptions) -> Report:
    """The net on one screen."""
    kind = {"net": "net prototxt", "caffemodel": "weights", "caffemodel.h5": "weights (HDF5)"}
    out = Report(f"{shown.source.label}: {kind.get(shown.source.kind, shown.source.kind)}")
    out.data = data_of(shown)
    _head(shown, out)
    for warning in shown.warnings:
        out.add_paragraph(warning, tone="warn")
    _preprocessing(shown, out)
    if shown.view is not None:
        _layers(shown, out.section("Layers"), options)
    elif shown.file is not None:
        _plain_layers(shown.file.message, out.section("Layers"))
    if shown.stats:
        _weights(shown, out.section("Weights"), show_all=options.show_all)
    return out


def recipe(shown: ShownNet) -> Recipe | None:
    """How pictures become the net's input, as far as the file tells."""
    if shown.view is None or shown.file is None:
        return None
    return recipe_of(shown.file.message, dict(shown.view.inputs))


def _preprocessing(shown: ShownNet, out: Report) -> None:
    found = recipe(shown)
    if found is None or not found.told:
        return
    table = out.section("Preprocessing").table("", "", heads=False)
    for title, words in found.rows():
        table.add(title, words)
    out.data["preprocessing"] = dict(found.rows())


def _head(shown: ShownNet, out: Report) -> None:
    table = out.section("").table("", "", heads=False)
    if shown.file is not None:
        table.add("name", shown.file.message.name or "-")
        table.add("dialect", shown.dialect)
        if shown.file.upgraded is not None and shown.file.upgraded.done:
            table.add("upgraded", "; ".join(shown.file.upgraded.done))
    if shown.view is not None:
        _facts(shown.view, table)
    if shown.stats:
        values = sum(s.values for blobs in shown.stats.values() for s in blobs)
        bytes_ = shown.source.path.stat().st_size
        table.add("in the file", f"{values:,} values in {count(len(shown.stats), 'layer')}")
        table.add("size", size(bytes_))


def _facts(view: View, table: Any) -> None:
    shapes, graph = view.shapes, view.graph
    others = [f"stage {s}" for s in graph.stages] + (
        [f"level {graph.level}"] if graph.level else []
    )
    table.add("phase", ", ".join([graph.phase, *others]))
    for title, blobs in (("inputs", view.inputs), ("outputs", view.outputs)):
        texts = [f"{name} {format_shape(shape)}" for name, shape in blobs]
        table.add(title, listed(texts, 8) or "none")
    for name, note in shapes.guessed.items():
        table.add("", Cell(f"shapes of {name!r}: {note}", "dim"))
    more = "" if shapes.parameters_known else " or more"
    table.add("parameters", f"{shapes.parameters:,}{more} ({size(4 * shapes.parameters)})")
    more = "" if shapes.macs_known else " or more"
    batch = shapes.batch
    if shapes.macs and batch:
        macs = f"{scaled(shapes.macs / batch)}{more} an item"
        table.add(
            "MACs", macs + (f", {scaled(shapes.macs)} a batch of {batch}" if batch > 1 else "")
        )
    if shapes.data_bytes:
        table.add("memory of blobs", f"{size(shapes.data_bytes)} (forward, as Caffe counts it)")
        needed = shapes.data_bytes + 12 * shapes.parameters  # values, gradients, history
        free = free_bytes()
        tone: Tone = "warn" if free is not None and needed > free else ""
        training = f"about {size(needed)} with gradients and history"
        training += f"; {size(free or 0)} are free here" if tone else ""
        table.add("memory in training", Cell(training, tone))
    types = view.types()
    table.add(
        "layers", f"{sum(types.values())}: {listed([f'{n} {t}' for t, n in types.items()], 30)}"
    )


def _layers(shown: ShownNet, section: Section, options: ShowOptions) -> None:
    assert shown.view is not None
    rows = shown.view.rows
    if options.show_all:
        rows = make_view(shown.view.shapes, fold=False).rows
    batch = shown.view.shapes.batch or 1
    macs = "MACs an item" if batch > 1 else "MACs"
    columns = ("layer", "type", "", "top", "parameters", macs, "memory")
    table = section.table(*columns, right=(4, 5, 6))
    if not options.show_all:
        table.spare = (6, 2)
    for row in rows:
        table.add(
            row.name,
            Cell(
                row.type_name,
                "" if row.parts[0].shapes.known_type else "bad",
                short_type(row.type_name),
            ),
            Cell(row.summary, "dim"),
            shape_words(row.tops),
            "?" if row.parameters is None else f"{row.parameters:,}" if row.parameters else "",
            _macs(row, batch),
            size(row.bytes) if row.bytes else "",
        )


def _macs(row: LayerRow, batch: int) -> str:
    if row.macs is None:
        return "?"
    return scaled(row.macs / batch) if row.macs else ""


def _plain_layers(message: pb.NetParameter, section: Section) -> None:
    table = section.table("layer", "type", "bottoms", "tops")
    for layer in message.layer:
        table.add(layer.name, layer.type, ", ".join(layer.bottom), ", ".join(layer.top))


def _weights(shown: ShownNet, section: Section, *, show_all: bool) -> None:
    columns = ("layer", "blob", "shape", "norm", "mean", "std", "least", "largest")
    table = section.table(*columns, right=(3, 4, 5, 6, 7))
    table.spare = () if show_all else (6, 7, 3)
    rows = [
        (name, blob_name(shown.blob_types.get(name, ""), i), stats)
        for name, blobs in shown.stats.items()
        for i, stats in enumerate(blobs)
    ]
    for name, blob, s in rows:
        figures = [f"{v:.3g}" for v in (s.norm, s.mean, s.std, s.low, s.high)]
        bad = Cell(f"{s.not_finite} not finite", "bad") if s.not_finite else Cell(figures[0])
        table.add(name, blob, format_shape(s.shape), bad, *figures[1:])


def data_of(shown: ShownNet) -> dict[str, Any]:
    """The net as plain data."""
    out: dict[str, Any] = {"kind": shown.source.kind, "file": shown.source.label}
    if shown.file is not None:
        out["dialect"] = shown.file.dialect
        out["dialect_evidence"] = shown.dialect
    out["warnings"] = shown.warnings
    if shown.view is not None:
        out["net"] = as_data(shown.view)
    if shown.stats:
        out["weights"] = {
            name: [stats.as_data() for stats in blobs] for name, blobs in shown.stats.items()
        }
    return out
