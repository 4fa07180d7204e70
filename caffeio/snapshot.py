"""Snapshots: `<prefix>_iter_<N>` weights and state, written so that the last good pair survives.

Source: src/caffe/solver.cpp (Snapshot, SnapshotFilename, CheckSnapshotWritePermissions),
src/caffe/solvers/sgd_solver.cpp (SnapshotSolverState, RestoreSolverState).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from caffeio.errors import SnapshotError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.hdf5 import write_caffemodel_h5
from caffeio.proto.solverstate import SolverState, read_solverstate, write_solverstate
from caffeio.proto.weights import load_weights, write_caffemodel
from caffeio.schedule import FLT_MAX
from caffeio.steps import raw_blobs

if TYPE_CHECKING:
    from caffeio.trainer import Trainer


class Snapshots:
    """Writes and restores the snapshots of one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.hdf5 = trainer.param.snapshot_format == pb.SolverParameter.HDF5

    def names(self, iteration: int) -> tuple[str, str]:
        """Paths of the weights and of the state of `iteration`."""
        stem = f"{self.trainer.param.snapshot_prefix}_iter_{iteration}"
        end = ".h5" if self.hdf5 else ""
        return f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}"

    def probe(self) -> None:
        """Refuse a prefix that cannot be written to before hours of training are lost."""
        trainer = self.trainer
        if not trainer.param.snapshot or not trainer.world.is_root:
            return
        probe = f"{trainer.param.snapshot_prefix}_iter_0.tempfile"
        try:
            with open(probe, "wb"):
                pass
            os.unlink(probe)
        except OSError as error:
            raise SnapshotError(
                f"cannot write to snapshot prefix {trainer.param.snapshot_prefix!r} "
                f"({error.strerror}): make sure that the directory exists and is writable",
                where=trainer.place,
            ) from None

    def write(self) -> tuple[str, str]:
        """Write both files (rank 0); the weights first, so that a state implies whole weights."""
        trainer, log = self.trainer, self.trainer.log
        weights, state = self.names(trainer.iter)
        restore = self._average_statistics()
        if trainer.world.is_root:
            if trainer.profile.snapshot_begin_end:
                log.info("solver.cpp:560", "Snapshot begin")
            kind = "HDF5 file" if self.hdf5 else "binary proto file"
            log.info("solver.cpp:464", f"Snapshotting to {kind} {weights}")
            self._write_weights(weights)
            log.info("sgd_solver.cpp:284", f"Snapshotting solver state to {kind} {state}")
            self._write_state(state, weights)
            if trainer.profile.snapshot_begin_end:
                log.info("solver.cpp:580", "Snapshot end")
        for tensor, old in restore:
            with torch.no_grad():
                tensor.copy_(old)
        trainer.world.wait()
        return weights, state

    def _write_weights(self, path: str) -> None:
        net = self.trainer.net
        diffs = self._diffs() if self.trainer.param.snapshot_diff else None
        message = net.to_proto()
        if self.hdf5:
            write_caffemodel_h5(path, message, net.blob_arrays(), diffs=diffs)
        else:
            write_caffemodel(
                path, message, net.blob_arrays(), diffs=diffs, dialect=self.trainer.dialect
            )

    def _diffs(self) -> list[list[np.ndarray]]:
        """What Caffe's diff memory holds after the update: the applied update, by blob."""
        updates = {
            id(item.tensor): value
            for item, value in zip(
                self.trainer.net.learnable, self.trainer.optimizer.diffs(), strict=True
            )
        }
        return [
            [updates[id(blob)].detach().cpu().contiguous().numpy() for blob in raw_blobs(layer)]
            for layer in self.trainer.net.layers
        ]

    def _write_state(self, path: str, weights: str) -> None:
        trainer = self.trainer
        rates = trainer.rates
        state = SolverState(
            iter=trainer.iter,
            learned_net=weights,
            current_step=rates.current_step,
            history=[h.detach().cpu().contiguous().numpy() for h in trainer.optimizer.history],
            minimum_loss=rates.minimum_loss,
            iter_last_event=rates.iter_last_event,
        )
        write_solverstate(path, state, profile_extras=trainer.profile.state_extras)

    def _average_statistics(self) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """BatchNorm statistics are each worker's own: Intel's snapshots hold their mean."""
        trainer = self.trainer
        if trainer.world.size == 1 or not trainer.profile.averages_statistics:
            return []
        blobs = [
            blob
            for step in trainer.net.steps
            if step.node.type == "BatchNorm"
            for blob in raw_blobs(step.layer)[:3]
        ]
        old = [(blob, blob.detach().clone()) for blob in blobs]
        trainer.world.mean(blobs)
        return old

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Take iteration, weights, history and rate state from a .solverstate."""
        trainer = self.trainer
        state = read_solverstate(path)
        trainer.log.info("sgd_solver.cpp:310", f"SGDSolver: restoring history from {path}")
        trainer.optimizer.load_history(state.history)
        if state.learned_net:
            weights = self._find_weights(state.learned_net, Path(path))
            trainer.net.copy_trained_layers_from(load_weights(weights))
        trainer.iter = state.iter
        trainer.rates.current_step = state.current_step
        if state.minimum_loss is not None:
            trainer.rates.minimum_loss = min(float(state.minimum_loss), FLT_MAX)
        trainer.rates.iter_last_event = state.iter_last_event or 0

    @staticmethod
    def _find_weights(name: str, state: Path) -> Path:
        """The learned_net of a state: as written, else beside the state (a moved folder)."""
        places = [Path(name), state.parent / Path(name).name]
        for place in places:
            if place.exists():
                return place
        tried = ", ".join(map(str, places))
        raise SnapshotError(f"the weights {name!r} of this state are not there (tried {tried})",
                            where=str(state))  # fmt: skip
