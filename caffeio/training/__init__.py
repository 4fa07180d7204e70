"""From a solver to trained weights: jobs, chains of phases, the loop, tests and snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.training.trainer import Trainer as Trainer

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Trainer": "caffeio.training.trainer",
    },
)
