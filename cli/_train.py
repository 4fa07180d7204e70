"""What `caffeio train` puts around the library: log sink, progress bar, metrics, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from caffeio.chain import run_chain
from caffeio.errors import CaffeIOError
from caffeio.log import Log
from caffeio.profiles import get_profile
from caffeio.proto.solverstate import newest_whole_pair
from caffeio.trainer import Action, Events, Trainer

EFFECTS = {"none": Action.NONE, "snapshot": Action.SNAPSHOT, "stop": Action.STOP}


def worker_count(options: dict[str, Any]) -> int:
    """How many workers this machine runs: --nproc, or one a GPU of -gpu."""
    if options["gpu"]:
        gpus = options["gpu"].strip()
        if gpus == "all":
            return max(torch.cuda.device_count(), 1)
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpus)
        return len(gpus.split(","))
    return int(options["nproc"])


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


class Watcher:
    """The progress bar and the metrics file of one command."""

    def __init__(self, metrics: str | None, show: bool) -> None:
        self.file: IO[str] | None = None
        if metrics:
            try:
                self.file = open(metrics, "a", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise CaffeIOError(f"cannot write: {error.strerror}", where=metrics) from None
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.progress: Progress | None = None
        if show and self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
        self.task: Any = None
        self.phase = ""
        self.speed = 0.0

    def __enter__(self) -> Self:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()
        if self.file:
            self.file.close()

    def line(self, text: str) -> None:
        """One log line: above the bar on a terminal, else plainly to stderr."""
        if self.progress:
            self.console.out(text, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def begin(self, trainer: Trainer) -> None:
        """A new phase."""
        self.phase = os.path.basename(str(trainer.file.path or trainer.net.name))
        if self.progress:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task = self.progress.add_task(self.phase, total=trainer.param.max_iter, speed="")

    def iteration(self, entry: dict[str, Any]) -> None:
        """After every iteration."""
        rate = entry["images"] / entry["seconds"] if entry["seconds"] else 0.0
        self.speed = rate if not self.speed else 0.9 * self.speed + 0.1 * rate
        if self.file:
            line = {
                "iter": entry["iter"] - 1,
                "lr": entry["lr"],
                "loss": float(entry["loss"]),
                "images_per_s": rate,
                "seconds": entry["seconds"],
                "phase": self.phase,
            }
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        if self.progress and self.task is not None:
            speed = f"{self.speed:.1f} images/s"
            self.progress.update(self.task, completed=entry["iter"], speed=speed)

    def test(self, result: Any) -> None:
        """After a test."""
        if self.file:
            outputs = {name: value.tolist() for name, value in result.outputs.items()}
            line = {
                "iter": result.iteration, "test_net": result.net, "test_loss": result.loss,
                "outputs": outputs, "phase": self.phase,
            }  # fmt: skip
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def run(solvers: list[str], options: dict[str, Any]) -> None:
    """Train; exit code 0 also after a signal, as Caffe's."""
    rank = int(os.environ.get("RANK", "0"))
    quiet = options["quiet"] or rank != 0
    signals = Signals(options["sigint_effect"], options["sighup_effect"])
    with Watcher(options["metrics"] if rank == 0 else None, show=not quiet) as watcher:
        log = Log(None if quiet else watcher.line)
        events = Events(
            iteration=watcher.iteration if rank == 0 else None,
            test=watcher.test if rank == 0 else None,
            poll=signals.poll,
        )
        common: dict[str, Any] = {
            "overrides": list(options["overrides"]),
            "profile": get_profile(options["profile"]) if options["profile"] else None,
            "device": _device(options),
            "log": log,
            "events": events,
            "stages": [s for s in options["stage"].split(",") if s],
            "level": options["level"],
            "allow_python": options["allow_python"],
            "ignore_unknown": options["ignore_unknown"],
            "precision": options["precision"],
            "compile": options["compile"],
        }
        weights = [w.strip() for w in (options["weights"] or "").split(",") if w.strip()]
        with signals.watch():
            if len(solvers) > 1:
                run_chain(
                    solvers, weights=weights, note=lambda text: log.info("chain:1", text),
                    on_trainer=watcher.begin, **common,
                )  # fmt: skip
            else:
                _run_one(solvers[0], weights, options["snapshot"], watcher, common)


def _device(options: dict[str, Any]) -> str | None:
    if options["gpu"]:
        return "cuda"
    if options["device"] == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return options["device"]  # type: ignore[no-any-return]


def _run_one(
    solver: str, weights: list[str], snapshot: str | None, watcher: Watcher, common: dict[str, Any]
) -> None:
    trainer = Trainer(solver, weights=weights, **common)
    watcher.begin(trainer)
    log = trainer.log
    try:
        if snapshot == "auto":
            pair = trainer.world.share(newest_whole_pair(trainer.param.snapshot_prefix))
            snapshot = str(pair[0]) if pair else None
            if snapshot is None:
                log.info("caffe.cpp:225", "No whole snapshot yet: starting from the beginning")
        if snapshot:
            log.info("caffe.cpp:225", f"Resuming from {snapshot}")
        log.info("caffe.cpp:239", "Starting Optimization")
        trainer.solve(snapshot)
        log.info("caffe.cpp:250", "Optimization Done.")
    finally:
        trainer.close()
        trainer.world.leave()
