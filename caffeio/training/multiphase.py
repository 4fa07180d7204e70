"""Intel's solver files of several phases: MultiPhaseSolverParameter.

Each `params_pair` is a phase: a batch size, and solver parameters that hold until others come.
Source: sara-nl/caffe include/caffe/training_utils.hpp (multiphase_train).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from caffeio.errors import SolverError
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import SolverFile, parse_file, read_solver
from caffeio.proto.upgrade.upgrade import upgrade_solver


@dataclass
class PhaseFile(SolverFile):
    """The solver parameters of one phase; places are those in the common file."""

    pair: int = 0  # index of the params_pair that they were written in

    def locate(self, *path: str | int) -> str:
        """The place "file:line:column" of a field of this phase's solver_params."""
        return super().locate("params_pair", self.pair, "solver_params", *path)


def read_phases(
    path: str | os.PathLike[str], *, dialect: str | None = None
) -> list[tuple[SolverFile, int | None]]:
    """The solvers in a file, one or more, each with the batch size of its phase if it has one.

    The net is that of the first phase; the files of phase j (from 0) get `_phase_<j>` in their
    prefix. `dialect` is as for `read_solver`. Raises CaffeIOError as it does, and SolverError where
    Caffe stops.
    """
    file = read_solver(path, dialect=dialect)
    if file.text is None or all(item.name != "params_pair" for item in file.unknown):
        return [(file, None)]
    name = str(file.path or "<text>")
    parsed, guess = parse_file(file.text, pb.MultiPhaseSolverParameter, name, dialect)
    pairs = parsed.message.params_pair
    if not pairs or not pairs[0].HasField("solver_params"):
        raise SolverError("the first params_pair must have solver_params", where=name)
    first = pairs[0].solver_params
    phases: list[tuple[SolverFile, int | None]] = []
    owner, batch_size = 0, None
    for j, pair in enumerate(pairs):
        if pair.HasField("solver_params"):
            owner = j
        if pair.HasField("batch_size"):
            batch_size = pair.batch_size
        phase = PhaseFile(file.path, guess.dialect, file.text, parsed.unknown, guess, parsed)
        phase.pair = owner
        solver = pairs[owner].solver_params
        phase.upgraded = upgrade_solver(solver, path=name, locate=phase.locate)
        phase.message = pb.SolverParameter()
        phase.message.CopyFrom(phase.upgraded.message)
        if phase.message.solver_mode != pb.SolverParameter.CPU:
            raise SolverError(
                "phases run on the CPU only: say solver_mode: CPU, or write a solver file for each",
                where=phase.locate("solver_mode"),
            )
        phase.message.net = first.net
        phase.message.snapshot_prefix = f"{first.snapshot_prefix}_phase_{j}"
        phases.append((phase, batch_size))
    return phases
