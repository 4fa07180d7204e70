"""Caffe's solver types as torch optimizers, and its learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.solver.groups import Learnable as Learnable
    from caffeio.solver.make import make_optimizer as make_optimizer
    from caffeio.solver.optimizer import SOLVERS as SOLVERS
    from caffeio.solver.optimizer import CaffeOptimizer as CaffeOptimizer
    from caffeio.solver.optimizer import solver_type as solver_type
    from caffeio.solver.schedule import learning_rates as learning_rates

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "make_optimizer": "caffeio.solver.make",
        "SOLVERS": "caffeio.solver.optimizer",
        "CaffeOptimizer": "caffeio.solver.optimizer",
        "solver_type": "caffeio.solver.optimizer",
        "Learnable": "caffeio.solver.groups",
        "learning_rates": "caffeio.solver.schedule",
    },
)
