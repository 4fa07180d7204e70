"""TrainOptions: what a user may choose of a training, from the command line to the Trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from caffeio.errors import SolverError
from caffeio.profiles import Profile

if TYPE_CHECKING:
    from caffeio.data.base import Options

PathLike = str | os.PathLike[str]
PRECISIONS = ("fp32", "bf16")
GRADIENTS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class TrainOptions:
    """How one solver, or every solver of a chain, is read and trained.

    weights: files to start from, later ones win; they replace those that the solver's own
        `weights` field names.
    snapshot: the path of a .solverstate to go on from; no weights are loaded then.
    overrides: `KEY=VALUE` changes of solver fields, or of net fields
        (`layer[NAME].data_param.source=...`).
    profile: whose numbers are computed; None: those that the files were written for.
    stages, level: of the training net's state.
    ignore_unknown: go on although a file has fields that no known Caffe has.
    allow_python: run the code that Python layers name.
    device: "cpu", "cuda", "cuda:N" or "auto"; None obeys solver_mode.
    precision: "bf16" trains faster, with other numbers than Caffe's.
    compile: trace the net with torch.compile.
    gradients: the type in which workers exchange gradients; 16 bits halve the traffic, and round.
    cuda_graph: record an iteration as a CUDA graph and replay it (one GPU, batches of one shape).
    async_snapshots: snapshots are written while the training goes on, from a copy in memory.
    data_options: how data sources are read, apart from the worker's share and device.

    Raises SolverError for an unknown type of numbers.
    """

    weights: Sequence[PathLike] = ()
    snapshot: PathLike | None = None
    overrides: Sequence[str] = ()
    profile: str | Profile | None = None
    stages: Sequence[str] = ()
    level: int = 0
    ignore_unknown: bool = False
    allow_python: bool = False
    device: str | None = None
    precision: str = "fp32"
    compile: bool = False
    gradients: str = "fp32"
    cuda_graph: bool = False
    async_snapshots: bool = False
    data_options: Options | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SolverError(f"precision is {' or '.join(PRECISIONS)}, not {self.precision!r}")
        if self.gradients not in GRADIENTS:
            raise SolverError(f"gradients are {', '.join(GRADIENTS)}, not {self.gradients!r}")


class TrainFields(TypedDict, total=False):
    """The fields of TrainOptions as keywords of a function."""

    weights: Sequence[PathLike]
    snapshot: PathLike | None
    overrides: Sequence[str]
    profile: str | Profile | None
    stages: Sequence[str]
    level: int
    ignore_unknown: bool
    allow_python: bool
    device: str | None
    precision: str
    compile: bool
    gradients: str
    cuda_graph: bool
    async_snapshots: bool
    data_options: Options | None


def merge_options(options: TrainOptions | None, fields: TrainFields) -> TrainOptions:
    """The options with some fields changed."""
    return replace(options or TrainOptions(), **fields)
