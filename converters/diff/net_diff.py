"""Two nets: layers added, removed, renamed, changed; sizes, and what the net gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from caffeio.converters.diff.align import Alignment, Maker, align, producers
from caffeio.converters.diff.messages import (
    absent_message,
    changed_fields,
    default_text,
    flatten,
    layer_fields,
    message_text,
    rules_text,
)
from caffeio.converters.report.model import count, listed
from caffeio.errors import NetError
from caffeio.net.graph import build_graph
from caffeio.net.shapes import LayerShapes, NetShapes, infer_net
from caffeio.profiles import BVLC, Profile
from caffeio.proto.caffe_pb2 import LayerParameter, NetParameter

PHASES = ("TRAIN", "TEST")


@dataclass
class NetSide:
    """One of the two nets, upgraded."""

    label: str
    message: NetParameter
    profile: Profile = BVLC
    search: tuple[str, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)  # phase -> why it does not build

    @cached_property
    def shapes(self) -> dict[str, NetShapes]:
        """Phase -> the shapes of the net in it; phases in which it does not build are left out."""
        out: dict[str, NetShapes] = {}
        ruled = any(layer.include or layer.exclude for layer in self.message.layer)
        for phase in PHASES:
            try:
                if out and not ruled:  # the same layers take part
                    graph = replace(out[PHASES[0]].graph, phase=phase)
                else:
                    graph = build_graph(self.message, phase=phase, profile=self.profile)
            except NetError as error:
                self.problems[phase] = str(error)
                continue
            out[phase] = infer_net(graph, profile=self.profile, search_path=self.search)
        return out

    @cached_property
    def of_layer(self) -> dict[int, LayerShapes]:
        """Index of a layer in the file -> its shapes, in TRAIN if it takes part there."""
        out: dict[int, LayerShapes] = {}
        for shapes in self.shapes.values():
            for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
                if node.source_index is not None:
                    out.setdefault(node.source_index, found)
        return out


@dataclass(frozen=True)
class Change:
    """One thing that differs in a pair of layers."""

    what: str
    left: str
    right: str


@dataclass
class LayerChange:
    """A pair of layers that differ, or that only the name tells apart."""

    left: LayerParameter
    right: LayerParameter
    changes: list[Change]

    @property
    def renamed(self) -> bool:
        """Whether the two layers have different names."""
        return self.left.name != self.right.name


@dataclass
class NetDiff:
    """The differences between two nets."""

    left: NetSide
    right: NetSide
    alignment: Alignment
    changed: list[LayerChange]
    net_fields: list[Change]

    @property
    def same(self) -> bool:
        """Whether both nets compute and train the same, whatever their layers are called."""
        renames = any(change.renamed for change in self.changed)
        return not (
            self.alignment.removed
            or self.alignment.added
            or renames
            or self.net_fields
            or any(change.changes for change in self.changed)
        )


def diff_nets(left: NetSide, right: NetSide) -> NetDiff:
    """Compare two nets."""
    a, b = list(left.message.layer), list(right.message.layer)
    alignment = align(a, b)
    makers = [(producers(a, phase), producers(b, phase)) for phase in PHASES]
    partner = dict(alignment.pairs)
    changed = []
    for i, j in alignment.pairs:
        changes = _changes(a[i], b[j], left.of_layer.get(i), right.of_layer.get(j))
        ends = [(of_a[i], of_b[j]) for of_a, of_b in makers]
        changes += _wiring(a[i], b[j], ends, partner)
        if changes or a[i].name != b[j].name:
            changed.append(LayerChange(a[i], b[j], changes))
    skip = frozenset({"layer", "layers", "name"})
    flat = flatten(left.message, skip=skip), flatten(right.message, skip=skip)
    net_fields = [
        Change(path, flat[0].get(path, "-"), flat[1].get(path, "-"))
        for path in changed_fields(*flat)
    ]
    return NetDiff(left, right, alignment, changed, net_fields)


def _changes(
    left: LayerParameter,
    right: LayerParameter,
    left_shapes: LayerShapes | None,
    right_shapes: LayerShapes | None,
) -> list[Change]:
    out: list[Change] = []
    blobs = [
        len(s.blobs) if s is not None and s.blobs else None for s in (left_shapes, right_shapes)
    ]
    if left == right and blobs[0] == blobs[1]:
        return out
    if left.type != right.type:
        out.append(Change("type", left.type, right.type))
    if rules_text(left) != rules_text(right):
        out.append(Change("takes part in", rules_text(left) or "all", rules_text(right) or "all"))
    a, b = layer_fields(left, blobs[0]), layer_fields(right, blobs[1])
    absent: set[str] = set()
    for path in changed_fields(a, b):
        outer = absent_message(path, left, right)
        if outer in absent:
            continue
        if outer is not None:
            absent.add(outer)
            values = [message_text(param, outer) for param in (left, right)]
        else:
            values = [
                flat[path] if path in flat else default_text(param, path)
                for flat, param in ((a, left), (b, right))
            ]
        out.append(Change(outer or path, *values))
    return out


Ends = Sequence[tuple[list[Maker] | None, list[Maker] | None]]  # of one phase each


def _wiring(
    left: LayerParameter, right: LayerParameter, ends: Ends, partner: dict[int, int]
) -> list[Change]:
    """Bottoms that come from another layer, tops that came or went; names do not matter."""
    out = []
    moved = len(left.bottom) != len(right.bottom)
    for of_left, of_right in ends:
        if of_left is None or of_right is None:
            continue
        names = zip(left.bottom, right.bottom, strict=False)
        for (a, b), x, y in zip(names, of_left, of_right, strict=False):
            moved |= _other_maker(x, y, partner) and not (x is None and a == b)
    if moved:
        out.append(Change("bottom", ", ".join(left.bottom), ", ".join(right.bottom)))
    if len(left.top) != len(right.top):
        out.append(Change("top", ", ".join(left.top) or "-", ", ".join(right.top) or "-"))
    return out


def _other_maker(left: Maker, right: Maker, partner: dict[int, int]) -> bool:
    """Whether two bottoms are made by layers that are not each other's partner.

    A maker that was removed with nothing in its place is told by the list of removed layers.
    """
    if left is not None and left[0] not in partner:
        return right is not None
    return (None if left is None else (partner[left[0]], left[1])) != right


def summary(diff: NetDiff) -> str:
    """One line: `2 layers added, 1 changed`."""
    if diff.same:
        return "the nets are the same"
    changed = [c for c in diff.changed if c.changes]
    renamed = [c for c in diff.changed if c.renamed]
    words: list[str] = []
    for number, word in (
        (len(diff.alignment.added), "added"),
        (len(diff.alignment.removed), "removed"),
        (len(changed), "changed"),
        (len(renamed), "renamed"),
    ):
        if number:
            words.append(f"{number} {word}" if words else f"{count(number, 'layer')} {word}")
    if diff.net_fields:
        words.append(f"net-level: {listed([c.what for c in diff.net_fields])}")
    return ", ".join(words)


def as_data(diff: NetDiff) -> dict[str, Any]:
    """The comparison as plain data."""

    def side(one: NetSide) -> dict[str, Any]:
        return {
            "file": one.label,
            "problems": one.problems,
            **{
                phase: {
                    "parameters": shapes.parameters,
                    "macs": shapes.macs,
                    "batch": shapes.batch,
                    "data_bytes": shapes.data_bytes,
                    "outputs": shapes.graph.outputs,
                }
                for phase, shapes in one.shapes.items()
            },
        }

    def name(one: NetSide, index: int) -> dict[str, str]:
        param = one.message.layer[index]
        return {"name": param.name, "type": param.type, "rules": rules_text(param)}

    return {
        "same": diff.same,
        "left": side(diff.left),
        "right": side(diff.right),
        "removed": [name(diff.left, i) for i in diff.alignment.removed],
        "added": [name(diff.right, j) for j in diff.alignment.added],
        "changed": [
            {
                "left": c.left.name,
                "right": c.right.name,
                "type": c.right.type,
                "changes": [vars(x) for x in c.changes],
            }
            for c in diff.changed
        ],
        "net": [vars(x) for x in diff.net_fields],
    }
