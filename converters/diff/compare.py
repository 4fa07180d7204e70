"""Compare two of anything: finds out what they are and calls the right comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from caffeio.converters.kinds import KINDS, kind_of, members
from caffeio.converters.report.model import Cell, Line, Report, count, short_names
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError
from caffeio.profiles import choose_profile, get_profile
from caffeio.proto.io.opened import opened_once
from caffeio.proto.io.regular import read_regular

if TYPE_CHECKING:
    from caffeio.converters.diff.net_diff import NetSide
    from caffeio.converters.diff.solver_diff import SolverDiff, SolverDiffOptions
    from caffeio.converters.diff.weights_diff import Arrays

WEIGHTS = ("caffemodel", "caffemodel.h5", "safetensors", "pt", "npz")
STATES = ("solverstate", "solverstate.h5")


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    follow_nets: bool = True
    dataset_size: int | None = None
    workers: int = 1
    tol: float = 0.0
    atol: float = 0.0
    show_all: bool = False
    dialect: str | None = None
    caffe: str | None = None  # profile


@opened_once()
def compare(left: Source, right: Source, settings: Settings) -> Report:
    """Compare two files or folders; `report.data["same"]` says whether they are alike.

    Raises CaffeIOError if they are of different kinds, or cannot be read.
    """
    kinds = (left.kind, right.kind)
    if kinds == ("solver", "solver"):
        return _solvers(left, right, settings)
    if "phases" in kinds and {*kinds} <= {"phases", "solver"}:
        return _phases(left, right, settings)
    if all(kind in WEIGHTS for kind in kinds):
        return _weights(left, right, settings)
    if all(kind in ("net", "caffemodel") for kind in kinds):
        return _nets(left, right, settings)
    if all(kind in STATES for kind in kinds):
        return _states(left, right, settings)
    if kinds == ("mean", "mean"):
        return _means(left, right, settings)
    if kinds == ("lmdb", "lmdb"):
        from caffeio.converters.diff import lmdb_diff

        labels = (left.label, right.label)
        return lmdb_diff.report(lmdb_diff.diff_lmdbs(left.path, right.path, labels))
    if kinds == ("labelmap", "labelmap"):
        return _label_maps(left, right)
    if kinds == ("directory", "directory"):
        return _folders(left, right, settings)
    words = [f"{s.label} is a {KINDS[s.kind]}" for s in (left, right)]
    if left.kind == right.kind:
        raise CaffeIOError(f"cannot compare two of these: {words[0]}")
    raise CaffeIOError(f"these are of different kinds: {words[0]}, {words[1]}")


def _solver_options(settings: Settings) -> SolverDiffOptions:
    from caffeio.converters.diff.solver_diff import SolverDiffOptions

    return SolverDiffOptions(
        settings.follow_nets, settings.dataset_size, settings.workers, settings.show_all
    )


def solver_diff_of(left: Source, right: Source, settings: Settings) -> SolverDiff:
    """Read and compare two solvers."""
    from caffeio.converters.diff import solver_diff
    from caffeio.converters.diff.solver_side import load_pair

    sides = load_pair(left, right, settings.dialect)
    if settings.caffe:
        for side in sides:
            side.profile = get_profile(settings.caffe)
    return solver_diff.diff_solvers(sides[0], sides[1], _solver_options(settings))


def _solvers(left: Source, right: Source, settings: Settings) -> Report:
    from caffeio.converters.diff import solver_report

    return solver_report.report(solver_diff_of(left, right, settings))


def _phases(left: Source, right: Source, settings: Settings) -> Report:
    from caffeio.converters.diff import phases_diff

    options = _solver_options(settings)
    return phases_diff.report(left, right, options, dialect=settings.dialect, caffe=settings.caffe)


def net_side(source: Source, settings: Settings) -> NetSide:
    """Read a net for comparison, from a prototxt or a caffemodel."""
    from caffeio.converters.diff.net_diff import NetSide
    from caffeio.proto.files import read_net

    file = read_net(source.path, dialect=settings.dialect)
    profile = choose_profile(settings.caffe, file.dialect)
    return NetSide(source.label, file.message, profile, (str(source.path.resolve().parent),))


def _nets(left: Source, right: Source, settings: Settings) -> Report:
    from caffeio.converters.diff import net_diff, net_report

    sides = net_side(left, settings), net_side(right, settings)
    sides[0].label, sides[1].label = short_names((left.label, right.label))
    diff = net_diff.diff_nets(*sides)
    out = Report(f"{left.label} -> {right.label} (nets)")
    net_report.report(diff, out, "Layers")
    out.data = {"kind": "net", **net_diff.as_data(diff)}
    return out


def _weights(left: Source, right: Source, settings: Settings) -> Report:
    from caffeio.converters.diff import net_diff, net_report, weights_diff, weights_report
    from caffeio.proto.weights.load import load_weights

    a, b = load_weights(left.path), load_weights(right.path)
    types = {entry.name: entry.type for weights in (a, b) for entry in weights.layers}
    diff = weights_diff.diff_arrays(
        a, b, (left.label, right.label), types=types, tol=settings.tol, atol=settings.atol
    )
    out = weights_report.report(diff, show_all=settings.show_all)
    if not settings.follow_nets or {left.kind, right.kind} != {"caffemodel"}:
        return out
    try:
        nets = net_diff.diff_nets(net_side(left, settings), net_side(right, settings))
    except CaffeIOError as error:
        out.add_paragraph(f"The nets in the files were not compared: {error}", tone="warn")
        return out
    out.data["nets"] = net_diff.as_data(nets)
    if not nets.same:
        net_report.report(nets, out, "The nets in the files")
        out.data["same"] = False
    return out


def _states(left: Source, right: Source, settings: Settings) -> Report:
    from caffeio.converters.diff import weights_diff, weights_report
    from caffeio.proto.weights.solverstate import read_solverstate

    states = [read_solverstate(source.path) for source in (left, right)]
    arrays: list[Arrays] = [
        {f"history {i}": [blob] for i, blob in enumerate(state.history)} for state in states
    ]
    labels = short_names((left.label, right.label))
    diff = weights_diff.diff_arrays(
        arrays[0], arrays[1], labels, kind="solver states", tol=settings.tol, atol=settings.atol
    )
    for blob in diff.blobs:
        blob.name = ""
    diff.facts = [
        (name, str(getattr(states[0], name)), str(getattr(states[1], name)))
        for name in ("iter", "current_step", "learned_net", "minimum_loss")
    ]
    return weights_report.report(diff, show_all=settings.show_all)


def _means(left: Source, right: Source, settings: Settings) -> Report:
    from caffeio.converters.diff import weights_diff, weights_report
    from caffeio.proto.weights.blobproto import read_blobproto

    arrays: list[Arrays] = [{"mean": [read_blobproto(s.path)]} for s in (left, right)]
    labels = short_names((left.label, right.label))
    diff = weights_diff.diff_arrays(
        arrays[0], arrays[1], labels, kind="mean images", tol=settings.tol, atol=settings.atol
    )
    return weights_report.report(diff, show_all=True)


def _label_maps(left: Source, right: Source) -> Report:
    from caffeio.proto import caffe_pb2 as pb
    from caffeio.proto.text.text_format import parse

    maps = []
    for source in (left, right):
        text = read_regular(source.path).decode("utf-8", "replace")
        message = parse(text, pb.LabelMap, path=source.label).message
        maps.append({item.label: (item.name, item.display_name) for item in message.item})
    changed = [k for k in sorted({*maps[0], *maps[1]}) if maps[0].get(k) != maps[1].get(k)]
    out = Report(f"{left.label} -> {right.label} (label maps)")
    rows = [(k, *(" / ".join(m.get(k, ("-",))) for m in maps)) for k in changed]
    out.data = {"kind": "labelmap", "same": not changed, "changed": rows}
    if not changed:
        out.add_paragraph(Cell("The same labels.", "good"))
        return out
    out.add_paragraph(f"{count(len(changed), 'label')} differ.")
    table = out.section("").table("label", left.label, right.label)
    for key, a, b in rows:
        table.add(str(key), Cell(a, "left"), Cell(b, "right"))
    return out


def compare_revisions(left: Source, right: Source, settings: Settings) -> Report:
    """Compare the Caffe files that two git revisions have in different forms, each in detail."""
    return _folders(left, right, settings, kind="revisions", details=True)


def _folders(
    left: Source,
    right: Source,
    settings: Settings,
    *,
    kind: str = "directories",
    details: bool = False,
) -> Report:
    found = [dict(members(source.path)) for source in (left, right)]
    out = Report(f"{left.label} -> {right.label} ({kind})")
    data: dict[str, Any] = {"kind": "directory", "files": []}
    names = sorted({*found[0], *found[1]})
    table = out.section("").table("file", "", "") if names else None
    parts: list[tuple[str, Report]] = []
    for name in names:
        assert table is not None
        if name not in found[1]:
            table.add(name, Cell("only left", "left"), "")
            data["files"].append({"file": name, "same": False, "only": "left"})
        elif name not in found[0]:
            table.add(name, Cell("only right", "right"), "")
            data["files"].append({"file": name, "same": False, "only": "right"})
        else:
            _pair(name, found, (left, right), settings, table, data, parts)
    same = all(item["same"] for item in data["files"])
    data["same"] = same
    out.data = data
    differ = sum(not item["same"] for item in data["files"])
    out.add_paragraph(
        Cell(f"The same {count(len(data['files']), 'file')}.", "good")
        if same
        else f"{differ} of {count(len(data['files']), 'file')} differ."
    )
    if kind == "revisions" and not data["files"]:
        out.headline.clear()
        out.add_paragraph(Cell("No solver, net or weights changed.", "good"))
    for name, report in parts if details or settings.show_all else ():
        for part in report.sections:
            part.title = f"{name}: {part.title}" if part.title else name
            out.sections.append(part)
    return out


def _pair(
    name: str,
    found: list[dict[str, Path]],
    sources: tuple[Source, Source],
    settings: Settings,
    table: Any,
    data: dict[str, Any],
    parts: list[tuple[str, Report]],
) -> None:
    try:
        pair = [
            replace(
                source,
                label=f"{source.label.rstrip('/')}/{name}",
                path=files[name],
                kind=kind_of(files[name]),
                inside=None if source.inside is None else str(PurePosixPath(source.inside, name)),
            )
            for source, files in zip(sources, found, strict=True)
        ]
        report = compare(pair[0], pair[1], replace(settings, follow_nets=False))
    except CaffeIOError as error:
        table.add(name, Cell("trouble", "bad"), str(error))
        data["files"].append({"file": name, "same": False, "trouble": str(error)})
        return
    same = bool(report.data["same"])
    words = " ".join(paragraph.text for paragraph in report.headline)
    if not words and report.sections:
        words = next((b.text for b in report.sections[0].blocks if isinstance(b, Line)), "")
    table.add(
        name, Cell("same", "good") if same else Cell("differs", "warn"), "" if same else words
    )
    data["files"].append({"file": name, **report.data})
    if not same:
        parts.append((name, report))
