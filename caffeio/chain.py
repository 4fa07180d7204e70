"""Several solvers in a row: each phase starts from the weights that the last one wrote.

The run can be killed and started again: a phase whose final weights are there and whole is
skipped, a phase that was interrupted goes on from its newest whole snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffeio.errors import CaffeIOError, SolverError
from caffeio.proto.files import read_solver
from caffeio.proto.solverstate import newest_whole_pair
from caffeio.proto.weights import load_weights
from caffeio.trainer import Trainer

Note = Callable[[str], None]


@dataclass
class Phase:
    """One solver of the chain and what became of it."""

    solver: Path
    weights: str  # the final .caffemodel
    status: str  # "trained", "skipped", "resumed" or "stopped"
    iterations: int = 0


def run_chain(
    solvers: Sequence[str | os.PathLike[str]],
    *,
    weights: Sequence[str] = (),
    note: Note = lambda text: None,
    on_trainer: Callable[[Trainer], None] = lambda trainer: None,
    **options: Any,
) -> list[Phase]:
    """Train the solvers one after the other; `options` go to every Trainer.

    `weights` start the first phase. Stops after a phase that a signal interrupted. Raises
    SolverError when two phases would write the same files.
    """
    _check_prefixes(solvers, options)
    phases: list[Phase] = []
    start = list(weights)
    for number, solver in enumerate(solvers, 1):
        title = f"phase {number} of {len(solvers)} ({solver})"
        trainer = Trainer(solver, weights=start, **options)
        on_trainer(trainer)
        try:
            phase = _run_phase(trainer, Path(solver), title, note)
        finally:
            trainer.close()
        phases.append(phase)
        if phase.status == "stopped":
            break
        start = [phase.weights]
    return phases


def _run_phase(trainer: Trainer, solver: Path, title: str, note: Note) -> Phase:
    final = trainer.snapshots.names(trainer.param.max_iter)[0]
    done, resume = trainer.world.share(_progress(trainer, final))
    if done:
        note(f"{title} is finished: {final} is there and whole; skipped")
        return Phase(solver, final, "skipped", trainer.param.max_iter)
    if resume:
        note(f"{title} was interrupted: going on from {resume}")
        trainer.log.info("caffe.cpp:225", f"Resuming from {resume}")
    else:
        note(f"{title} begins")
    trainer.log.info("caffe.cpp:239", "Starting Optimization")
    finished = trainer.solve(resume)
    trainer.log.info("caffe.cpp:250", "Optimization Done.")
    written = trainer.snapshots.names(trainer.iter)[0]
    status = "stopped" if not finished else "resumed" if resume else "trained"
    return Phase(solver, written, status, trainer.iter)


def _progress(trainer: Trainer, final: str) -> tuple[bool, str | None]:
    """Whether the phase is finished, and if not the state to go on from."""
    if os.path.exists(final):
        try:
            load_weights(final)
            return True, None
        except CaffeIOError:
            pass  # half a file: an older snapshot may be whole
    pair = newest_whole_pair(trainer.param.snapshot_prefix)
    if pair is None or pair[2] > trainer.param.max_iter:
        return False, None
    return False, str(pair[0])


def _check_prefixes(solvers: Sequence[str | os.PathLike[str]], options: dict[str, Any]) -> None:
    changes = [str(o).replace(" ", "") for o in options.get("overrides", ())]
    if any(change.startswith("snapshot_prefix=") for change in changes):
        raise SolverError(
            "--set snapshot_prefix would make the phases of a chain overwrite each other's "
            "snapshots: set it in the solver files"
        )
    seen: dict[str, str] = {}
    for solver in solvers:
        prefix = read_solver(solver).message.snapshot_prefix or os.path.splitext(solver)[0]
        prefix = os.path.abspath(prefix)
        if prefix in seen:
            raise SolverError(
                f"{solver} and {seen[prefix]} have the same snapshot_prefix {prefix!r}: a chain "
                "cannot tell their snapshots apart"
            )
        seen[prefix] = str(solver)
