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

from caffeio.log.glog import NULL_LOG, Log
from caffeio.training.distributed import ALONE, World
from caffeio.training.events import Events
from caffeio.training.job import Job
from caffeio.training.options import TrainFields, TrainOptions, merge_options
from caffeio.training.phases import check_batches, name_of, progress, read_chain
from caffeio.training.trainer import Trainer

__all__ = ["Phase", "progress", "read_chain", "run_chain"]

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
    on_job: Callable[[Job], None] = lambda job: None,
    on_trainer: Callable[[Trainer], None] = lambda trainer: None,
    on_finish: Callable[[Trainer], None] = lambda trainer: None,
    log: Log = NULL_LOG,
    events: Events | None = None,
    jobs: Sequence[Job] | None = None,
    **fields: Unpack[TrainFields],
) -> list[Phase]:
    """Train the solvers one after the other; the options are those of every Trainer.

    `jobs`: what `read_chain` made of the solvers with these options, if that was done already.
    `on_job` is told of a phase before it is built, `on_trainer` when it begins, `on_finish` when it
    has ended and its nets are still there. The options' `weights` start the first phase. Stops
    after a phase that a signal interrupted. Raises SolverError when two phases would write the same
    files, or a phase would not leave weights for the next one; nothing has been trained then.
    """
    options = merge_options(options, fields)
    jobs = read_chain(solvers, options) if jobs is None else jobs
    device = options.device
    owner: World | None = None
    world = ALONE
    requested = ""
    phases: list[Phase] = []
    start = [os.fspath(path) for path in options.weights]
    try:
        for number, job in enumerate(jobs, 1):
            if owner is None or requested != (device or job.requested_device):
                requested = device or job.requested_device
                reason = None if device else job.device_reason
                owner = owner or World.init(requested, reason=reason)
                world = owner.on(requested, reason=reason)
                check_batches(jobs, world.size)
            title = f"phase {number} of {len(jobs)} ({name_of(job)})"
            done, resume = world.broadcast(progress(job) if world.is_root else (False, None))
            if done:
                final = job.snapshot_names(job.param.max_iter)[0]
                note(f"{title} is finished: {final} is there and whole; skipped")
                phases.append(Phase(name_of(job), final, "skipped", job.param.max_iter))
            else:
                on_job(job)
                if start or resume:
                    job.start_from(start, resumes=resume is not None)
                note(f"{title} {f'was interrupted: goes on from {resume}' if resume else 'begins'}")
                chosen = replace(options, snapshot=resume)
                trainer = Trainer(job, chosen, world=world, log=log, events=events)
                phases.append(_train(trainer, on_trainer, on_finish, resumed=resume is not None))
            if phases[-1].status == "stopped":
                break
            start = [phases[-1].weights]
    finally:
        if owner is not None:
            owner.shutdown()
    return phases


def _train(
    trainer: Trainer,
    on_trainer: Callable[[Trainer], None],
    on_finish: Callable[[Trainer], None],
    *,
    resumed: bool,
) -> Phase:
    with trainer:
        job = trainer.job
        on_trainer(trainer)
        trainer.log.info("caffe.cpp:239", "Starting Optimization")
        finished = trainer.solve()
        trainer.log.info("caffe.cpp:250", "Optimization Done.")
        on_finish(trainer)
        status = "stopped" if not finished else "resumed" if resumed else "trained"
        return Phase(name_of(job), job.snapshot_names(trainer.iter)[0], status, trainer.iter)
