"""Solvers, solver states, means, LMDBs, label maps: what they are, on one screen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from caffeio.converters.kinds import KINDS, kind_of, members
from caffeio.converters.report.model import (
    Cell,
    Report,
    count,
    listed,
    short_float,
    size,
    sparkline,
)
from caffeio.converters.show.chain import ChainRun, rows
from caffeio.converters.source import Source
from caffeio.data.db.buffer import Buffer
from caffeio.errors import CaffeIOError
from caffeio.proto.io.regular import read_regular


def show_solver(
    source: Source, *, dialect: str | None, caffe: str | None, show_all: bool, run: ChainRun
) -> Report:
    """A solver: its fields, its learning rate, its run, its net."""
    from caffeio.converters.diff import rates, solver_diff
    from caffeio.converters.diff.solver_side import load_pair
    from caffeio.profiles import get_profile

    side = load_pair(source, source, dialect)[0]
    if caffe:
        side.profile = get_profile(caffe)
    out = Report(f"{source.label}: {KINDS['solver']}")
    options = solver_diff.SolverDiffOptions(dataset_size=run.dataset, workers=run.workers)
    diff = solver_diff.diff_solvers(side, side, options)
    head = out.section("").table("", "", heads=False)
    head.add("Caffe", f"{side.profile.name} (by its fields and its net)")
    head.add("net", side.net_name)
    if side.net_problem:
        out.add_paragraph(side.net_problem, tone="warn")
    for unknown in side.unknown:
        out.add_paragraph(str(unknown), tone="warn")
    _rates(diff, out)
    _add_run(diff, out, run)
    fields = out.section("Fields").table("", "", "")
    data: dict[str, Any] = {}
    for name, value, is_set in diff.equal:
        if is_set or show_all:
            data[name] = value
            fields.add(name, value, Cell("" if is_set else "default", "dim"))
    if side.net is not None:
        _net_line(side.net, out)
    out.data = {
        "kind": "solver",
        "file": source.label,
        "profile": side.profile.name,
        "net": side.net_name,
        "fields": data,
        "learning_rate": rates.as_data(diff.rates)["left"],
        "run": {**diff.seen[0].as_data(), "hours": run.hours(diff.seen[0].images)}
        if diff.seen
        else {},
    }
    return out


def _rates(diff: Any, out: Report) -> None:
    curve = diff.rates.left
    section = out.section("Learning rate")
    section.add_paragraph(curve.formula)
    if curve.problem:
        section.add_paragraph(curve.problem, tone="bad")
    if curve.note:
        section.add_paragraph(curve.note, tone="warn")
    if curve.rates is None or not len(curve.rates):
        return
    values = [float(v) for v in curve.rates]
    high = max(filter(math.isfinite, values), default=0.0)
    section.add_paragraph(sparkline(values, 0.0, high, 60))
    table = section.table("iteration", "rate", right=(0, 1))
    for t in diff.rates.marks:
        table.add(f"{t:,}", f"{values[t]:.6g}")


def _add_run(diff: Any, out: Report, run: ChainRun) -> None:
    from caffeio.converters.diff.training import snapshot_iterations, spans, test_iterations

    side = diff.left
    table = out.section("Run").table("", "", heads=False)
    table.add("iterations", f"{side.message.max_iter:,}")
    for name, text in rows(diff.seen[0], run).items():
        table.add(name, text)
    table.add("tests at", spans(test_iterations(side.message, side.profile)))
    snapshots = snapshot_iterations(side.message)
    table.add("snapshots at", spans(snapshots))


def _net_line(net: Any, out: Report) -> None:
    from caffeio.converters.diff.net_report import totals

    section = out.section(f"Net {net.label}")
    found = {phase: totals(net, phase) for phase in ("TRAIN", "TEST")}
    shown = [phase for phase, rows_of in found.items() if rows_of]
    table = section.table("", *shown)
    for name in dict.fromkeys(name for phase in shown for name in found[phase]):
        table.add(name, *(found[phase].get(name, "") for phase in shown))
    for phase, problem in net.problems.items():
        section.add_paragraph(f"cannot be built for {phase}: {problem}", tone="warn")


def show_state(source: Source) -> Report:
    """A solver state: iteration, weights, history blobs."""
    from caffeio.converters.show.stats import stats_of
    from caffeio.proto.weights.solverstate import read_solverstate
    from caffeio.shape_text import format_shape

    state = read_solverstate(source.path)
    out = Report(f"{source.label}: {KINDS[source.kind]}")
    table = out.section("").table("", "", heads=False)
    values = sum(blob.size for blob in state.history)
    table.add("iteration", f"{state.iter:,}")
    table.add("weights", state.learned_net or "-")
    table.add("current step", str(state.current_step))
    table.add("history", f"{count(len(state.history), 'blob')}, {values:,} values")
    table.add("size", size(source.path.stat().st_size))
    blobs = out.section("History").table("", "shape", "norm", "largest", right=(0, 2, 3))
    stats = [stats_of(blob) for blob in state.history]
    for i, s in enumerate(stats):
        largest = max(abs(s.low), abs(s.high))
        blobs.add(str(i), format_shape(s.shape), f"{s.norm:.4g}", f"{largest:.4g}")
    out.data = {
        "kind": source.kind,
        "file": source.label,
        "iter": state.iter,
        "learned_net": state.learned_net,
        "current_step": state.current_step,
        "history": [s.as_data() for s in stats],
    }
    return out


def show_mean(source: Source) -> Report:
    """A mean image: its shape, and the mean of each channel."""
    from caffeio.converters.show.stats import stats_of
    from caffeio.proto.weights.blobproto import read_blobproto
    from caffeio.shape_text import format_shape

    blob = read_blobproto(source.path)
    out = Report(f"{source.label}: {KINDS['mean']}")
    table = out.section("").table("", "", heads=False)
    table.add("shape", format_shape(tuple(blob.shape)))
    planes = blob.reshape(-1, *blob.shape[-2:]) if blob.ndim >= 2 else blob.reshape(1, -1)
    means = [float(plane.mean()) for plane in planes[:16]]
    table.add("mean of each channel", listed([short_float(m) for m in means], 16))
    stats = stats_of(blob)
    table.add("values", f"{stats.low:.5g} to {stats.high:.5g}")
    out.data = {"kind": "mean", "file": source.label, "means": means, **stats.as_data()}
    return out


SAMPLE = 2000


def show_lmdb(source: Source, *, show_all: bool) -> Report:
    """An LMDB of Datums: how many, how large, which labels, the first records."""
    from caffeio.data.db.lmdb import LmdbDatabase

    out = Report(f"{source.label}: LMDB")
    with closing(LmdbDatabase(str(source.path), may_be_empty=True)) as db:
        entries = db.size or 0
        facts = _records(db.records(), entries if show_all else SAMPLE)
    table = out.section("").table("", "", heads=False)
    table.add("records", f"{entries:,}")
    table.add("size", size((source.path / "data.mdb").stat().st_size))
    seen = facts["seen"]
    table.add("looked at", "all" if seen == entries else f"the first {seen:,} (--all)")
    table.add("shapes", listed([f"{s} ({n})" for s, n in facts["shapes"].most_common()], 6))
    table.add("encoding", listed([f"{e} ({n})" for e, n in facts["encodings"].most_common()], 6))
    labels = facts["labels"]
    if labels:
        numbers = sorted(labels)
        table.add("labels", f"{len(numbers)} of {numbers[0]} to {numbers[-1]}")
    rows = out.section("First records").table("key", "label", "shape", "bytes", right=(1, 3))
    for row in facts["first"]:
        rows.add(*row)
    out.data = {
        "kind": "lmdb",
        "file": source.label,
        "entries": entries,
        "looked_at": seen,
        "shapes": dict(facts["shapes"]),
        "encodings": dict(facts["encodings"]),
        "labels": {str(k): n for k, n in sorted(labels.items())},
    }
    return out


def _records(records: Iterator[tuple[Buffer, Buffer]], limit: int) -> dict[str, Any]:
    from google.protobuf.message import DecodeError

    from caffeio.data.first_record import datum_shape
    from caffeio.proto.caffe_pb2 import Datum
    from caffeio.shape_text import format_shape

    shapes: Counter[str] = Counter()
    encodings: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    first: list[tuple[str, str, str, str]] = []
    seen = 0
    for key, value in records:
        if seen == limit:
            break
        seen += 1
        try:
            datum = Datum.FromString(bytes(value))
            shape = format_shape(datum_shape(datum))
        except (CaffeIOError, DecodeError, ValueError):
            encodings["no Datum"] += 1
            continue
        kind = "float" if datum.float_data else "raw"
        kind = _image_kind(datum.data) if datum.encoded else kind
        shapes[shape] += 1
        encodings[kind] += 1
        labels[datum.label] += 1
        if len(first) < 5:
            name = bytes(key).decode("utf-8", "backslashreplace")
            first.append((name, str(datum.label), shape, f"{len(value):,}"))
    return {
        "shapes": shapes,
        "encodings": encodings,
        "labels": labels,
        "first": first,
        "seen": seen,
    }


def _image_kind(data: bytes) -> str:
    if data[:2] == b"\xff\xd8":
        return "JPEG"
    return "PNG" if data[:4] == b"\x89PNG" else "image"


def show_label_map(source: Source) -> Report:
    """The labels of a label map."""
    from caffeio.proto import caffe_pb2 as pb
    from caffeio.proto.text.text_format import parse

    text = read_regular(source.path).decode("utf-8", "replace")
    items = parse(text, pb.LabelMap, path=source.label).message.item
    out = Report(f"{source.label}: {KINDS['labelmap']}")
    out.add_paragraph(f"{count(len(items), 'label')}.")
    table = out.section("").table("label", "name", "shown as", right=(0,))
    for item in items:
        table.add(str(item.label), item.name, item.display_name)
    names = {str(item.label): item.display_name or item.name for item in items}
    out.data = {"kind": "labelmap", "file": source.label, "labels": names}
    return out


def show_folder(source: Source) -> Report:
    """The Caffe files in a folder."""
    out = Report(f"{source.label}: directory")
    table = out.section("").table("file", "kind", "size", right=(2,))
    files: dict[str, str] = {}
    for name, path in members(source.path):
        try:
            kind = kind_of(path)
        except CaffeIOError as error:
            table.add(name, Cell(str(error), "bad"), "")
            continue
        files[name] = kind
        place = path / "data.mdb" if path.is_dir() else path
        table.add(name, KINDS[kind], size(place.stat().st_size))
    out.add_paragraph(f"{count(len(files), 'Caffe file')}.")
    out.data = {"kind": "directory", "file": source.label, "files": files}
    return out
