"""The two files of a snapshot: what goes into them, held apart from a training that goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.weights.hdf5 import write_caffemodel_h5
from caffeio.proto.weights.load import write_caffemodel
from caffeio.proto.weights.solverstate import SolverState, write_solverstate

Blobs = Sequence[Sequence[np.ndarray | None]]


@dataclass(frozen=True)
class SnapshotPair:
    """Weights and state of one iteration, float32 arrays on the CPU.

    `blobs` are by layer; None is a blob that another layer owns (HDF5 stores owners only). `diffs`
    are like them, for snapshot_diff.
    """

    weights: str
    state: str
    net: pb.NetParameter
    blobs: Blobs
    diffs: Sequence[Sequence[np.ndarray]] | None
    solver: SolverState
    hdf5: bool
    dialect: str
    state_extras: bool

    def copied(self) -> SnapshotPair:
        """The same numbers in memory of their own: a training that goes on changes the others."""
        solver = replace(self.solver, history=[np.array(h) for h in self.solver.history])
        diffs = None if self.diffs is None else [list(map(np.array, row)) for row in self.diffs]
        blobs = [[None if b is None else np.array(b) for b in row] for row in self.blobs]
        return replace(self, blobs=blobs, diffs=diffs, solver=solver)

    def write(self, between: Callable[[], None] = lambda: None) -> None:
        """Write the weights, call `between`, write the state: a state implies whole weights.

        Raises SnapshotError; no half of a new pair is left then.
        """
        new = not os.path.exists(self.weights)
        self._write_weights()
        between()
        try:
            write_solverstate(self.state, self.solver, profile_extras=self.state_extras)
        except BaseException:
            if new:
                with contextlib.suppress(OSError):
                    Path(self.weights).unlink()
            raise

    def _write_weights(self) -> None:
        if self.hdf5:
            write_caffemodel_h5(self.weights, self.net, self.blobs, diffs=self.diffs)
        else:
            blobs = [[b for b in row if b is not None] for row in self.blobs]
            write_caffemodel(self.weights, self.net, blobs, diffs=self.diffs, dialect=self.dialect)


class BackgroundWriter:
    """Writes pairs in a thread, one at a time, while the training goes on."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._running: tuple[SnapshotPair, Future[None]] | None = None

    def start(self, pair: SnapshotPair) -> None:
        """Begin to write a pair; `finish` must have been called since the last one."""
        assert self._running is None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "caffeio-snapshot")
        self._running = pair, self._pool.submit(pair.write)

    def finish(self, *, wait: bool) -> SnapshotPair | None:
        """The pair that has been written since the last call, if there is one.

        Raises what its writing raised. With `wait` it waits for a pair that is being written.
        """
        if self._running is None:
            return None
        pair, future = self._running
        if not (wait or future.done()):
            return None
        self._running = None
        future.result()
        return pair

    def close(self) -> None:
        """Stop the thread when it has written what it was given."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
