"""Several solvers in a row: each phase starts from the weights that the last one wrote.

The run can be killed and started again: a phase whose final weights are there and whole is
skipped (its data is not even opened), one that was interrupted goes on from its newest whole
snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from caffeio.errors import CaffeIOError, SolverError
from caffeio.proto.weights.load import load_weights
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training.distributed import World
from caffeio.training.job import Job, read_job, sort_overrides
from caffeio.training.multiphase import read_phases
from caffeio.training.trainer import Trainer

Note = Callable[[str], None]
_OF_JOB = ("overrides", "profile", "stages", "level", "ignore_unknown")


@dataclass
class Phase:
    """One solver of the chain and what became of it."""

    solver: str
    weights: str  # the final .caffemodel
    status: str  # "trained", "skipped", "resumed" or "stopped"
    iterations: int = 0


def run_chain(
    solvers: Sequence[str | os.PathLike[str]],
    *,
    weights: Sequence[str | os.PathLike[str]] = (),
    note: Note = lambda text: None,
    on_trainer: Callable[[Trainer], None] = lambda trainer: None,
    device: str | None = None,
    **options: Any,
) -> list[Phase]:
    """Train the solvers one after the other; `options` go to every Trainer.

    `weights` start the first phase. Stops after a phase that a signal interrupted. Raises
    SolverError when two phases would write the same files, or a phase would not leave weights for
    the next one; nothing has been trained then.
    """
    jobs = read_chain(solvers, **{key: options.pop(key) for key in _OF_JOB if key in options})
    world: World | None = None
    wanted = ""
    phases: list[Phase] = []
    start = [os.fspath(path) for path in weights]
    try:
        for number, job in enumerate(jobs, 1):
            if world is None or wanted != (device or job.wanted_device):
                wanted = device or job.wanted_device
                world = World.join(wanted, reason=None if device else job.device_reason)
            title = f"phase {number} of {len(jobs)} ({_name(job)})"
            done, resume = world.share(progress(job) if world.is_root else None)
            if done:
                final = job.snapshot_names(job.param.max_iter)[0]
                note(f"{title} is finished: {final} is there and whole; skipped")
                phases.append(Phase(_name(job), final, "skipped", job.param.max_iter))
            else:
                if start or resume:
                    job.start_from(start, resumes=resume is not None)
                note(f"{title} {f'was interrupted: goes on from {resume}' if resume else 'begins'}")
                phases.append(_train(job, world, resume, on_trainer, device, options))
            if phases[-1].status == "stopped":
                break
            start = [phases[-1].weights]
    finally:
        if world is not None:
            world.leave()
    return phases


def _name(job: Job) -> str:
    return str(job.file.path or job.param.net)


def _train(
    job: Job,
    world: World,
    resume: str | None,
    on_trainer: Callable[[Trainer], None],
    device: str | None,
    options: dict[str, Any],
) -> Phase:
    with Trainer(job, world=world, snapshot=resume, device=device, **options) as trainer:
        on_trainer(trainer)
        trainer.log.info("caffe.cpp:239", "Starting Optimization")
        finished = trainer.solve()
        trainer.log.info("caffe.cpp:250", "Optimization Done.")
        status = "stopped" if not finished else "resumed" if resume else "trained"
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


def read_chain(solvers: Sequence[str | os.PathLike[str]], **options: Any) -> list[Job]:
    """The jobs of all phases; a file of Intel's MultiPhaseSolverParameter holds several.

    `options` are those of `read_job`. Raises SolverError if the phases do not form a chain.
    """
    changes = sort_overrides(options.get("overrides", ()))[0]
    if len(solvers) > 1 and any(o.replace(" ", "").startswith("snapshot_prefix") for o in changes):
        raise SolverError(
            "--set snapshot_prefix would make the phases of a chain overwrite each other's "
            "snapshots: set it in the solver files"
        )
    jobs = [
        read_job(file, batch_size=batch_size, **options)
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
