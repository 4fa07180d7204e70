"""What `caffeio train` puts around the library: workers, log sink, signals."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffeio.cli import _given
from caffeio.cli._python import permit
from caffeio.cli._signals import Signals
from caffeio.errors import CaffeIOError, SolverError
from caffeio.gpus import require_gpu
from caffeio.layers.registry import is_loss_type
from caffeio.log.glog import NULL_LOG, Log
from caffeio.profiles import get_profile
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.solver.schedule import Schedule
from caffeio.training.events import Events
from caffeio.training.job import Job, read_job
from caffeio.training.multiphase import read_phases
from caffeio.training.options import TrainOptions
from caffeio.training.phases import progress, read_chain

if TYPE_CHECKING:
    from caffeio.cli._watch import Watcher
    from caffeio.training.trainer import Trainer


def chosen_gpus(options: dict[str, Any]) -> list[str] | None:
    """The GPUs that -gpu names; None for all of them, or without -gpu. A usage error if wrong."""
    gpu = (options["gpu"] or "").strip()
    if not gpu:
        return None
    chosen = None if gpu == "all" else [part.strip() for part in gpu.split(",")]
    if chosen is not None and not all(part.isdigit() for part in chosen):
        raise click.UsageError(f"-gpu takes 'all' or numbers such as 0,1; this is {gpu!r}.")
    if options["device"] == "cpu":
        raise click.UsageError("--device cpu and -gpu contradict each other.")
    if chosen is not None and options["nproc"] not in (None, len(chosen)):
        raise click.UsageError(
            f"-gpu {gpu} means {len(chosen)} workers, not --nproc {options['nproc']}."
        )
    return chosen


def worker_count(options: dict[str, Any]) -> int:
    """How many workers this machine runs: --nproc, or one a GPU of -gpu, which it then sees."""
    gpu, chosen = (options["gpu"] or "").strip(), chosen_gpus(options)
    if not gpu:
        return int(options["nproc"] or 1)
    if chosen is None:
        import torch

        count = max(torch.cuda.device_count(), 1)
    else:
        count = len(chosen)
    if options["nproc"] not in (None, count):
        raise click.UsageError(f"-gpu {gpu} means {count} workers, not --nproc {options['nproc']}.")
    if chosen is not None and "RANK" not in os.environ:
        _show_gpus(chosen)
    return count


def _show_gpus(chosen: list[str]) -> None:
    """Let this process and its workers see these GPUs only, counted among the visible ones."""
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    if visible and int(max(chosen, key=int)) >= len(visible):
        raise click.UsageError(
            f"-gpu {','.join(chosen)}: only {len(visible)} GPUs are visible "
            f"(CUDA_VISIBLE_DEVICES={','.join(visible)})."
        )
    names = [visible[int(i)] for i in chosen] if visible else chosen
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)


@dataclass
class TrainPlan:
    """What is to be trained, read and checked, with nothing built yet; no torch was needed."""

    jobs: list[Job]
    options: TrainOptions
    chain: bool


def plan(solvers: list[str], options: dict[str, Any]) -> TrainPlan:
    """Read the solvers, their nets, weights and state. Raises CaffeIOError for what is wrong."""
    for option, name in (("--report", "report"), ("--profile", "profile_to")):
        path = options[name]
        if path and not Path(path).absolute().parent.is_dir():
            raise CaffeIOError(f"{option}: its folder is not there", where=path)
    chosen = train_options(options)
    for solver in solvers:
        _given.require_solver(solver)
    made = _plan(solvers, chosen, options["snapshot"])
    nets = [re.sub(r"(:\d+)+$", "", spec.locate(0)) for job in made.jobs for spec in job.specs]
    _given.apart(*(options[name] for name in ("report", "profile_to", "metrics")), read=nets)
    return made


def _plan(solvers: list[str], chosen: TrainOptions, snapshot: str | None) -> TrainPlan:
    if len(solvers) == 1 and len(read_phases(solvers[0])) == 1:
        return _plan_one(solvers[0], chosen, snapshot)
    if snapshot:
        raise CaffeIOError("a chain finds its snapshots by itself: leave --snapshot out")
    jobs = read_chain(solvers, chosen)
    for number, job in enumerate(jobs):
        finished, state = progress(job)
        if not finished:
            begins = number == 0 and state is None
            _check_files(job, (chosen.weights or job.weights) if begins else ())
    return TrainPlan(jobs, chosen, chain=True)


def _plan_one(solver: str, chosen: TrainOptions, snapshot: str | None) -> TrainPlan:
    job = read_job(solver, chosen)
    if snapshot and snapshot != "auto":
        _given.require_state(snapshot)
    _check_files(job, () if snapshot else job.weights)
    return TrainPlan([job], chosen, chain=False)


def _check_files(job: Job, weights: Sequence[str | os.PathLike[str]]) -> None:
    """Look at the weights and data that a phase will read first."""
    for name in weights:
        _given.require_weights(job.find_weights(os.fspath(name)))
    for spec in job.specs:
        spec.check_sources()
    Schedule(job.param, job.profile, locate=job.locate)
    graph = job.train.graph()
    if not any(is_loss_type(node.type) or node.param.loss_weight for node in graph.nodes):
        _refuse_inputs(job, graph.inputs)


def _refuse_inputs(job: Job, inputs: Sequence[str]) -> None:
    """Raise SolverError for a net with Input layers: this command has nothing to give them."""
    if inputs:
        raise SolverError(
            f"the net is a deploy net: nothing gives its input {inputs[0]!r} (an Input layer). To "
            "train, it needs data layers and a loss",
            where=job.train.title,
        )


def require_device(made: TrainPlan) -> None:
    """Raise CaffeIOError, before torch is loaded, for a solver's GPU where there is surely none.

    The options' own GPU was looked for before the files were read.
    """
    for job in () if made.options.device else made.jobs:
        if job.requested_device != "cpu" and not (made.chain and progress(job)[0]):
            require_gpu(job.requested_device, job.device_reason)


def dry_run(made: TrainPlan, options: dict[str, Any]) -> None:
    """Print what a training would do."""
    from caffeio.cli._terminal import write_report
    from caffeio.converters.show.dry_run import plan_phases, report

    gpus = chosen_gpus(options)
    workers = len(gpus) if gpus else options["nproc"] or int(os.environ.get("WORLD_SIZE", "1"))
    phases = plan_phases(
        made.jobs, weights=[os.fspath(name) for name in made.options.weights],
        snapshot=options["snapshot"], chain=made.chain, workers=workers,
        device=made.options.device,
    )  # fmt: skip
    write_report(report(phases), options["form"], None)


def _listen(watcher: Watcher, options: dict[str, Any], say: Callable[[str], None]) -> None:
    """Add what --profile and --report ask for."""
    if options["profile_to"]:
        from caffeio.cli._profiler import Profiler

        watcher.listeners.append(Profiler(options["profile_to"], say, watcher.warn))
    if options["report"]:
        from caffeio.cli._report import Recorder

        watcher.listeners.append(Recorder(options["report"], say, watcher.warn))


def run(made: TrainPlan, solvers: list[str], options: dict[str, Any], opened: ExitStack) -> None:
    """Train; exit code 0 also after a signal, as Caffe's.

    `opened` keeps the files that were looked at until the first phase has read them.
    """
    from caffeio.cli._watch import Watcher
    from caffeio.data.base import Options as DataOptions

    root = int(os.environ.get("RANK", "0")) == 0
    quiet = options["quiet"] or not root
    signals = Signals(options["sigint_effect"], options["sighup_effect"])
    board = options["tensorboard"] if root else None
    with Watcher(options["metrics"] if root else None, not quiet, board) as watcher:
        log = Log(None if quiet else _sink(watcher, options))
        say = (lambda text: None) if quiet else watcher.line
        if root:
            _listen(watcher, options, say)
        data = DataOptions(
            on_bad_record=options["on_bad_record"], note=partial(log.note, level="W")
        )
        chosen = replace(made.options, data_options=data)
        events = Events(
            iteration=watcher.iteration if watcher.reads_iterations else None,
            test=watcher.test if root else None,
            snapshot=watcher.snapshot if root else None,
            poll=signals.poll,
            hurry=signals.hurry,
            waits=watcher.reads_losses,
        )

        def begin(trainer: Trainer) -> None:
            opened.close()
            _refuse_inputs(trainer.job, trainer.net.graph.inputs)
            signals.trainer = trainer
            watcher.begin(trainer)

        with signals.watch():
            if made.chain:
                from caffeio.training.chain import run_chain

                run_chain(
                    solvers, chosen, note=log.note, log=log, events=events, jobs=made.jobs,
                    on_job=watcher.prepare, on_trainer=begin, on_finish=watcher.finish,
                )  # fmt: skip
            else:
                _run_one(made.jobs[0], chosen, options["snapshot"], watcher, log, events, begin)


def _sink(watcher: Watcher, options: dict[str, Any]) -> Callable[[str], None]:
    """Where Caffe's lines go: to standard error, or to a file with a summary in their place."""
    chosen = options["log"] or ("short" if watcher.console.is_terminal else "caffe")
    if chosen == "caffe":
        return watcher.line
    from caffeio.cli._summary import Summary

    summary = Summary(watcher.line, steps=watcher.progress is None)
    watcher.listeners.append(summary)
    return lambda text: summary.line(text)


def train_options(options: dict[str, Any]) -> TrainOptions:
    """What click has read, as the library takes it; --snapshot is looked up later."""
    return TrainOptions(
        weights=[w.strip() for w in (options["weights"] or "").split(",") if w.strip()],
        overrides=list(options["overrides"]),
        profile=get_profile(options["profile"]) if options["profile"] else None,
        stages=options["stages"],
        level=options["level"],
        ignore_unknown=options["ignore_unknown"],
        allow_python=permit(options["allow_python"]),
        device="cuda" if options["gpu"] else options["device"],
        precision=options["precision"],
        compile=options["compile"],
        cuda_graph=options["cuda_graph"],
        gradients=options["gradients"],
        async_snapshots=options["async_snapshots"],
    )


def _run_one(
    job: Job,
    options: TrainOptions,
    snapshot: str | None,
    watcher: Watcher,
    log: Log,
    events: Events,
    begin: Callable[[Trainer], None],
) -> None:
    from caffeio.training.distributed import World
    from caffeio.training.trainer import Trainer

    requested = options.device or job.requested_device
    world = World.init(requested, reason=None if options.device else job.device_reason)
    log = log if world.is_root else NULL_LOG
    try:
        if snapshot == "auto":
            found = newest_whole_pair(job.param.snapshot_prefix) if world.is_root else None
            snapshot = world.broadcast(str(found[0]) if found else None)
            if snapshot is None:
                log.note("No whole snapshot yet: starting from the beginning")
        if snapshot:
            job.start_from((), resumes=True)
        options = replace(options, snapshot=snapshot)
        watcher.prepare(job)
        with Trainer(job, options, world=world, log=log, events=events) as trainer:
            begin(trainer)
            log.info("caffe.cpp:239", "Starting Optimization")
            trainer.solve()
            log.info("caffe.cpp:250", "Optimization Done.")
            watcher.finish(trainer)
    finally:
        world.shutdown()
