"""Caffe's solvers as torch optimizers, the door to `caffeio.solver`.

optimizer = make_optimizer(solver, profile, net.learnable)
schedule, state = Schedule(solver, profile), RateState()
rates = schedule.rates(iteration, state, len(net.learnable))
optimizer.step(rates.used, iteration)
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from caffeio.errors import Locator, SolverError
from caffeio.profiles import BVLC, Profile
from caffeio.solver import rules, sgd
from caffeio.solver.groups import Learnable
from caffeio.solver.optimizer import SOLVERS, CaffeOptimizer, solver_type

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import SolverParameter

__all__ = ["SOLVERS", "CaffeOptimizer", "Learnable", "make_optimizer", "solver_type"]

# The deprecated enum `solver_type`, for solvers that have not been upgraded.
_TYPE_BY_ENUM = {name.upper(): name for name in SOLVERS}
_MODULES = (rules, sgd)  # importing them registers their types


def make_optimizer(
    solver: SolverParameter,
    profile: Profile = BVLC,
    params: Sequence[Learnable] = (),
    *,
    locate: Locator | None = None,
) -> CaffeOptimizer:
    """The optimizer of a solver for the blobs `params`, in Caffe's order (`net.learnable`).

    `locate(field)` gives a field's place in the file, for messages. Raises SolverError for an
    unknown type and for fields that the type refuses.
    """
    name = _type_name(solver)
    if name not in SOLVERS:
        close = get_close_matches(name, SOLVERS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SolverError(
            f"type: Unknown solver type: {name} (known types: {', '.join(sorted(SOLVERS))}){hint}",
            where=locate("type") if locate else None,
        )
    return SOLVERS[name](solver, profile, params, locate=locate)


def _type_name(solver: SolverParameter) -> str:
    if not solver.HasField("solver_type"):
        return solver.type
    if solver.HasField("type"):
        raise SolverError("type: cannot be given together with the old field solver_type")
    return _TYPE_BY_ENUM[type(solver).SolverType.Name(solver.solver_type)]
