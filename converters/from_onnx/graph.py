"""The ONNX graph while it is worked on: nodes, constants, and the shape of every value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Dims = tuple[int, ...]
Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class Node:
    """One operator: names of values in ("" for one that is left out) and out, and attributes.

    `place` is its number in the model's file, `part_of` the numbers of all nodes that it stands
    for.
    """

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    place: int = 0
    part_of: list[int] = field(default_factory=list)

    def input(self, index: int) -> str:
        """The name of an input, "" if it is not there."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass
class Graph:
    """Nodes in an order in which they can run; `constants` and `shapes` are by value name."""

    nodes: list[Node]
    constants: dict[str, Array]
    shapes: dict[str, Dims]
    inputs: list[str]
    outputs: list[str]
    opset: int = 17
    larger: dict[str, Dims] | None = None  # the shapes with one example more; None: only this batch
    aliases: dict[str, str] = field(default_factory=dict)  # names that are gone -> those that stay

    def copy(self) -> Graph:
        """The graph with nodes of its own, and the same arrays."""
        nodes = [
            Node(n.op, n.name, [*n.inputs], [*n.outputs], dict(n.attrs), n.place, [*n.part_of])
            for n in self.nodes
        ]
        return Graph(
            nodes, dict(self.constants), dict(self.shapes), [*self.inputs], [*self.outputs],
            self.opset, None if self.larger is None else dict(self.larger), dict(self.aliases),
        )  # fmt: skip

    def batch_axis(self, name: str) -> int | None:
        """The axis of a value that grows with the batch; None if none does, or it is unknown."""
        if self.larger is None or name not in self.larger:
            return None
        pairs = zip(self.shapes[name], self.larger[name], strict=False)
        grows = [axis for axis, (old, new) in enumerate(pairs) if old != new]
        return grows[0] if len(grows) == 1 else None

    def constant(self, name: str) -> Array | None:
        """The value called `name`, if it is a constant."""
        return self.constants.get(name)

    def shape(self, name: str) -> Dims:
        """The shape of a value or a constant."""
        value = self.constants.get(name)
        return self.shapes[name] if value is None else value.shape

    def ints(self, node: Node, attribute: str, index: int) -> list[int] | None:
        """Integers that older opsets have as an attribute and newer ones as a constant input."""
        if attribute in node.attrs:
            value = node.attrs[attribute]
            return [int(v) for v in (value if isinstance(value, Iterable) else [value])]
        found = self.constant(node.input(index))
        return None if found is None else [int(v) for v in found.reshape(-1)]

    def number(self, node: Node, attribute: str, index: int, default: float) -> float | None:
        """A number that is an attribute or a constant input; None if it is computed."""
        if attribute in node.attrs:
            return float(node.attrs[attribute])
        if not node.input(index):
            return default
        found = self.constant(node.input(index))
        return None if found is None or found.size != 1 else float(found.reshape(()))

    def readers(self) -> dict[str, list[Node]]:
        """Value -> the nodes that read it."""
        out: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                out.setdefault(name, []).append(node)
        return out

    def makers(self) -> dict[str, Node]:
        """Value -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def sweep(self) -> None:
        """Forget nodes that no output needs."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]

    def rename(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`."""
        self.aliases = {was: new if now == old else now for was, now in self.aliases.items()}
        self.aliases[old] = new
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
