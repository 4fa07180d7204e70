"""What `caffeio train` puts around the library: workers, log sink, signals."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import click
import torch

from caffeio.cli._python import permit
from caffeio.cli._watch import Watcher
from caffeio.data.base import Options as DataOptions
from caffeio.errors import CaffeIOError
from caffeio.log.glog import NULL_LOG, Log
from caffeio.profiles import get_profile
from caffeio.proto.weights.solverstate import newest_whole_pair
from caffeio.training.chain import run_chain
from caffeio.training.distributed import World
from caffeio.training.events import Action, Events
from caffeio.training.job import read_job
from caffeio.training.multiphase import read_phases
from caffeio.training.options import TrainOptions
from caffeio.training.trainer import Trainer

EFFECTS = {"none": Action.NONE, "snapshot": Action.SNAPSHOT, "stop": Action.STOP}


def worker_count(options: dict[str, Any]) -> int:
    """How many workers this machine runs: --nproc, or one a GPU of -gpu, which it then sees."""
    gpu = (options["gpu"] or "").strip()
    if not gpu:
        return int(options["nproc"] or 1)
    chosen = None if gpu == "all" else [part.strip() for part in gpu.split(",")]
    if chosen is not None and not all(part.isdigit() for part in chosen):
        raise click.UsageError(f"-gpu takes 'all' or numbers such as 0,1; this is {gpu!r}.")
    if options["device"] == "cpu":
        raise click.UsageError("--device cpu and -gpu contradict each other.")
    count = len(chosen) if chosen is not None else max(torch.cuda.device_count(), 1)
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


class Signals:
    """Collects signals between the iterations, as Caffe's SignalHandler does."""

    def __init__(self, sigint: str, sighup: str) -> None:
        self.effects = {
            signal.SIGHUP: EFFECTS[sighup],
            signal.SIGINT: EFFECTS[sigint],
            signal.SIGTERM: EFFECTS[sigint],
        }
        self.pending: list[int] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Handle the signals while training; the old handlers come back afterwards."""
        old = {number: signal.signal(number, self._note) for number in self.effects}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if number not in self.pending:
            self.pending.append(number)

    def poll(self) -> Action:
        """What is asked for; SIGHUP comes first, one signal a poll."""
        for number in self.effects:
            if number in self.pending:
                self.pending.remove(number)
                return self.effects[number]
        return Action.NONE


def run(solvers: list[str], options: dict[str, Any]) -> None:
    """Train; exit code 0 also after a signal, as Caffe's."""
    root = int(os.environ.get("RANK", "0")) == 0
    quiet = options["quiet"] or not root
    signals = Signals(options["sigint_effect"], options["sighup_effect"])
    board = options["tensorboard"] if root else None
    with Watcher(options["metrics"] if root else None, not quiet, board) as watcher:
        log = Log(None if quiet else watcher.line)
        data = DataOptions(
            on_bad_record=options["on_bad_record"], note=partial(log.note, level="W")
        )
        chosen = replace(train_options(options), data_options=data)
        events = Events(
            iteration=watcher.iteration if watcher.wants_iterations else None,
            test=watcher.test if root else None,
            poll=signals.poll,
            waits=watcher.reads_losses,
        )
        with signals.watch():
            if len(solvers) > 1 or len(read_phases(solvers[0])) > 1:
                if options["snapshot"]:
                    raise CaffeIOError(
                        "a chain finds its snapshots by itself: leave --snapshot out"
                    )
                run_chain(
                    solvers, chosen, note=log.note, on_trainer=watcher.begin, log=log,
                    events=events,
                )  # fmt: skip
            else:
                _run_one(solvers[0], chosen, options["snapshot"], watcher, log, events)


def train_options(options: dict[str, Any]) -> TrainOptions:
    """What click has read, as the library takes it; --snapshot is looked up later."""
    return TrainOptions(
        weights=[w.strip() for w in (options["weights"] or "").split(",") if w.strip()],
        overrides=list(options["overrides"]),
        profile=get_profile(options["profile"]) if options["profile"] else None,
        stages=[s for s in options["stage"].split(",") if s],
        level=options["level"],
        ignore_unknown=options["ignore_unknown"],
        allow_python=permit(options["allow_python"]),
        device="cuda" if options["gpu"] else options["device"],
        precision=options["precision"],
        compile=options["compile"],
        gradients=options["gradients"],
    )


def _run_one(
    solver: str,
    options: TrainOptions,
    snapshot: str | None,
    watcher: Watcher,
    log: Log,
    events: Events,
) -> None:
    job = read_job(solver, options)
    wanted = options.device or job.wanted_device
    world = World.join(wanted, reason=None if options.device else job.device_reason)
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
        with Trainer(job, options, world=world, log=log, events=events) as trainer:
            watcher.begin(trainer)
            log.info("caffe.cpp:239", "Starting Optimization")
            trainer.solve()
            log.info("caffe.cpp:250", "Optimization Done.")
    finally:
        world.leave()
