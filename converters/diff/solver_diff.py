"""Two solvers: what differs once defaults, old fields and paths are resolved, and what it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from caffeio.converters.diff import net_diff, rates
from caffeio.converters.diff.solver_fields import FIELDS, SolverField
from caffeio.converters.diff.solver_side import SolverSide, is_set, shown, value_of
from caffeio.converters.diff.training import SeenImages, images_seen


@dataclass
class SolverDiffOptions:
    """What the user chooses of how solvers are compared."""

    follow_nets: bool = True
    dataset_size: int | None = None
    workers: int = 1
    show_all: bool = False


@dataclass(frozen=True)
class FieldChange:
    """One field whose meaning differs."""

    rule: SolverField
    left: str
    right: str
    left_set: bool
    right_set: bool
    left_counts: bool
    right_counts: bool
    effect: str

    @property
    def matters(self) -> bool:
        """Whether at least one of the two solvers obeys the field."""
        return self.left_counts or self.right_counts


@dataclass
class SolverDiff:
    """How two solvers differ."""

    left: SolverSide
    right: SolverSide
    options: SolverDiffOptions
    fields: list[FieldChange]
    respelled: list[str]  # written differently, same meaning
    equal: list[tuple[str, str, bool]]  # name, value, set by a file
    rates: rates.RateDiff
    nets: net_diff.NetDiff | None = None
    same_net_file: bool = False
    seen: tuple[SeenImages, SeenImages] | None = None
    other: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing at all differs in meaning."""
        nets_same = self.nets is None or self.nets.same
        return not self.fields and not self.other and nets_same

    @property
    def trains_alike(self) -> bool:
        """Whether both runs would end in the same weights."""
        nets_same = self.nets is None or self.nets.same
        quiet = all(change.rule.harmless or not change.matters for change in self.fields)
        return quiet and nets_same and not self.other


def diff_solvers(left: SolverSide, right: SolverSide, options: SolverDiffOptions) -> SolverDiff:
    """Compare two solvers that `load` read."""
    fields, respelled, equal = [], [], []
    for rule in FIELDS:
        change, note = _compare(rule, left, right)
        if change is not None:
            fields.append(change)
        elif note:
            respelled.append(note)
        value = shown(rule.name, left)
        given = is_set(rule.name, left) or is_set(rule.name, right)
        if change is None:
            equal.append((rule.name, value, given))
    marks = rates.marks_of(left.message, left.profile) | rates.marks_of(
        right.message, right.profile
    )
    curves = [rates.curve(side.message, side.profile) for side in (left, right)]
    diff = SolverDiff(
        left, right, options, fields, respelled, equal, rates.compare(curves[0], curves[1], marks)
    )
    diff.other = _others(left, right)
    if options.follow_nets:
        _compare_nets(diff)
    diff.seen = (_seen(left, options), _seen(right, options))
    return diff


def _compare_nets(diff: SolverDiff) -> None:
    left, right = diff.left, diff.right
    if left.net is None or right.net is None:
        return
    if left.net is right.net:
        diff.same_net_file = True
    else:
        diff.nets = net_diff.diff_nets(left.net, right.net)


def _seen(side: SolverSide, options: SolverDiffOptions) -> SeenImages:
    dataset = options.dataset_size or side.feed.records
    return images_seen(side.message, side.feed, side.profile, options.workers, dataset)


def _compare(
    rule: SolverField, left: SolverSide, right: SolverSide
) -> tuple[FieldChange | None, str]:
    a, b = value_of(rule.name, left), value_of(rule.name, right)
    given = is_set(rule.name, left), is_set(rule.name, right)
    texts = shown(rule.name, left), shown(rule.name, right)
    if a == b:
        if given[0] != given[1] and texts[0] == texts[1]:
            return None, f"{rule.name} ({texts[0]} is the default)"
        return None, f"{rule.name} ({texts[0]} and {texts[1]})" if texts[0] != texts[1] else ""
    counts = (
        rule.counts(left.message, left.profile),
        rule.counts(right.message, right.profile),
    )
    words = rule.unused
    if any(counts):
        words = rule.explain(a, b)
        if not all(counts) and rule.unused:
            which = "left" if counts[1] else "right"
            words = f"{rule.unused} ({which})"
    elif rule.unused:
        words = f"no effect: {rule.unused}"
    return FieldChange(rule, *texts, *given, *counts, words), ""


def _others(left: SolverSide, right: SolverSide) -> list[str]:
    """Fields of forks that this table does not explain, where they differ."""
    known = {rule.name for rule in FIELDS} | {"fff", "solver_type"}
    out = []
    for descriptor in left.message.DESCRIPTOR.fields:
        name = descriptor.name
        if name in known:
            continue
        if value_of(name, left) != value_of(name, right):
            out.append(f"{name}: {shown(name, left)} -> {shown(name, right)}")
    return out
