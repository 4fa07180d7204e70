"""`caffeio train --dry-run`: what a training would do, told of its files; nothing is built."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffeio.converters.diff.training import (
    Feed,
    SeenImages,
    feed_of_layer,
    snapshot_iterations,
    spans,
    test_iterations,
)
from caffeio.converters.report.model import Cell, Report, Section, count, listed, share, size
from caffeio.converters.show.view import split_names
from caffeio.memory import free_bytes
from caffeio.net.recipe import NetRecipe
from caffeio.net.shapes import NetShapes, infer_net, is_known, product
from caffeio.net.worker_batch import share_batches, worker_batch
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training.job import Job
from caffeio.training.phases import name_of, progress

_TWO_MOMENTS = ("Adam", "AdaDelta")


@dataclass(frozen=True)
class Start:
    """How one phase begins: skipped, resumed or new; `source` is the file that it goes by."""

    how: str  # "skipped", "resumed", "begins"
    source: str = ""
    iteration: int = 0


@dataclass
class PhasePlan:
    """One phase: how it begins and what it needs."""

    job: Job
    start: Start
    workers: int
    device: str
    feeds: list[Feed] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    unknown_shapes: bool = False

    @property
    def seen(self) -> SeenImages:
        """The images of what is still to do."""
        param = self.job.param
        feed = next((f for f in self.feeds if f.phase == "TRAIN" and f.batch), None)
        todo = 0 if self.start.how == "skipped" else max(param.max_iter - self.start.iteration, 0)
        batch = None
        if feed is not None and feed.batch is not None:
            batch = worker_batch(
                feed.batch, self.workers, self.job.profile, field=feed.field, layer=feed.layer,
                where=self.job.train.title,
            )  # fmt: skip
        return SeenImages(
            batch, self.workers, max(param.iter_size, 1), todo,
            feed.records if feed else None,
        )  # fmt: skip


def plan_phases(
    jobs: Sequence[Job], *, weights: Sequence[str], snapshot: str | None, chain: bool, workers: int,
    device: str | None,
) -> list[PhasePlan]:  # fmt: skip
    """What each phase would do now. Raises CaffeIOError as the training itself would."""
    phases = []
    before = ""
    for job in jobs:
        start = _start(job, list(weights), before, snapshot, chain)
        plan = PhasePlan(job, start, workers, device or job.requested_device)
        plan.feeds = [feed for spec in job.specs for feed in _feeds(spec)]
        plan.memory, plan.unknown_shapes = _memory(job, workers)
        phases.append(plan)
        before = job.snapshot_names(job.param.max_iter)[0]
        weights = ()
    return phases


def _start(job: Job, weights: list[str], before: str, snapshot: str | None, chain: bool) -> Start:
    if chain:
        finished, state = progress(job)
        if finished:
            return Start("skipped", job.snapshot_names(job.param.max_iter)[0], job.param.max_iter)
        snapshot = state
    elif snapshot == "auto":
        pair = newest_whole_pair(job.param.snapshot_prefix)
        snapshot = str(pair[0]) if pair else None
    if snapshot:
        from caffeio.proto.weights.solverstate import read_solverstate

        return Start("resumed", snapshot, read_solverstate(snapshot).iter)
    return Start("begins", ", ".join(weights or ([before] if before else job.weights)))


def _feeds(spec: NetRecipe) -> Iterator[Feed]:
    graph = spec.graph()
    for node in graph.nodes:
        feed = feed_of_layer(node.param, graph.phase, spec.search_path)
        if feed is not None:
            yield feed


def _memory(job: Job, workers: int) -> tuple[dict[str, int], bool]:
    """Bytes of one worker by what takes them, and whether some shapes are not known."""
    shapes = [
        infer_net(spec.graph(), spec.input_shapes, profile=spec.profile,
                  search_path=spec.search_path)
        for spec in (share_batches(spec, workers) for spec in job.specs)
    ]  # fmt: skip
    weights = 4 * shapes[0].parameters
    history = 2 if job.param.type in _TWO_MOMENTS else 1
    blobs = [_blob_bytes(found) for found in shapes]
    needed = {
        "weights": weights,
        "gradients and history": weights * (1 + history),
        "blobs of the training net": blobs[0],
        "blobs of a test net": max(blobs[1:], default=0),
    }
    known = all(is_known(blob) for found in shapes for blob in found.blobs.values())
    return {name: n for name, n in needed.items() if n}, not known


def _blob_bytes(shapes: NetShapes) -> int:
    alias = split_names(shapes.graph)
    return 4 * sum(
        max(product(shape), 0)
        for name, shape in shapes.blobs.items()
        if shape is not None and name not in alias
    )


def report(phases: Sequence[PhasePlan]) -> Report:
    """All of it in words, and as data."""
    out = Report("What this training would do (nothing is done)")
    for number, plan in enumerate(phases, 1):
        title = name_of(plan.job)
        if len(phases) > 1:
            title = f"Phase {number} of {len(phases)}: {title}"
        _phase(plan, out.section(title))
    if len(phases) > 1:
        _together(phases, out)
    out.data = {"phases": [_as_data(plan) for plan in phases]}
    return out


_WORDS = {
    "skipped": "skipped: {} is there and whole",
    "resumed": "goes on from {} at iteration {:,}",
    "begins": "begins from {}",
}


def _phase(plan: PhasePlan, section: Section) -> None:
    job, param, start = plan.job, plan.job.param, plan.start
    table = section.table("", "", heads=False)
    words = _WORDS[start.how].format(start.source or "the net's fillers", start.iteration)
    table.add("what happens", Cell(words, "strong"))
    if start.how == "skipped":
        return
    table.add("Caffe", f"{job.profile.name}; device: {plan.device}")
    table.add("net", job.train.title)
    todo = plan.seen.iterations
    table.add("iterations", f"{todo:,} ({start.iteration:,} to {param.max_iter:,})")
    for name, text in plan.seen.summary_rows().items():
        table.add(name, text)
    for feed in plan.feeds:
        there = "not counted" if feed.records is None else f"{count(feed.records, 'record')} found"
        table.add(f"data ({feed.phase})", f"{feed.layer}: {feed.source or '-'}, {there}")
    _tests(plan, table)
    _files(plan, table)
    text = listed([f"{size(n)} of {name}" for name, n in plan.memory.items()])
    table.add("memory", _memory_cell(plan, text))
    for note in job.notes:
        section.add_paragraph(note, tone="warn")


def _memory_cell(plan: PhasePlan, text: str) -> Cell:
    needed, free = sum(plan.memory.values()), free_bytes()
    words = f"about {size(needed)}: {text}"
    if plan.unknown_shapes:
        words += " (some shapes are not known: more)"
    if plan.device == "cpu" and free is not None:
        words += f"; {size(free)} are free"
        return Cell(words, "warn" if needed > free else "")
    return Cell(words)


def _tests(plan: PhasePlan, table: Any) -> None:
    param = plan.job.param
    at = [i for i in test_iterations(param, plan.job.profile) if i >= plan.start.iteration]
    if not at:
        table.add("tests", "never")
        return
    feeds = [feed for feed in plan.feeds if feed.phase == "TEST"]
    profile = plan.job.profile  # a batch_size of all workers together is already what all test
    testing = plan.workers if profile.tests_on_all_workers and not profile.divides_batch else 1
    covers = []
    for iterations, feed in zip(param.test_iter, feeds, strict=False):
        if feed.batch:
            images = iterations * feed.batch * testing
            part = f" ({share(images, feed.records)} of the data)" if feed.records else ""
            covers.append(f"{images:,} images{part}")
    table.add("tests", f"{spans(at)}{': ' if covers else ''}{listed(covers)}")


def _files(plan: PhasePlan, table: Any) -> None:
    job = plan.job
    at = [i for i in snapshot_iterations(job.param) if i > plan.start.iteration]
    if not at:
        table.add("files written", "none")
        return
    weights, state = job.snapshot_names(at[-1])
    pair = plan.memory.get("gradients and history", 0)  # a state holds as much as gradients do
    table.add("files written", f"{weights} and {Path(state).name}, {count(len(at), 'pair')} "
              f"(at {spans(at)}), about {size(len(at) * pair)}")  # fmt: skip
    folder = Path(job.param.snapshot_prefix).parent
    if not os.access(folder, os.W_OK):
        table.add("", Cell(f"the folder {folder} is missing or cannot be written to", "bad"))


def _together(phases: Sequence[PhasePlan], out: Report) -> None:
    table = out.section("Together").table("", "", heads=False)
    todo = [plan for plan in phases if plan.start.how != "skipped"]
    table.add("phases to train", f"{len(todo)} of {len(phases)}")
    table.add("iterations", f"{sum(plan.seen.iterations for plan in todo):,}")
    images = [plan.seen.images for plan in todo]
    if None not in images:
        total = sum(n or 0 for n in images)
        table.add("images seen", f"{total:,}")
        dataset = next((plan.seen.dataset for plan in todo if plan.seen.dataset), None)
        if dataset:
            table.add("epochs", f"{total / dataset:.4g} of {dataset:,} images")


def _feed_as_data(feed: Feed) -> dict[str, Any]:
    return {key: value for key, value in vars(feed).items() if key not in ("field", "place")}


def _as_data(plan: PhasePlan) -> dict[str, Any]:
    job = plan.job
    at = [i for i in snapshot_iterations(job.param) if i > plan.start.iteration]
    return {
        "solver": name_of(job),
        "what": plan.start.how,
        "from": plan.start.source or None,
        "iteration": plan.start.iteration,
        "max_iter": job.param.max_iter,
        "profile": job.profile.name,
        "device": plan.device,
        "run": plan.seen.as_data(),
        "data": [_feed_as_data(feed) for feed in plan.feeds],
        "snapshots": [] if plan.start.how == "skipped" else at,
        "final_weights": job.snapshot_names(job.param.max_iter)[0],
        "memory": plan.memory,
        "notes": job.notes,
    }
