"""Snapshots: `<prefix>_iter_<N>` weights and state, written so that the last good pair survives.

Source: src/caffe/solver.cpp (Snapshot, SnapshotFilename, CheckSnapshotWritePermissions),
src/caffe/solvers/sgd_solver.cpp (SnapshotSolverState, RestoreSolverState).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from caffeio.errors import SnapshotError
from caffeio.net.save import owned_arrays
from caffeio.net.step import raw_blobs
from caffeio.proto.weights.load import load_weights
from caffeio.proto.weights.solverstate import SolverState, read_solverstate
from caffeio.solver.schedule import FLT_MAX, RateState
from caffeio.training.net_lines import log_upgrade_of_weights
from caffeio.training.snapshot_pair import BackgroundWriter, SnapshotPair
from caffeio.training.state import TrainingState

_MAX_INT = 2**31 - 1  # iter and current_step are int32
PATIENCE = 10.0  # seconds that a rescue waits for a snapshot or an update that goes on
_RESCUE = 120.0  # seconds that a rescue may last when the process is to end


class Snapshots:
    """Writes and restores the snapshots of one training."""

    def __init__(self, training: TrainingState, *, background: bool = False) -> None:
        """`background`: write while the training goes on, from a copy of the numbers."""
        self.training = training
        self.background = background
        self._writer = BackgroundWriter()
        self.hdf5 = training.job.hdf5
        self._averaged = False
        self.writing = False
        self.last = training.iter  # iteration of the newest pair; nothing is lost before the first

    def names(self, iteration: int) -> tuple[str, str]:
        """Paths of the weights and of the state of `iteration`."""
        return self.training.job.snapshot_names(iteration)

    def write(self, *, together: bool = True, background: bool | None = None) -> tuple[str, str]:
        """Write both files (rank 0); the weights first, so that a state implies whole weights.

        All workers must call it, and wait for the files, unless not `together`: then the root
        alone does. In the `background` (None: as `async_snapshots` says) the numbers are copied
        and nobody waits. Raises SnapshotError if the disk is full, say: the last pair is still
        there.
        """
        training = self.training
        background = self.background if background is None else background
        self.settle()
        weights, state = self.names(training.iter)
        with self.averaged_statistics():
            if training.world.is_root:
                self._write(weights, state, background)
        if not background:
            if together:
                training.world.barrier()
            self._tell(weights, state)
        return weights, state

    def _write(self, weights: str, state: str, background: bool, whole: bool = False) -> None:
        with self.training.kept.guard:
            self.writing = True
            try:
                self._write_pair(weights, state, background, whole)
            finally:
                self.writing = False

    def _write_pair(self, weights: str, state: str, background: bool, whole: bool) -> None:
        training, log = self.training, self.training.log
        if training.profile.snapshot_begin_end:
            log.info("solver.cpp:560", "Snapshot begin")
        kind = "HDF5 file" if self.hdf5 else "binary proto file"
        log.info("solver.cpp:464", f"Snapshotting to {kind} {weights}")
        pair = self._pair(weights, state, whole)

        def between() -> None:
            log.info("sgd_solver.cpp:284", f"Snapshotting solver state to {kind} {state}")

        if background:
            between()
            on_cpu = self.training.world.device.type == "cpu"  # else these are copies already
            self._writer.start(pair.copied() if on_cpu else pair)
            return
        pair.write(between)
        self._written()

    def _written(self, iteration: int | None = None) -> None:
        self.last = self.training.iter if iteration is None else iteration
        if self.training.profile.snapshot_begin_end:
            self.training.log.info("solver.cpp:580", "Snapshot end")

    def _tell(self, weights: str, state: str) -> None:
        if self.training.events.snapshot is not None:
            self.training.events.snapshot(weights, state)

    def settle(self, *, wait: bool = True, together: bool = False) -> None:
        """Take note of a snapshot that was written in the background; `wait` for it to be.

        The root alone has something to wait for, and all workers with it if all call this
        `together`. Raises SnapshotError if it could not be written.
        """
        with self.training.kept.guard:  # a thread that rescues a training settles too
            pair = self._writer.finish(wait=wait)
            if pair is not None:
                self._written(pair.solver.iter)
        if pair is not None:
            self._tell(pair.weights, pair.state)
        if together and self.background:
            self.training.world.barrier()

    def close(self) -> None:
        """Wait for the pair that is being written, and stop the thread.

        Raises SnapshotError if it could not be written.
        """
        try:
            self.settle()
        finally:
            self._writer.close()

    def rescue(self, why: str = "Training fails", *, patience: float = PATIENCE) -> None:
        """Try to save the work of a training that fails; the root alone does, nothing is raised.

        Not within an update, not twice for one iteration, and only where snapshots are wanted;
        what an iteration that is not whole has changed is left out. Intel's mean statistics would
        need all workers. Any thread may call it: it waits `patience` seconds for a snapshot or an
        update of the main thread.
        """
        training = self.training
        guard = training.kept.guard
        if not guard.acquire(timeout=patience):
            return
        try:
            with contextlib.suppress(Exception):
                self.settle()
            if self._worth_a_rescue():
                text = f"{why}: a snapshot of iteration {training.iter} is tried"
                training.log.note(text, "E")
                with contextlib.suppress(Exception):
                    names = self.names(training.iter)
                    self._write(*names, background=False, whole=True)
                    self._tell(*names)
        finally:
            guard.release()

    def rescue_in_time(self, why: str = "Training fails") -> None:
        """Rescue in a thread of its own, which a GPU or a disk that does not answer may hold up."""
        thread = threading.Thread(target=self.rescue, args=(why,), daemon=True)
        thread.start()
        thread.join(_RESCUE)

    def _worth_a_rescue(self) -> bool:
        training = self.training
        wanted = training.param.snapshot or training.param.snapshot_after_train
        if not (training.world.is_root and training.whole and wanted):
            return False
        if training.world.size > 1 and training.profile.averages_statistics:
            return False
        return self.last != training.iter

    def _pair(self, weights: str, state: str, whole: bool) -> SnapshotPair:
        """What is written; only what the last `whole` iteration left, or all as it is now."""
        net, job, kept = self.training.net, self.training.job, self.training.kept
        blobs = owned_arrays(net) if self.hdf5 else net.blob_arrays()
        for layer, blob, value in kept.moved() if whole else ():
            array = blobs[layer][blob]
            if array is not None:
                blobs[layer][blob] = value.cpu().numpy().reshape(array.shape)
        return SnapshotPair(
            weights,
            state,
            net.to_proto(),
            blobs,
            self._diffs() if self.training.param.snapshot_diff else None,
            self._solver_state(weights, kept.rates() if whole else self.training.rates),
            self.hdf5,
            job.dialect,
            self.training.profile.state_extras,
        )

    def _diffs(self) -> list[list[np.ndarray]]:
        """What Caffe's diff memory holds after the update: the applied update, by blob."""
        updates = {
            id(item.tensor): value
            for item, value in zip(
                self.training.net.learnable, self.training.optimizer.diffs(), strict=True
            )
        }
        return [
            [
                updates[id(blob)].detach().cpu().contiguous().numpy().reshape(spec.shape)
                for blob, spec in zip(raw_blobs(layer), layer.blob_specs, strict=True)
            ]
            for layer in self.training.net.layers
        ]

    def _solver_state(self, weights: str, rates: RateState) -> SolverState:
        training = self.training
        return SolverState(
            iter=training.iter,
            learned_net=weights,
            current_step=rates.current_step,
            history=[h.detach().cpu().contiguous().numpy() for h in training.optimizer.history],
            minimum_loss=rates.minimum_loss,
            iter_last_event=rates.iter_last_event,
        )

    @contextlib.contextmanager
    def averaged_statistics(self) -> Iterator[None]:
        """BatchNorm statistics are each worker's own: Intel tests and saves their mean."""
        training = self.training
        if training.world.size == 1 or not training.profile.averages_statistics or self._averaged:
            yield
            return
        blobs = [
            blob
            for step in training.net.steps
            if step.node.type == "BatchNorm"
            for blob in raw_blobs(step.layer)[:3]
        ]
        old = [blob.detach().clone() for blob in blobs]
        training.world.all_reduce_mean(blobs)
        self._averaged = True
        try:
            yield
        finally:
            self._averaged = False
            with torch.no_grad():
                for blob, value in zip(blobs, old, strict=True):
                    blob.copy_(value)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Take iteration, weights, history and rate state from a .solverstate.

        Weights and history are checked before anything changes.
        """
        training = self.training
        self.settle()
        state = read_solverstate(path)
        weights = None
        if state.learned_net:
            weights = self._find_weights(state.learned_net, Path(path))
        try:
            self._check(state)
            training.optimizer.check_history(state.history)
        except SnapshotError as error:
            raise SnapshotError(error.message, where=os.fspath(path)) from None
        loaded = None if weights is None else load_weights(weights)
        if loaded is not None:
            log_upgrade_of_weights(training.log, loaded.path, training.profile)
        with training.kept.guard:
            ignored = [] if loaded is None else training.net.copy_trained_layers_from(loaded)
            self._take(state)
        for name in ignored:
            training.log.info("net.cpp:744", f"Ignoring source layer {name}")
        if not os.fspath(path).endswith(".h5"):
            training.log.info("sgd_solver.cpp:336", "SGDSolver: restoring history")

    def _take(self, state: SolverState) -> None:
        training = self.training
        training.optimizer.load_history(state.history)
        training.iter = self.last = state.iter
        training.rates.current_step = state.current_step
        if state.minimum_loss is not None:
            training.rates.minimum_loss = min(float(state.minimum_loss), FLT_MAX)
        training.rates.iter_last_event = state.iter_last_event or 0

    def _check(self, state: SolverState) -> None:
        """Raise SnapshotError for numbers that no training writes; warn of odd ones."""
        log, stop = self.training.log, self.training.param.max_iter
        for name, value in (("iter", state.iter), ("current_step", state.current_step)):
            if not 0 <= value <= _MAX_INT:
                raise SnapshotError(f"{name} is {value}; it must be between 0 and {_MAX_INT}")
        if state.iter > stop:
            log.note(f"The state is of iteration {state.iter}, behind max_iter {stop}", "W")
        for i, blob in enumerate(state.history):
            if not np.isfinite(blob).all():
                log.note(f"History blob {i} of the state has values that are not finite", "W")

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
