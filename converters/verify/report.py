"""A comparison of two models as a report: a table, JSON, or one page to hand over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffeio import __version__
from caffeio.converters.report.model import Cell, Report, listed
from caffeio.converters.verify.check import SCALES
from caffeio.converters.verify.layers import Comparison, compare_layers
from caffeio.converters.verify.reference import own_data
from caffeio.converters.verify.row import ComparedLayer
from caffeio.converters.verify.samples import sample_inputs
from caffeio.converters.verify.sides import BuiltNetSide, Side
from caffeio.errors import CaffeIOError
from caffeio.shape_text import format_shape


def inputs_for(
    first: Side, second: Side, given: Mapping[str, np.ndarray] | None, options: Any
) -> list[Mapping[str, np.ndarray]]:
    """What both are run on: the user's arrays, or random ones and the net's own data."""
    leader = first if isinstance(first, BuiltNetSide) else second
    other = second if leader is first else first
    shapes = {**leader.inputs, **other.inputs}
    if given is not None:
        if missing := [name for name in other.inputs if name not in given]:
            raise CaffeIOError(f"no value is given for input {listed(missing)}")
        return [given]
    if not isinstance(leader, BuiltNetSide):
        draws = [np.random.default_rng(seed) for seed in range(len(SCALES))]
        return [
            {n: (d.standard_normal(s) * k).astype(np.float32) for n, s in shapes.items()}
            for d, k in zip(draws, SCALES, strict=True)
        ]
    out: list[Mapping[str, np.ndarray]] = []
    for seed, scale in enumerate(SCALES):
        out.append(sample_inputs(leader.net, seed, scale))
    own = own_data(leader.net, leader.file, options, leader.inputs)
    return out + ([{**out[0], **own}] if own else [])


def compare(
    first: Side,
    second: Side,
    options: Any,
    *,
    given: Mapping[str, np.ndarray] | None = None,
    tolerance: float = 1e-4,
) -> tuple[Comparison, Report]:
    """Compare two sides; the result, and the report on it."""
    inputs = inputs_for(first, second, given, options)
    found = compare_layers(first, second, inputs, tolerance)
    if not found.rows:
        raise CaffeIOError("nothing can be compared: the two show no blob of the same name")
    return found, _report_of(first, second, found, given is not None)


def _report_of(first: Side, second: Side, found: Comparison, given: bool) -> Report:
    out = Report("Two models, layer by layer")
    what = "the given inputs" if given else f"{found.samples} inputs"
    good = found.same
    out.add_paragraph(
        f"{'The same' if good else 'NOT the same'} on {what}: the outputs differ by at most "
        f"{found.worst:.2g} of the largest value (limit {found.tolerance:g}).",
        tone="good" if good else "bad",
    )
    if found.first is not None:
        row = found.first
        out.add_paragraph(
            f"First layer that differs: {row.layer!r} ({row.kind}), blob {row.blob!r}: "
            f"{row.relative:.2g}. Likely cause: {found.cause or 'not known'}.",
            tone="warn",
        )
    files = out.section("Files").table("", "file", "SHA-256")
    for side, name in ((first, "A"), (second, "B")):
        for path, digest in side.files.hashes().items():
            files.add(name, path, digest)
    _table(out, "Outputs", found.outputs, found.tolerance)
    _table(out, "Layers", found.rows, found.tolerance)
    if found.hidden:
        out.section("Not compared").add_paragraph(
            f"The other model does not show {listed(found.hidden, 40)}."
        )
    out.data = _data(first, second, found)
    return out


def _table(out: Report, title: str, rows: Sequence[ComparedLayer], tolerance: float) -> None:
    table = out.section(title).table(
        "layer", "type", "blob", "shape", "absolute", "relative", "of the layer itself",
        right=(4, 5, 6),
    )  # fmt: skip
    for row in rows:
        shape = format_shape(row.shape)
        if row.other is not None:
            shape += f" / {format_shape(row.other)}"
        bad = not row.relative <= tolerance
        own = "" if row.own is None else f"{row.own:.2g}"
        relative = Cell(f"{row.relative:.2g}", "bad" if bad else "")
        table.add(row.layer, row.kind, row.blob, shape, f"{row.absolute:.2g}", relative, own)


def _data(first: Side, second: Side, found: Comparison) -> dict[str, Any]:
    def number_or_text(value: float | None) -> float | str | None:
        return value if value is None or np.isfinite(value) else str(value)

    return {
        "kind": "comparison",
        "caffeio": __version__,
        "a": first.files.hashes(),
        "b": second.files.hashes(),
        "same": found.same,
        "largest": number_or_text(found.worst),
        "tolerance": found.tolerance,
        "inputs": found.samples,
        "first": found.first.layer if found.first is not None else None,
        "cause": found.cause or None,
        "not_shown": found.hidden,
        "layers": [
            {
                "layer": row.layer,
                "type": row.kind,
                "blob": row.blob,
                "shape": list(row.shape),
                "absolute": number_or_text(row.absolute),
                "relative": number_or_text(row.relative),
                "own": number_or_text(row.own),
            }
            for row in found.rows
        ],
    }
