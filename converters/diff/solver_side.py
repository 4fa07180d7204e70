"""One of two solvers: read with its net, its fields' effective values."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message

from caffeio.converters.diff.messages import format_value, is_repeated
from caffeio.converters.diff.net_diff import NetSide
from caffeio.converters.diff.training import Feed, feed_of
from caffeio.converters.report.model import count
from caffeio.converters.source import Source
from caffeio.errors import CaffeIOError
from caffeio.profiles import BVLC, Profile, choose_profile
from caffeio.proto.caffe_pb2 import NetParameter, SolverParameter
from caffeio.proto.files import SolverFile, read_net, read_solver
from caffeio.proto.io.regular import read_regular
from caffeio.proto.upgrade.upgrade import upgrade_net
from caffeio.training.multiphase import read_phases

_PATHS = {"net", "train_net", "test_net", "snapshot_prefix", "weights"}
_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


@dataclass
class SolverSide:
    """One of the two solvers, upgraded, with the net that it trains."""

    label: str
    message: SolverParameter
    profile: Profile
    source: Source | None = None
    unknown: Sequence[Any] = ()
    dialect: str = "bvlc"
    net: NetSide | None = None
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


def load_pair(left: Source, right: Source, dialect: str | None = None) -> list[SolverSide]:
    """Read two solvers and the nets that they train; one net is read once.

    Where only one of the two says whose Caffe it is for, the other is taken to be for the same.
    """
    sides: list[SolverSide] = []
    for source in (left, right):
        file = read_solver(source.path, dialect=dialect)
        sides.append(load_side(source, file, dialect, sides[0] if sides else None))
    a, b = sides
    if BVLC in (a.profile, b.profile) and a.profile != b.profile:
        teller, taker = (a, b) if b.profile is BVLC else (b, a)
        taker.profile = teller.profile
    return sides


def load_side(
    source: Source, file: SolverFile, dialect: str | None = None, other: SolverSide | None = None
) -> SolverSide:
    """Make a side of a solver that is read, with its net, which `other` may have read already."""
    profile = choose_profile(None, file.dialect, file.message)
    side = SolverSide(source.label, file.message, profile, source, file.unknown, file.dialect)
    _load_net(side, dialect, other)
    return side


def load_phases(source: Source, dialect: str | None = None) -> list[SolverSide]:
    """Read the solvers of a file of several phases (Intel's params_pair), with their batch sizes.

    A file with one solver gives that one.
    """
    sides: list[SolverSide] = []
    files = read_phases(source.path, dialect=dialect)
    for number, (file, batch) in enumerate(files, 1):
        side = load_side(source, file, dialect, sides[-1] if sides else None)
        if len(files) > 1:
            side.label = f"{source.label}, phase {number}"
        if batch:
            side.feed = replace(side.feed, batch=batch)
        sides.append(side)
    return sides


def _load_net(side: SolverSide, dialect: str | None, other: SolverSide | None) -> None:
    for name in _NET_FIELDS:
        if not side.message.HasField(name):
            continue
        value = getattr(side.message, name)
        try:
            if isinstance(value, NetParameter):
                message: NetParameter = upgrade_net(value).message
                side.net = NetSide(f"{name} of {side.label}", message, side.profile)
            else:
                _follow(side, value, dialect, other)
        except CaffeIOError as error:
            side.net_problem = str(error)
        break
    if side.net is not None and not side.feed.source:
        side.feed = feed_of(side.net.message, "TRAIN", side.net.search, side.net.label)
        side.test_feed = feed_of(side.net.message, "TEST", side.net.search, side.net.label)


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
    side.profile = choose_profile(None, side.dialect, side.message, file.dialect)
    search = (str(found.path.resolve().parent), str(side.source.path.resolve().parent))
    side.net = NetSide(found.label, file.message, side.profile, search)


def _same_file(a: Source, b: Source | None) -> bool:
    if b is None:
        return False
    return a.path == b.path or read_regular(a.path) == read_regular(b.path)


def is_set(name: str, side: SolverSide) -> bool:
    """Whether the file gives the field."""
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
        return format_value(descriptor, value)
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
        return ", ".join(format_value(descriptor, [item])[1:-1] for item in value) or "-"
    return format_value(descriptor, value) or "-"
