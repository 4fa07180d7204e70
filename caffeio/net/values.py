"""A net's layers as operations on values: each version of a blob that is written in place is one.

Here it is plain which value has only one reader, which may be written over, and when one is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from caffeio.net.step import Step


@dataclass(eq=False)
class Operation:
    """One call: `run` gets the values `reads` and returns what `writes` will hold."""

    run: Callable[..., Any]
    reads: list[int]
    writes: list[int]
    step: Step
    fresh: bool = False  # its result is new memory that nobody else has
    free_after: tuple[int, ...] = ()  # not read by any later layer


@dataclass(eq=False)
class Program:
    """The operations in order, and the values that are asked for when all have run."""

    operations: list[Operation] = field(default_factory=list)
    sources: list[tuple[Step, list[int]]] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)  # value, loss weight
    count: int = 0

    def new(self, n: int) -> list[int]:
        """Number `n` more values."""
        self.count += n
        return list(range(self.count - n, self.count))

    @property
    def requested(self) -> set[int]:
        """Values that are read when all operations have run."""
        return {*self.outputs.values(), *(value for value, _ in self.losses)}

    def readers(self) -> dict[int, list[Operation]]:
        """Find the operations that read each value, once for every time."""
        out: dict[int, list[Operation]] = {}
        for operation in self.operations:
            for value in operation.reads:
                out.setdefault(value, []).append(operation)
        return out

    def makers(self) -> dict[int, Operation]:
        """Find the operation that makes each value; sources' tops have none."""
        return {value: made for made in self.operations for value in made.writes}

    def set_free(self) -> None:
        """Note which values each operation is the last to read, or to make if nothing reads it."""
        last = {
            value: operation
            for operation in self.operations
            for value in (*operation.reads, *operation.writes)
        }
        requested = self.requested
        for operation in self.operations:
            touched = dict.fromkeys((*operation.reads, *operation.writes))
            operation.free_after = tuple(
                v for v in touched if last[v] is operation and v not in requested
            )


def program_of(
    steps: Sequence[Step], outputs: Sequence[str], is_same: Callable[[Step], bool]
) -> Program:
    """Number the values of `steps`; a step that `is_same` only gives its bottom other names."""
    program = Program()
    now: dict[str, int] = {}  # the value that a blob's name stands for
    for step in steps:
        if is_same(step):
            written = [now[step.bottoms[0]]] * len(step.tops)
        else:
            written = program.new(len(step.tops))
            reads = [now[name] for name in step.bottoms]
            if step.layer.is_source:
                program.sources.append((step, written))
            else:
                program.operations.append(Operation(step.layer.forward, reads, written, step))
        now.update(zip(step.tops, written, strict=True))
        program.losses += [
            (value, weight)
            for value, weight in zip(written, step.loss_weights, strict=True)
            if weight
        ]
    program.outputs = {name: now[name] for name in outputs}
    return program
