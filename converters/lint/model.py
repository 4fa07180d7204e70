"""Findings, rules, and the contexts that rules get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from inspect import cleandoc
from pathlib import Path

from caffeio.errors import NetError
from caffeio.layers.registry import batch_message, is_loss_type, reads_data
from caffeio.net.graph import NetGraph, build_graph
from caffeio.net.shapes import LayerShapes, NetShapes, Shape, infer_net
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import NetFile, SolverFile

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)
PHASES = ("TRAIN", "TEST")
Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Fix:
    """A safe change of the text: assignments as `caffeio edit` takes them, and what they do."""

    what: str
    changes: tuple[str, ...] = ()
    removals: tuple[str, ...] = ()
    rename: tuple[int, int, str, str] | None = None  # line, column, old name, new name


@dataclass(frozen=True)
class Finding:
    """One mistake at one place (line and column from 1, 0 if the whole file is meant)."""

    code: str
    severity: str
    message: str
    path: str
    line: int = 0
    column: int = 0
    fix: Fix | None = None

    @property
    def where(self) -> str:
        """`file:line:column`, as far as it is known."""
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path

    @property
    def order(self) -> tuple[str, int, int, str]:
        """By place, then by code."""
        return (self.path, self.line, self.column, self.code)


@dataclass(frozen=True)
class Rule:
    """A check: its code, a short name, how bad a finding is, and the function that looks."""

    code: str
    name: str
    severity: str
    kind: str  # "net", "solver" or "text"
    check: Callable[..., Iterator[Finding]]

    @property
    def explanation(self) -> str:
        """What the rule finds, why it matters, and what to do."""
        return cleandoc(self.check.__doc__ or "")

    @property
    def summary(self) -> str:
        """The first line of the explanation."""
        return self.explanation.splitlines()[0]


RULES: dict[str, Rule] = {}
Check = Callable[..., Iterator[Finding]]


def rule(code: str, name: str, severity: str, kind: str) -> Callable[[Check], Check]:
    """Register a check under its code."""

    def add(check: Check) -> Check:
        if code in RULES:
            raise ValueError(f"lint rule {code} is already defined")
        RULES[code] = Rule(code, name, severity, kind, check)
        return check

    return add


def net_rule(code: str, name: str, severity: str = WARNING) -> Callable[[Check], Check]:
    """A check of a net: takes a NetContext."""
    return rule(code, name, severity, "net")


def solver_rule(code: str, name: str, severity: str = WARNING) -> Callable[[Check], Check]:
    """A check of a solver: takes a SolverContext."""
    return rule(code, name, severity, "solver")


def place_of(where: str) -> tuple[str, int, int]:
    """File, line and column of "file:line:column"; 0 for what is not there."""
    parts = where.rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return parts[0], int(parts[1]), int(parts[2])
    return where, 0, 0


@dataclass
class _Context:
    """What net and solver rules have in common."""

    path: str
    profile: Profile
    dialect: str
    given: str | None = None  # the dialect that the user named

    def finding(self, code: str, message: str, where: str, *, fix: Fix | None = None) -> Finding:
        """A finding of rule `code` at a place."""
        file, line, column = place_of(where)
        return Finding(code, RULES[code].severity, message, file or self.path, line, column, fix)


@dataclass
class NetContext(_Context):
    """A net under test; graphs and shapes are made when a rule asks for them."""

    file: NetFile = field(default_factory=lambda: NetFile(None, "bvlc"))
    search: tuple[str, ...] = ()
    target: str | None = None  # whose compiler is to take the net

    @property
    def message(self) -> pb.NetParameter:
        """The net, upgraded."""
        return self.file.message

    @cached_property
    def layers(self) -> list[pb.LayerParameter]:
        """All layers of the file."""
        return list(self.message.layer)

    @cached_property
    def editable(self) -> bool:
        """Whether layer indices are those of the file, so that fixes can name them."""
        upgraded = self.file.upgraded
        if upgraded is None or not upgraded.done:
            return True
        return upgraded.field == "layer" and upgraded.origin == list(range(len(self.layers)))

    def at(self, code: str, message: str, *steps: str | int, fix: Fix | None = None) -> Finding:
        """A finding at a field of the net, such as ("layer", 3, "param", 0)."""
        where = self.file.locate(*steps)
        return self.finding(code, message, where, fix=fix if self.editable else None)

    def layer(
        self, code: str, index: int, message: str, *steps: str | int, fix: Fix | None = None
    ) -> Finding:
        """A finding in the layer of that index; its name is put in front."""
        name = self.message.layer[index].name
        return self.at(code, f"layer {name!r}: {message}", "layer", index, *steps, fix=fix)

    @cached_property
    def _built(self) -> tuple[dict[str, NetGraph], dict[str, NetError]]:
        graphs, errors = {}, {}
        for phase in PHASES:
            try:
                graphs[phase] = build_graph(
                    self.message,
                    phase=phase,
                    profile=self.profile,
                    locate=lambda i: self.file.locate("layer", i),
                )
            except NetError as error:
                errors[phase] = error
        return graphs, errors

    @property
    def graphs(self) -> dict[str, NetGraph]:
        """Phase -> graph, where the net can be built."""
        return self._built[0]

    @property
    def build_errors(self) -> dict[str, NetError]:
        """Phase -> why the net cannot be built."""
        return self._built[1]

    @cached_property
    def shapes(self) -> dict[str, NetShapes]:
        """Phase -> shapes, where the net can be built."""
        return {
            phase: infer_net(graph, profile=self.profile, search_path=self.search)
            for phase, graph in self.graphs.items()
        }

    def shapes_of(
        self, index: int
    ) -> Iterator[tuple[str, list[tuple[int, ...] | None], LayerShapes]]:
        """Phase, bottoms' shapes and own shapes of a layer, for each phase that it is in."""
        for phase, layers in self._by_index.items():
            if index in layers:
                yield phase, *layers[index]

    @cached_property
    def _by_index(self) -> dict[str, dict[int, tuple[list[Shape | None], LayerShapes]]]:
        """Phase -> index of a layer -> its bottoms' shapes and its own."""
        out: dict[str, dict[int, tuple[list[Shape | None], LayerShapes]]] = {}
        for phase, shapes in self.shapes.items():
            of_phase = out.setdefault(phase, {})
            values: dict[str, Shape | None] = {}
            for node, found in zip(shapes.graph.nodes, shapes.layers, strict=True):
                if node.source_index is not None:
                    bottoms = [values.get(name) for name in node.bottoms]
                    of_phase.setdefault(node.source_index, (bottoms, found))
                values.update(zip(node.tops, found.tops, strict=False))
        return out

    def refused(self, code: str, *checks: str) -> Iterator[Finding]:
        """Findings of rule `code`: what the net's builder refuses by these checks, once a layer."""
        seen = set()
        for shapes in self.shapes.values():
            for node, refusal in shapes.refusals:
                index = node.source_index
                if refusal.check in checks and index is not None and index not in seen:
                    seen.add(index)
                    yield self.layer(code, index, refusal.message, *refusal.steps)

    def in_phase(self, param: pb.LayerParameter, phase: str) -> bool:
        """Whether the phase rules leave the layer in."""
        number = pb.Phase.Value(phase)
        if param.include:
            return any(not r.HasField("phase") or r.phase == number for r in param.include)
        return not any(r.HasField("phase") and r.phase == number for r in param.exclude)

    @cached_property
    def trains(self) -> bool:
        """Whether this is a net for training: it reads data in TRAIN and has a loss there."""
        graph = self.graphs.get("TRAIN")
        if graph is None:
            return False
        data = any(reads_data(n.type) or batch_message(n.type) for n in graph.nodes)
        return data and any(is_loss(node.param) for node in graph.nodes)

    @cached_property
    def for_training(self) -> bool:
        """Whether it trains, and has data that are for TRAIN alone (others score or extract)."""
        return self.trains and any(
            reads_data(layer.type)
            and self.in_phase(layer, "TRAIN")
            and not self.in_phase(layer, "TEST")
            for layer in self.layers
        )


def is_loss(param: pb.LayerParameter) -> bool:
    """Whether a layer adds to the loss: by its type, or by a loss_weight."""
    if param.loss_weight:
        return any(param.loss_weight)
    return is_loss_type(param.type)


@dataclass
class SolverContext(_Context):
    """A solver under test, and the net that it trains if it can be found."""

    file: SolverFile = field(default_factory=lambda: SolverFile(None, "bvlc"))
    net: NetContext | None = None
    net_path: Path | None = None
    from_here: bool = False  # the net was found from the working directory, so paths count from it

    @property
    def message(self) -> pb.SolverParameter:
        """The solver, upgraded."""
        return self.file.message

    def at(self, code: str, message: str, *steps: str | int, fix: Fix | None = None) -> Finding:
        """A finding at a field of the solver."""
        return self.finding(code, message, self.file.locate(*steps), fix=fix)

    def whole(self, code: str, message: str, *, fix: Fix | None = None) -> Finding:
        """A finding about something that is not there."""
        return Finding(code, RULES[code].severity, message, self.path, 1, 1, fix)
