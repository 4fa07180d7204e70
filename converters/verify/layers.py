"""Two models layer by layer: how near each top is, where they part, and why, probably."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from caffeio.converters.verify.cause import likely_cause
from caffeio.converters.verify.check import PROBABILITIES, before_probabilities
from caffeio.converters.verify.numbers import differences, relative_difference
from caffeio.converters.verify.row import ComparedLayer
from caffeio.converters.verify.sides import BuiltNetSide, OnnxSide, Seen, Side
from caffeio.layers.recurrent import Recurrent
from caffeio.net.net import Trace

SKIPPED = ("Split", "Silence")


@dataclass
class Comparison:
    """All rows in the net's order, and the verdict."""

    rows: list[ComparedLayer] = field(default_factory=list)
    outputs: list[ComparedLayer] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)  # layers that the other model does not show
    samples: int = 0
    tolerance: float = 1e-4
    cause: str = ""

    @property
    def first(self) -> ComparedLayer | None:
        """The first top that differs."""
        return next((row for row in self.rows if not row.relative <= self.tolerance), None)

    @property
    def worst(self) -> float:
        """The largest difference of an output."""
        return max((row.relative for row in self.outputs), default=float("inf"))

    @property
    def same(self) -> bool:
        """Whether all outputs agree."""
        return bool(self.outputs) and self.worst <= self.tolerance


def compare_layers(
    first: Side, second: Side, inputs: list[Mapping[str, np.ndarray]], tolerance: float
) -> Comparison:
    """Run both models on all inputs and compare what shows.

    One that is a net of ours leads; its layers give the order. Rows have the largest difference of
    any input; the cause is looked for where it is largest.
    """
    leader, other = (first, second) if isinstance(first, BuiltNetSide) else (second, first)
    result = Comparison(tolerance=tolerance, samples=len(inputs))
    rows: dict[tuple[str, str], ComparedLayer] = {}
    for sample in inputs:
        mine = leader.see(sample)
        theirs = other.see({**mine.blobs, **sample})  # a model may begin at a blob
        if mine.trace and isinstance(other, OnnxSide):
            _unmerge(mine, theirs)
        for row, trace in _rows(leader, mine, theirs):
            key = (row.layer, row.blob)
            old = rows.get(key)
            if old is None or row.relative > old.relative:
                if trace is not None and row.relative > min(tolerance, 1e-5):
                    row.own = _own(trace, row, mine, theirs)
                rows[key] = row
            if not row.relative <= tolerance and not result.cause and trace is not None:
                result.cause = likely_cause(leader, other, trace, row, _values(trace, mine, theirs))
    result.rows = list(rows.values())
    names = {row.layer for row in result.rows}
    if isinstance(leader, BuiltNetSide):
        result.hidden = [
            s.node.name
            for s in leader.net.steps
            if s.node.name not in names and s.node.type not in SKIPPED and not s.layer.is_source
        ]
    last = {row.blob: row for row in result.rows}
    wanted = list(leader.outputs)
    if isinstance(leader, BuiltNetSide):  # a saturated probability hides differences
        wanted += before_probabilities(leader.net, wanted)
    result.outputs = [last[name] for name in wanted if name in last]
    return result


def _unmerge(mine: Seen, theirs: Seen) -> None:
    """A BatchNormalization with the Scale in it shows the Scale's top, not the BatchNorm's."""
    shown = {layer for layer, _ in theirs.tops}
    for i, trace in enumerate(mine.trace):
        name = trace.step.node.name
        if trace.step.node.type != "BatchNorm" or (name, 0) not in theirs.tops:
            continue
        reads = [t.step for t in mine.trace[i + 1 :] if trace.step.tops[0] in t.step.bottoms]
        scale = reads[0].node if reads and reads[0].node.type == "Scale" else None
        if scale is not None and scale.name not in shown:
            theirs.tops[scale.name, 0] = theirs.tops.pop((name, 0))


def _rows(leader: Side, mine: Seen, theirs: Seen) -> list[tuple[ComparedLayer, Trace | None]]:
    """A row for each top that both show."""
    if not mine.trace:
        return [
            (_row("", "", name, mine.blobs[name], theirs.blobs[name]), None)
            for name in mine.blobs
            if name in theirs.blobs
        ]
    last = {top: t for t in mine.trace for top in t.step.tops}
    out: list[tuple[ComparedLayer, Trace | None]] = []
    for trace in mine.trace:
        step = trace.step
        if step.node.type in SKIPPED or step.layer.is_source:
            continue
        for i, top in enumerate(step.tops):
            value = trace.tops[i].numpy()
            found = _theirs(step.node.name, i, top, last[top] is trace, theirs)
            if found is not None:
                out.append((_row(step.node.name, step.node.type, top, value, found), trace))
    return out


def _theirs(layer: str, i: int, top: str, is_last: bool, theirs: Seen) -> np.ndarray | None:
    """The other model's value of a top: the blob of its name if nothing changes it later."""
    if is_last and top in theirs.blobs:
        return theirs.blobs[top]
    return theirs.tops.get((layer, i)) if not is_last or not theirs.blobs else None


def _row(layer: str, kind: str, blob: str, mine: np.ndarray, theirs: np.ndarray) -> ComparedLayer:
    least = 1.0 if kind in PROBABILITIES else 1e-6
    row = ComparedLayer(layer, kind, blob, mine.shape)
    if mine.shape != theirs.shape:
        row.other = theirs.shape
        if mine.size == theirs.size:  # (N, C, 1, 1) for (N, C): the numbers still compare
            theirs = theirs.reshape(mine.shape)
    row.absolute, row.relative = differences(theirs, mine, least)
    return row


def _values(
    trace: Trace, mine: Seen, theirs: Seen
) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
    """The other model's bottoms (None if one does not show) and top of a layer."""
    copies = {top: t.step.bottoms[0] for t in mine.trace for top in t.step.tops
              if t.step.node.type == "Split"}  # fmt: skip
    before: dict[str, tuple[Trace, int]] = {}
    for t in mine.trace:
        if t is trace:
            break
        before.update({top: (t, i) for i, top in enumerate(t.step.tops)})
    bottoms: list[np.ndarray] = []
    final = {top: t for t in mine.trace for top in t.step.tops}
    for name in trace.step.bottoms:
        source = copies.get(name, name)
        maker, i = before[source]
        if maker.step.layer.is_source:
            value: np.ndarray | None = maker.tops[i].numpy()
        else:
            value = _theirs(maker.step.node.name, i, source, final[source] is maker, theirs)
        if value is None or value.size != trace.bottom(name).numel():
            return None, theirs.blobs.get(trace.step.tops[0])
        bottoms.append(value.reshape(tuple(trace.bottom(name).shape)))
    top = trace.step.tops[0]
    return bottoms, _theirs(trace.step.node.name, 0, top, final[top] is trace, theirs)


def _own(trace: Trace, row: ComparedLayer, mine: Seen, theirs: Seen) -> float | None:
    """What the layer makes of the other model's bottoms, against the other model's top."""
    if row.blob != trace.step.tops[0] or isinstance(trace.step.layer, Recurrent):
        return None
    bottoms, top = _values(trace, mine, theirs)
    if bottoms is None or top is None or top.size != trace.tops[0].numel():
        return None
    with torch.no_grad():
        made = trace.step.layer(*(torch.from_numpy(np.array(b)) for b in bottoms))
    made = made[0] if isinstance(made, tuple) else made
    least = 1.0 if row.kind in PROBABILITIES else 1e-6
    return relative_difference(top.reshape(tuple(made.shape)), made.numpy(), least)
