"""Two solvers: what differs once defaults, old fields and paths are resolved, and what it does."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from caffeio.converters.diff import net_diff, rates
from caffeio.converters.diff.messages import is_repeated, text_of
from caffeio.converters.diff.solver_fields import FIELDS, SolverField
from caffeio.converters.diff.training import Feed, Seen, feed_of
from caffeio.converters.report.model import count
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError
from caffeio.profiles import BVLC, Profile, profile_of_dialect, profile_of_solver
from caffeio.proto.caffe_pb2 import NetParameter, SolverParameter
from caffeio.proto.files import read_net, read_solver
from caffeio.proto.upgrade import upgrade_net

_PATHS = {"net", "train_net", "test_net", "snapshot_prefix", "weights"}
_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


@dataclass
class Options:
    """How to compare."""

    follow_nets: bool = True
    dataset_size: int | None = None
    workers: int = 1
    show_all: bool = False


@dataclass
class SolverSide:
    """One of the two solvers, upgraded, with the net that it trains."""

    label: str
    message: SolverParameter
    profile: Profile
    source: Source | None = None
    unknown: Sequence[Any] = ()
    net: net_diff.NetSide | None = None
    net_source: Source | None = None
    net_problem: str = ""
    feed: Feed = field(default_factory=Feed)
    test_feed: Feed = field(default_factory=Feed)

    @property
    def net_name(self) -> str:
        """The net as the solver calls it."""
        for name in _NET_FIELDS:
            if self.message.HasField(name):
                value = getattr(self.message, name)
                return value if isinstance(value, str) else f"inline {name}"
        return "none"


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
    words: str

    @property
    def matters(self) -> bool:
        """Whether at least one of the two solvers obeys the field."""
        return self.left_counts or self.right_counts


@dataclass
class SolverDiff:
    """How two solvers differ."""

    left: SolverSide
    right: SolverSide
    options: Options
    fields: list[FieldChange]
    respelled: list[str]  # written differently, same meaning
    equal: list[tuple[str, str, bool]]  # name, value, set by a file
    rates: rates.RateDiff
    nets: net_diff.NetDiff | None = None
    same_net_file: bool = False
    seen: tuple[Seen, Seen] | None = None
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


def load_pair(left: Source, right: Source, dialect: str | None = None) -> list[SolverSide]:
    """Read two solvers and the nets that they train; one net is read once.

    Where only one of the two says whose Caffe it is for, the other is taken to be for the same.
    """
    sides: list[SolverSide] = []
    for source in (left, right):
        file = read_solver(source.path, dialect=dialect)
        profile = profile_of_solver(file.message, file.dialect)
        side = SolverSide(source.label, file.message, profile, source, file.unknown)
        _load_net(side, dialect, sides[0] if sides else None)
        sides.append(side)
    a, b = sides
    if BVLC in (a.profile, b.profile) and a.profile != b.profile:
        teller, taker = (a, b) if b.profile is BVLC else (b, a)
        taker.profile = teller.profile
    return sides


def _load_net(side: SolverSide, dialect: str | None, other: SolverSide | None) -> None:
    for name in _NET_FIELDS:
        if not side.message.HasField(name):
            continue
        value = getattr(side.message, name)
        try:
            if isinstance(value, NetParameter):
                message: NetParameter = upgrade_net(value).message
                side.net = net_diff.NetSide(f"{name} of {side.label}", message, side.profile)
            else:
                _follow(side, value, dialect, other)
        except CaffeIOError as error:
            side.net_problem = str(error)
        break
    if side.net is not None and not side.feed.source:
        side.feed = feed_of(side.net.message, "TRAIN", side.net.search)
        side.test_feed = feed_of(side.net.message, "TEST", side.net.search)


def _follow(side: SolverSide, name: str, dialect: str | None, other: SolverSide | None) -> None:
    assert side.source is not None
    found = side.source.resolve(name)
    if found is None:
        side.net_problem = f"the net {name} was not found (from here, and near the solver)"
        return
    side.net_source = found
    if other is not None and other.net is not None and _same_file(found, other.net_source):
        side.net, side.feed, side.test_feed = other.net, other.feed, other.test_feed
        if side.profile is BVLC:
            side.profile = other.net.profile
        return
    file = read_net(found.path, dialect=dialect)
    profile = profile_of_dialect(file.dialect)
    if profile is BVLC:
        profile = side.profile
    elif side.profile is BVLC:
        side.profile = profile  # the net tells whose Caffe this is, the solver does not
    search = (str(found.path.resolve().parent), str(side.source.path.resolve().parent))
    side.net = net_diff.NetSide(found.label, file.message, profile, search)


def diff_solvers(left: SolverSide, right: SolverSide, options: Options) -> SolverDiff:
    """Compare two solvers that `load` read."""
    fields, respelled, equal = [], [], []
    for rule in FIELDS:
        change, note = _compare(rule, left, right)
        if change is not None:
            fields.append(change)
        elif note:
            respelled.append(note)
        value = shown(rule.name, left)
        is_set = _is_set(rule.name, left) or _is_set(rule.name, right)
        if change is None:
            equal.append((rule.name, value, is_set))
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


def _same_file(a: Source, b: Source | None) -> bool:
    return b is not None and (a.path == b.path or a.path.read_bytes() == b.path.read_bytes())


def _compare_nets(diff: SolverDiff) -> None:
    left, right = diff.left, diff.right
    if left.net is None or right.net is None:
        return
    if left.net is right.net:
        diff.same_net_file = True
    else:
        diff.nets = net_diff.diff_nets(left.net, right.net)


def _seen(side: SolverSide, options: Options) -> Seen:
    dataset = options.dataset_size or side.feed.entries
    message = side.message
    return Seen(
        side.feed.batch, options.workers, max(message.iter_size, 1), message.max_iter, dataset
    )


def _is_set(name: str, side: SolverSide) -> bool:
    message = side.message
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    return len(getattr(message, name)) > 0 if is_repeated(descriptor) else message.HasField(name)


def value_of(name: str, side: SolverSide) -> Any:
    """The effective value of a field, in a form that can be compared."""
    message = side.message
    value = getattr(message, name)
    if name == "solver_mode" and not message.HasField(name):
        return 1 if side.profile.solver_mode_default_gpu else 0
    if name == "test_initialization" and not message.HasField(name):
        return not side.profile.nvidia_policies
    if name == "snapshot_prefix" and not value and side.profile.prefix_from_solver_file:
        path = side.source.path if side.source else None
        return path.stem if path else ""
    if name in _PATHS:
        one = isinstance(value, str)
        return _clean(value) if one else tuple(map(_clean, value))
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True) if message.HasField(name) else b""
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    if is_repeated(descriptor):
        return tuple(
            item.SerializeToString(deterministic=True) if isinstance(item, Message) else item
            for item in value
        )
    return value


def _clean(path: str) -> str:
    return posixpath.normpath(path) if path else path


def shown(name: str, side: SolverSide) -> str:
    """The effective value of a field as text, `-` for nothing."""
    descriptor = side.message.DESCRIPTOR.fields_by_name[name]
    if name in ("solver_mode", "test_initialization") and not side.message.HasField(name):
        value: Any = value_of(name, side)
        return text_of(descriptor, value)
    if name == "snapshot_prefix" and not side.message.snapshot_prefix:
        return str(value_of(name, side)) or "-"
    if descriptor.message_type is not None and not is_repeated(descriptor):
        if not side.message.HasField(name):
            return "-"
        if descriptor.message_type.name == "NetParameter":
            return f"inline net of {len(getattr(side.message, name).layer)} layers"
    value = getattr(side.message, name)
    if is_repeated(descriptor):
        if descriptor.message_type is not None and descriptor.message_type.name == "NetParameter":
            return count(len(value), "inline net") if len(value) else "-"
        return ", ".join(text_of(descriptor, [item])[1:-1] for item in value) or "-"
    return text_of(descriptor, value) or "-"


def _compare(
    rule: SolverField, left: SolverSide, right: SolverSide
) -> tuple[FieldChange | None, str]:
    a, b = value_of(rule.name, left), value_of(rule.name, right)
    is_set = _is_set(rule.name, left), _is_set(rule.name, right)
    texts = shown(rule.name, left), shown(rule.name, right)
    if a == b:
        if is_set[0] != is_set[1] and texts[0] == texts[1]:
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
    return FieldChange(rule, *texts, *is_set, *counts, words), ""


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
