"""The differences of two sets of arrays in words and tables."""

from __future__ import annotations

from collections.abc import Sequence

from caffeio.converters.diff.weights_diff import BINS, BlobDiff, WeightsDiff, as_data
from caffeio.converters.report.model import Cell, Report, Section, Tone, count, listed, scaled
from caffeio.shape_text import format_shape


def report(diff: WeightsDiff, *, show_all: bool = False) -> Report:
    """The comparison as a report."""
    out = Report(f"{diff.labels[0]} -> {diff.labels[1]} ({diff.kind})", data=as_data(diff))
    out.add_paragraph(*_headline(diff))
    facts = [fact for fact in diff.facts if fact[1] != fact[2] or show_all]
    if facts:
        table = out.section("Fields").table("", *diff.labels)
        for name, a, b in facts:
            tones = ("", "") if a == b else ("left", "right")
            table.add(name, Cell(a, tones[0]), Cell(b, tones[1]))  # type: ignore[arg-type]
    _names(diff, out)
    unequal = [b for b in diff.blobs if b.unequal]
    if unequal:
        _histogram(unequal, out.section("How large the differences are"))
    shown = diff.blobs if show_all else unequal
    if shown:
        _blobs(diff, shown, out.section("Blobs"), show_all)
    return out


def _headline(diff: WeightsDiff) -> tuple[Cell | str, ...]:
    unequal = [b for b in diff.blobs if b.unequal]
    if diff.same and not unequal:
        return (Cell("All blobs are equal", "good"), f" ({_volume(diff)}).")
    if diff.same:
        worst = max(unequal, key=lambda b: b.relative)
        return (
            Cell("Equal within the tolerance", "good"),
            f": the largest relative difference is {worst.relative:.3g} ({_place(worst)}).",
        )
    words = []
    if diff.over:
        worst = max(diff.over, key=lambda b: b.relative)
        words.append(f"{len(diff.over)} of {count(len(diff.blobs), 'blob')} differ")
        words.append(f"most of all {_place(worst)}, by {worst.relative:.3g} of its largest value")
    for names, what in ((diff.removed, "only left"), (diff.added, "only right")):
        if names:
            words.append(f"{count(len(names), 'layer')} {what}")
    if diff.renamed:
        words.append(f"{len(diff.renamed)} renamed")
    if diff.reshaped:
        words.append(f"{len(diff.reshaped)} of another shape")
    if not words:
        words.append("the arrays are equal, other fields differ")
    return ("; ".join(words)[0].upper() + "; ".join(words)[1:] + f" ({_volume(diff)}).",)


def _volume(diff: WeightsDiff) -> str:
    return f"{count(len(diff.blobs), 'blob')}, {scaled(sum(b.values for b in diff.blobs))} values"


def _place(blob: BlobDiff) -> str:
    return f"{blob.layer} {blob.name}".strip()


def _names(diff: WeightsDiff, out: Report) -> None:
    if not (diff.removed or diff.added or diff.renamed or diff.reshaped):
        return
    section = out.section("Layers")
    if diff.removed:
        section.add_paragraph("only left: ", Cell(listed(diff.removed, 20), "left"))
    if diff.added:
        section.add_paragraph("only right: ", Cell(listed(diff.added, 20), "right"))
    if diff.renamed:
        pairs = [f"{old} -> {new}" for old, new in diff.renamed]
        section.add_paragraph("equal under another name: ", listed(pairs, 20))
    if diff.reshaped:
        section.add_paragraph("other shapes: ", listed(diff.reshaped, 20))


def _histogram(blobs: Sequence[BlobDiff], section: Section) -> None:
    """Values by |a - b| relative to the largest magnitude of their blob."""
    total = [sum(b.histogram[i] for b in blobs) for i in range(len(BINS))]
    largest = max(total)
    table = section.table("|a-b| / largest", "values", "", right=(0, 1))
    for name, values in zip(BINS, total, strict=True):
        if values:
            table.add(name, f"{values:,}", "█" * max(round(30 * values / largest), 1))


def _blobs(diff: WeightsDiff, shown: Sequence[BlobDiff], section: Section, show_all: bool) -> None:
    limit = len(shown) if show_all else 30
    order = sorted(shown, key=lambda b: -b.relative) if len(shown) > limit else list(shown)
    table = section.table(
        "layer", "blob", "shape", "norms", "max |a-b|", "mean |a-b|", "relative", right=(4, 5, 6)
    )
    for blob in order[:limit]:
        tone: Tone = "bad" if diff.exceeds(blob) else "good"
        table.add(
            blob.layer,
            blob.name,
            format_shape(blob.shape),
            f"{blob.norm_left:.4g} -> {blob.norm_right:.4g}",
            f"{blob.max_abs:.3g}",
            f"{blob.mean_abs:.3g}",
            Cell(f"{blob.relative:.3g}" if blob.unequal else "0", tone if blob.unequal else "dim"),
        )
    if len(order) > limit:
        section.add_paragraph(
            f"... and {len(order) - limit} more, less different (--all)", tone="dim"
        )
