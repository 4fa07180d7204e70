"""A chain of solvers: iterations, images, epochs and hours of each phase and of all together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffeio.converters.diff.training import SeenImages, images_seen, snapshot_iterations
from caffeio.converters.kinds import KINDS
from caffeio.converters.report.model import Cell, Report, count, short_float
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError

if TYPE_CHECKING:
    from caffeio.converters.diff.solver_side import SolverSide


@dataclass(frozen=True)
class ChainRun:
    """What the user says of a training that the files do not: its workers, its data, its speed.

    `speed`: images a second of all workers together.
    """

    workers: int = 1
    dataset: int | None = None
    speed: float | None = None

    def hours(self, images: int | None) -> float | None:
        """The hours that so many images take; None if one of the two is not known."""
        return None if images is None or not self.speed else images / self.speed / 3600


def duration(hours: float) -> str:
    """`35 min`, `2.5 h`, `3.1 days`."""
    if hours < 1:
        return f"{60 * hours:.3g} min"
    return f"{hours:.3g} h" if hours < 48 else f"{hours / 24:.3g} days ({hours:,.0f} h)"


def rows(seen: SeenImages, run: ChainRun) -> dict[str, str]:
    """The rows of a table about one solver."""
    out = seen.summary_rows()
    hours = run.hours(seen.images)
    if hours is not None:
        out[f"time at {short_float(run.speed or 0)} images/s"] = (
            f"{duration(hours)} (without tests)"
        )
    return out


@dataclass(frozen=True)
class _Phase:
    side: SolverSide
    seen: SeenImages

    def rate(self) -> str:
        from caffeio.converters.diff import rates

        curve = rates.curve(self.side.message, self.side.profile)
        if curve.rates is None or not len(curve.rates):
            return ""
        first, last = float(curve.rates[0]), float(curve.rates[-1])
        return f"{first:.3g} to {last:.3g}"

    def as_data(self, run: ChainRun) -> dict[str, Any]:
        message = self.side.message
        at = snapshot_iterations(message)
        return {
            "file": self.side.label,
            "profile": self.side.profile.name,
            "net": self.side.net_name,
            "iterations": self.seen.iterations,
            "run": self.seen.as_data(),
            "hours": run.hours(self.seen.images),
            "final_weights": f"{message.snapshot_prefix}_iter_{at[-1]}.caffemodel" if at else None,
        }


def show_chain(
    sources: Sequence[Source], run: ChainRun, *, dialect: str | None, caffe: str | None
) -> Report:
    """Show solvers as the phases of one training; a file may hold several (Intel's params_pair).

    Raises CaffeIOError if one is no solver.
    """
    phases = [phase for source in sources for phase in _read_phase(source, run, dialect, caffe)]
    what = f"A chain of {count(len(phases), 'solver')}"
    if len(sources) == 1:
        what = f"{sources[0].label}: {KINDS[sources[0].kind]}"
    out = Report(what)
    for phase in phases:
        if phase.side.net_problem:
            out.add_paragraph(f"{phase.side.label}: {phase.side.net_problem}", tone="warn")
    _table(phases, out, run)
    numbers = [phase.seen.images for phase in phases]
    images = sum(n or 0 for n in numbers) if None not in numbers else None
    dataset = next((phase.seen.dataset for phase in phases if phase.seen.dataset), None)
    out.data = {
        "kind": "chain",
        "phases": [phase.as_data(run) for phase in phases],
        "iterations": sum(phase.seen.iterations for phase in phases),
        "images": images,
        "dataset": dataset,
        "epochs": images / dataset if images is not None and dataset else None,
        "workers": run.workers,
        "hours": run.hours(images),
    }
    _total(out, images, dataset, out.data["iterations"], run)
    return out


def _read_phase(
    source: Source, run: ChainRun, dialect: str | None, caffe: str | None
) -> Iterator[_Phase]:
    from caffeio.converters.diff.solver_side import load_pair, load_phases

    if source.kind == "phases":
        for side in load_phases(source, dialect):
            yield _phase(side, run, caffe)
        return
    if source.kind not in ("solver", "text"):
        raise CaffeIOError(
            f"several files are shown together as a chain of solvers: this is a "
            f"{KINDS[source.kind]}",
            where=source.label,
        )
    side = load_pair(source, source, dialect)[0]
    yield _phase(side, run, caffe)


def _phase(side: SolverSide, run: ChainRun, caffe: str | None) -> _Phase:
    from caffeio.profiles import get_profile

    if caffe:
        side.profile = get_profile(caffe)
    dataset = run.dataset or side.feed.records
    return _Phase(side, images_seen(side.message, side.feed, side.profile, run.workers, dataset))


def _table(phases: Sequence[_Phase], out: Report, run: ChainRun) -> None:
    epochs = any(phase.seen.epochs is not None for phase in phases)
    more = [*(["epochs"] if epochs else []), *(["time"] if run.speed else [])]
    heads = ("solver", "iterations", "an update", "images", *more, "rate")
    table = out.section("Phases").table(*heads, right=range(1, len(heads) - 1))
    names = [_short(phase.side.label) for phase in phases]
    for phase, name in zip(phases, names, strict=True):
        seen = phase.seen
        cells = [name if names.count(name) == 1 else phase.side.label, f"{seen.iterations:,}"]
        cells += ["?", "?"] if seen.images is None else [f"{seen.per_update:,}", f"{seen.images:,}"]
        if epochs:
            cells.append("" if seen.epochs is None else f"{seen.epochs:.4g}")
        if run.speed:
            hours = run.hours(seen.images)
            cells.append("" if hours is None else duration(hours))
        table.add(*cells, phase.rate())


def _short(label: str) -> str:
    path, comma, phase = label.partition(", phase ")
    return f"phase {phase}" if comma else Path(path).stem


def _total(
    out: Report, images: int | None, dataset: int | None, iterations: int, run: ChainRun
) -> None:
    section = out.section("Together")
    table = section.table("", "", heads=False)
    table.add("iterations", f"{iterations:,}")
    table.add("workers", str(run.workers))
    table.add("images seen", "unknown (no batch size found)" if images is None else f"{images:,}")
    if images is not None and dataset:
        table.add("epochs", Cell(f"{images / dataset:.4g} of {dataset:,} images", "strong"))
    hours = run.hours(images)
    if hours is not None:
        table.add(f"time at {short_float(run.speed or 0)} images/s",
                  Cell(f"{duration(hours)} (without tests)", "strong"))  # fmt: skip
    if not dataset:
        section.add_paragraph("Epochs are not known: give --dataset-size.", tone="dim")
    if not run.speed:
        hint = "Time is not known: give --speed IMAGES, which `caffeio train` shows."
        section.add_paragraph(hint, tone="dim")
