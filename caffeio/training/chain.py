"""Several solvers in a row: each phase starts from the weights that the last one wrote.

The run can be killed and started again: a phase whose final weights are there and whole is
skipped (its data is not even opened), one that was interrupted goes on from its newest whole
snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from caffeio.errors import CaffeIOError, SolverError
from caffeio.log.glog import NULL_LOG, Log
from caffeio.proto.weights.load import load_weights
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training.distributed import ALONE, World
from caffeio.training.events import Events
from caffeio.training.job import Job, read_job, sort_overrides
from caffeio.training.multiphase import read_phases
from caffeio.training.options import TrainFields, TrainOptions, merge_options
from caffeio.training.trainer import Trainer

Note = Callable[[str], None]


@dataclass
class Phase:
    """One solver of the chain and what became of it."""

    solver: str
    weights: str  # the final .caffemodel
    status: str  # "trained", "skipped", "resumed" or "stopped"
    iterations: int = 0


def run_chain(
    solvers: Sequence[str | os.PathLike[str]],
    options: TrainOptions | None = None,
    *,
    note: Note = lambda text: None,
    on_trainer: Callable[[Trainer], None] = lambda trainer: None,
    log: Log = NULL_LOG,
    events: Events | None = None,
    **fields: Unpack[TrainFields],
) -> list[Phase]:
    """Train the solvers one after the other; the options are those of every Trainer.

    Their `weights` start the first phase. Stops after a phase that a signal interrupted. Raises
    SolverError when two phases would write the same files, or a phase would not leave weights for
    the next one; nothing has been trained then.
    """
    options = merge_options(options, fields)
    jobs = read_chain(solvers, options)
    device = options.device
    owner: World | None = None
    world = ALONE
    wanted = ""
    phases: list[Phase] = []
    start = [os.fspath(path) for path in options.weights]
    try:
        for number, job in enumerate(jobs, 1):
            if owner is None or wanted != (device or job.wanted_device):
                wanted = device or job.wanted_device
                reason = None if device else job.device_reason
                owner = owner or World.join(wanted, reason=reason)
                world = owner.on(wanted, reason=reason)
            title = f"phase {number} of {len(jobs)} ({_name(job)})"
            done, resume = world.broadcast(progress(job) if world.is_root else (False, None))
            if done:
                final = job.snapshot_names(job.param.max_iter)[0]
                note(f"{title} is finished: {final} is there and whole; skipped")
                phases.append(Phase(_name(job), final, "skipped", job.param.max_iter))
            else:
                if start or resume:
                    job.start_from(start, resumes=resume is not None)
                note(f"{title} {f'was interrupted: goes on from {resume}' if resume else 'begins'}")
                chosen = replace(options, snapshot=resume)
                trainer = Trainer(job, chosen, world=world, log=log, events=events)
                phases.append(_train(trainer, on_trainer, resumed=resume is not None))
            if phases[-1].status == "stopped":
                break
            start = [phases[-1].weights]
    finally:
        if owner is not None:
            owner.leave()
    return phases


def _name(job: Job) -> str:
    return str(job.file.path or job.param.net)


def _train(trainer: Trainer, on_trainer: Callable[[Trainer], None], *, resumed: bool) -> Phase:
    with trainer:
        job = trainer.job
        on_trainer(trainer)
        trainer.log.info("caffe.cpp:239", "Starting Optimization")
        finished = trainer.solve()
        trainer.log.info("caffe.cpp:250", "Optimization Done.")
        status = "stopped" if not finished else "resumed" if resumed else "trained"
        return Phase(_name(job), job.snapshot_names(trainer.iter)[0], status, trainer.iter)


def progress(job: Job) -> tuple[bool, str | None]:
    """Whether the phase is finished, and if not the state to go on from."""
    final = job.snapshot_names(job.param.max_iter)[0]
    if os.path.exists(final) and _is_whole(final, job):
        return True, None
    pair = newest_whole_pair(job.param.snapshot_prefix)
    if pair is None or pair[2] > job.param.max_iter:
        return False, None
    return False, str(pair[0])


def _is_whole(path: str, job: Job) -> bool:
    """Whether a file can be read to its end, and ends with the net's last layer.

    A binary file that was cut off between two layers is well-formed: its length tells nothing.
    """
    try:
        layers = load_weights(path).layers
    except CaffeIOError:
        return False
    if job.hdf5:
        return bool(layers)  # a cut-off HDF5 file cannot be read
    nodes = job.train.graph().nodes
    return bool(layers) and layers[-1].name == nodes[-1].name


def read_chain(
    solvers: Sequence[str | os.PathLike[str]],
    options: TrainOptions | None = None,
    **fields: Unpack[TrainFields],
) -> list[Job]:
    """The jobs of all phases; a file of Intel's MultiPhaseSolverParameter holds several.

    Raises SolverError if the phases do not form a chain.
    """
    options = replace(merge_options(options, fields), weights=(), snapshot=None)
    changes = sort_overrides(options.overrides)[0]
    if len(solvers) > 1 and any(o.replace(" ", "").startswith("snapshot_prefix") for o in changes):
        raise SolverError(
            "--set snapshot_prefix would make the phases of a chain overwrite each other's "
            "snapshots: set it in the solver files"
        )
    jobs = [
        read_job(file, options, batch_size=batch_size)
        for solver in solvers
        for file, batch_size in read_phases(solver)
    ]
    seen: dict[str, str] = {}
    for job in jobs:
        prefix = os.path.abspath(job.param.snapshot_prefix)
        if prefix in seen:
            raise SolverError(
                f"{_name(job)} and {seen[prefix]} have the same snapshot_prefix {prefix!r}: a "
                "chain cannot tell their snapshots apart"
            )
        seen[prefix] = _name(job)
    for job in jobs[:-1]:
        if not job.writes_final_weights():
            raise SolverError(
                "snapshot_after_train: false, and max_iter is no multiple of snapshot: this phase "
                "would leave no weights for the next one",
                where=job.where("snapshot_after_train") or job.place,
            )
    return jobs
