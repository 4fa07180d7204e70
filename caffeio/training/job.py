"""A training as its files ask for it: read, changed by options and checked, but not yet built.

A chain looks at the jobs of all its phases before it builds the first net. No torch here.
Source: tools/caffe.cpp (train), src/caffe/util/upgrade_proto.cpp (UpgradeSnapshotPrefixProperty).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from caffeio.errors import CaffeIOError, SnapshotError, SolverError
from caffeio.net.recipe import NetRecipe
from caffeio.net.unknown_fields import refuse_unknown
from caffeio.profiles import Profile, choose_profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import SolverFile, read_solver
from caffeio.proto.io.regular import check_name
from caffeio.proto.text.fieldpath import parse_assignment
from caffeio.proto.text.overrides import apply_overrides
from caffeio.solver.fields import check_net, check_solver
from caffeio.training.net_specs import (
    field_paths,
    find_file,
    override_nets,
    solver_folder,
    test_specs,
    train_spec,
)
from caffeio.training.options import TrainFields, TrainOptions, merge_options


@dataclass
class Job:
    """One solver with its nets, ready to be built; made by `read_job`."""

    file: SolverFile
    train: NetRecipe
    tests: list[NetRecipe]
    dialect: str
    profile: Profile
    weights: list[str] = field(default_factory=list)  # files to start from, later ones win
    notes: list[str] = field(default_factory=list)  # fields that have no effect here
    # Caffe's lines about the solver file, each with its severity
    upgrade_log: list[tuple[str, str]] = field(default_factory=list)

    @property
    def param(self) -> pb.SolverParameter:
        """The solver, with all changes made."""
        return self.file.message

    @property
    def specs(self) -> Iterator[NetRecipe]:
        """The training net, then the test nets."""
        yield self.train
        yield from self.tests

    @property
    def place(self) -> str | None:
        """The solver's file, for messages."""
        return str(self.file.path) if self.file.path else None

    def locate(self, *path: str | int) -> str:
        """The place of a solver field, for messages; empty if the solver is no file."""
        return self.file.locate(*path) if self.file.path else ""

    def find_weights(self, name: str) -> str:
        """The path of a weights file: as given, else near the solver. Raises CaffeIOError."""
        folder = solver_folder(self.file)
        return str(find_file(name, folder, what="weights file", where=self.place))

    def start_from(
        self, weights: Sequence[str | os.PathLike[str]], *, resumes: bool = False
    ) -> None:
        """Let `weights` replace the solver's own, as -weights does; -snapshot clears them."""
        self.weights = [] if resumes else [os.fspath(path) for path in weights]
        del self.param.weights[:]
        if self.weights and self.profile.weights_in_solver:
            names = ",".join(self.weights)  # protobuf takes no bytes that are not UTF-8
            self.param.weights.append(os.fsencode(names).decode("utf-8", "backslashreplace"))

    @property
    def hdf5(self) -> bool:
        """Whether snapshots are HDF5 files."""
        return self.param.snapshot_format == pb.SolverParameter.HDF5

    def snapshot_names(self, iteration: int) -> tuple[str, str]:
        """Paths of the weights and of the state of `iteration`."""
        stem = f"{self.param.snapshot_prefix}_iter_{iteration}"
        end = ".h5" if self.hdf5 else ""
        return f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}"

    def writes_final_weights(self) -> bool:
        """Whether a run to max_iter ends with a snapshot."""
        every = self.param.snapshot
        return self.param.snapshot_after_train or bool(every and self.param.max_iter % every == 0)

    def probe_prefix(self) -> None:
        """Refuse a prefix that cannot be written to before hours of training are lost."""
        probe = f"{self.param.snapshot_prefix}_iter_0.tempfile"
        try:
            check_name(probe)
            if not self.param.snapshot:
                return
            with open(probe, "wb"):
                pass
            os.unlink(probe)
        except OSError as error:
            raise SnapshotError(
                f"cannot write to snapshot prefix {self.param.snapshot_prefix!r} "
                f"({error.strerror}): make sure that the directory exists and is writable",
                where=self.place,
            ) from None

    @property
    def requested_device(self) -> str:
        """The device that solver_mode asks for: "cpu" or "cuda[:device_id]".

        BVLC uses a GPU only where solver_mode says so; Intel's default is the enum's, GPU.
        """
        gpu = self.param.solver_mode == pb.SolverParameter.GPU
        if not self.param.HasField("solver_mode") and not self.profile.solver_mode_default_gpu:
            gpu = False
        if not gpu:
            return "cpu"
        return f"cuda:{self.param.device_id}" if self.param.HasField("device_id") else "cuda"

    @property
    def device_reason(self) -> str:
        """Why `requested_device` is what it is, for messages."""
        if self.param.HasField("solver_mode"):
            place = self.locate("solver_mode")
            return f"solver_mode: GPU{f' at {place}' if place else ''}"
        return f"solver_mode is not given: Caffe {self.profile.name!r} takes this for GPU"


def read_job(
    solver: str | os.PathLike[str] | SolverFile,
    options: TrainOptions | None = None,
    *,
    batch_size: int | None = None,
    **fields: Unpack[TrainFields],
) -> Job:
    """Read a solver and its nets and apply the options, as a whole or as keywords.

    `batch_size` goes into the first Data layer of the file, in all its nets. Raises CaffeIOError:
    ParseError, SolverError, UnsupportedError.
    """
    options = merge_options(options, fields)
    file = solver if isinstance(solver, SolverFile) else read_solver(solver)
    if not options.ignore_unknown:
        refuse_unknown(file.unknown)
    of_solver, of_nets = sort_overrides(options.overrides)
    try:
        apply_overrides(file.message, of_solver)
    except CaffeIOError as error:
        raise _with_layers(error, file, of_solver) from None
    _set_state(file.message, options.stages, options.level)
    specs = [train_spec(file), *test_specs(file)]
    if batch_size is not None:
        _set_batch_size(specs, batch_size)
    override_nets(specs, of_nets)
    for spec in specs:
        spec.check_unknown(options.ignore_unknown)
    dialect = specs[0].dialect if file.dialect == "bvlc" else file.dialect
    chosen = choose_profile(options.profile, file.dialect, file.message, specs[0].dialect)
    specs = [replace(spec, profile=chosen, allow_python=options.allow_python) for spec in specs]
    job = Job(file, specs[0], specs[1:], dialect, chosen)
    given = [w.strip() for entry in job.param.weights for w in entry.split(",")]
    job.weights = [w for w in given if w]
    job.upgrade_log += file.upgraded.log if file.upgraded else []
    job.notes = check_solver(job.param, chosen, job.locate)
    for spec in specs:
        job.notes += [n for n in check_net(spec.message, spec.title) if n not in job.notes]
    if options.weights or options.snapshot is not None:
        job.start_from(options.weights, resumes=options.snapshot is not None)
    _set_prefix(job)
    _check_fields(job)
    return job


def sort_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """`KEY=VALUE` changes of the solver and of its nets: a key that only a net has is a net's."""
    of_solver: list[str] = []
    of_nets: list[str] = []
    for override in overrides:
        name = parse_assignment(override)[0][0].name
        in_solver = name in pb.SolverParameter.DESCRIPTOR.fields_by_name
        in_net = name in pb.NetParameter.DESCRIPTOR.fields_by_name
        (of_nets if in_net and not in_solver else of_solver).append(override)
    return of_solver, of_nets


def _with_layers(error: CaffeIOError, file: SolverFile, overrides: Sequence[str]) -> CaffeIOError:
    """The error of an override; a field that layers have is named with its layer."""
    for override in overrides:
        steps, _, value = parse_assignment(override)
        name = steps[0].name
        if len(steps) > 1 or name in pb.SolverParameter.DESCRIPTOR.fields_by_name:
            continue
        try:
            paths = field_paths(train_spec(file).message, name)
        except CaffeIOError:
            return error
        if paths:
            return CaffeIOError(
                f"{name}: a solver has no such field, but its net does: --set '{paths[0]}={value}'"
            )
    return error


def _set_state(param: pb.SolverParameter, stages: Sequence[str], level: int) -> None:
    """`caffe train` always writes level and stages into train_state."""
    param.train_state.level = level
    param.train_state.stage.extend(stages or [""])


def _set_batch_size(specs: Sequence[NetRecipe], batch_size: int) -> None:
    for spec in specs:
        data = next((layer for layer in spec.message.layer if layer.type == "Data"), None)
        if data is not None:
            data.data_param.batch_size = batch_size


def _set_prefix(job: Job) -> None:
    """A missing snapshot_prefix is the solver's own path without its suffix (BVLC)."""
    param = job.param
    if not job.profile.prefix_from_solver_file:
        if param.snapshot and not param.HasField("snapshot_prefix"):
            raise SolverError("snapshot is specified but snapshot_prefix is not", where=job.place)
        return
    if job.file.path is None:
        return
    stem = os.path.splitext(os.fspath(job.file.path))[0]
    if not param.HasField("snapshot_prefix"):
        param.snapshot_prefix = stem
        line = f"snapshot_prefix was not specified and is set to {stem}"
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, os.path.basename(stem))
        line = f"snapshot_prefix was a directory and is replaced to {param.snapshot_prefix}"
    else:
        return
    job.upgrade_log.append(("I", line))


def _check_fields(job: Job) -> None:
    param = job.param
    for name in ("average_loss", "iter_size"):
        if getattr(param, name) < 1:
            raise SolverError(
                f"{name} must be 1 or more, not {getattr(param, name)}",
                where=job.locate(name) or None,
            )
    if param.eval_type not in ("classification", "detection"):
        raise SolverError(
            f"eval_type must be classification or detection, not {param.eval_type!r}",
            where=job.locate("eval_type") or None,
        )
