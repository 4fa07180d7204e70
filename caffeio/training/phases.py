"""The phases of a chain before anything is trained: read, held against each other, how far each is.

No torch here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from caffeio.errors import CaffeIOError, SolverError
from caffeio.net.worker_batch import share_batches
from caffeio.proto.weights.load import load_weights
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training.job import Job, read_job, sort_overrides
from caffeio.training.multiphase import read_phases
from caffeio.training.options import TrainFields, TrainOptions, merge_options


def name_of(job: Job) -> str:
    """What messages call a phase: its solver's file, else its net."""
    return str(job.file.path or job.param.net)


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


def check_batches(jobs: Sequence[Job], workers: int) -> None:
    """Raise NetError if `workers` cannot share the batches of all nets of all phases evenly."""
    for job in jobs:
        for spec in job.specs:
            share_batches(spec, workers)


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
                f"{name_of(job)} and {seen[prefix]} have the same snapshot_prefix {prefix!r}: a "
                "chain cannot tell their snapshots apart"
            )
        seen[prefix] = name_of(job)
    for job in jobs[:-1]:
        if not job.writes_final_weights():
            raise SolverError(
                "snapshot_after_train: false, and max_iter is no multiple of snapshot: this phase "
                "would leave no weights for the next one",
                where=job.locate("snapshot_after_train") or job.place,
            )
    return jobs
