"""The loop that real Caffe's solver runs: train, test, display, snapshot, stop.

Source: src/caffe/solver.cpp (Step, Solve).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from caffeio.boost_random import CaffeRng
from caffeio.data import Options
from caffeio.data.draws import entropy
from caffeio.log.debug_info import log_forward
from caffeio.log.glog import NULL_LOG, Log, stream_float
from caffeio.net.net import Net
from caffeio.net.room import estimate, warn_of
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import SolverFile
from caffeio.solver.make import CaffeOptimizer, make_optimizer
from caffeio.solver.schedule import RateState, Schedule
from caffeio.training.build import NetBuilder, log_start
from caffeio.training.display import Display
from caffeio.training.distributed import ALONE, World
from caffeio.training.events import Action, Events, Scores
from caffeio.training.facts import facts_of
from caffeio.training.iteration import Iteration
from caffeio.training.job import Job, read_job
from caffeio.training.loss_window import LazyLoss
from caffeio.training.options import TrainFields, TrainOptions, merge_options
from caffeio.training.snapshots import Snapshots
from caffeio.training.state import TrainingState
from caffeio.training.test_nets import Tests


class Trainer:
    """Runs one Caffe solver on PyTorch with real Caffe's numbers.

    `trainer.solve()` is `caffe train`; `step(n)`, `test_all()`, `snapshot()` and `restore()` are
    pycaffe's. `trainer.net`, `.test_nets`, `.iter`, `.optimizer` may be looked at in between, and
    the blobs of `trainer.net.params` may be written to in place. A context manager:

        with Trainer("solver.prototxt", weights=["start.caffemodel"]) as trainer:
            trainer.step(100)
            trainer.net.params["conv1"][0].data.mul_(0.5)
            trainer.solve()
    """

    builder: type[NetBuilder] = NetBuilder
    loop: type[Iteration] = Iteration

    def __init__(
        self,
        solver: str | os.PathLike[str] | SolverFile | Job,
        options: TrainOptions | None = None,
        *,
        world: World | None = None,
        log: Log = NULL_LOG,
        events: Events | None = None,
        **fields: Unpack[TrainFields],
    ) -> None:
        """Read the solver, build its nets, and load weights or a snapshot.

        `options` may be given as a whole, or its fields as keywords: see TrainOptions. A `solver`
        that is a Job was read with options of its own: only `snapshot`, `async_snapshots`,
        `device`, `precision`, `compile`, `cuda_graph`, `gradients`, `data_options` count. `world`:
        the workers to train with; None joins those that torchrun started. Raises CaffeIOError;
        nothing stays open then.
        """
        options = merge_options(options, fields)
        job = solver if isinstance(solver, Job) else read_job(solver, options)
        with ExitStack() as opened:
            if world is None:
                reason = None if options.device else job.device_reason
                world = World.init(options.device or job.requested_device, reason=reason)
                opened.callback(world.shutdown)
            log = log if world.is_root else NULL_LOG
            self._images: int | None = None
            self._build(job, options, world, log, events or Events(), opened)
            if options.snapshot is not None:
                log.info("caffe.cpp:235", f"Resuming from {os.fspath(options.snapshot)}")
                self.restore(options.snapshot)
            self._closing = opened.pop_all()

    def _build(
        self, job: Job, options: TrainOptions, world: World, log: Log, events: Events,
        opened: ExitStack,
    ) -> None:  # fmt: skip
        if options.cuda_graph:
            world.check_recordable()
        log_start(job, world, log, hint=options.device is None)
        if world.size > 1:
            world.check_same(facts_of(job, options))
        param, profile = job.param, job.profile
        self.schedule = Schedule(param, profile, locate=job.locate)
        if world.is_root:
            job.probe_prefix()
        rng = self._random_numbers(param.random_seed, world)
        data = options.data_options or Options()
        if data.shared_seed is None:
            data = replace(data, shared_seed=shared_seed(param.random_seed, world))
        nets = self.builder(job, world, log, rng, data).build()
        opened.enter_context(nets.closing)
        optimizer = make_optimizer(param, profile, nets.train.learnable, locate=job.locate)
        if not profile.clips_gradients:
            optimizer.clip_gradients = -1.0
        needed = estimate(
            nets.train, nets.tests, len(optimizer.history) // max(1, len(nets.train.learnable))
        )
        if world.device.type == "cpu" and (warning := warn_of(needed)):
            log.note(warning, level="W")
        module = world.wrap(nets.train, options, iter_size=param.iter_size)
        smoothed = LazyLoss(param.average_loss)
        self.state = TrainingState(
            job, world, log, events, nets.train, nets.tests, optimizer, smoothed
        )
        self.display = Display(self.state)
        self.snapshots = Snapshots(self.state, background=options.async_snapshots)
        opened.callback(self.snapshots.close)
        if world.watchdog is not None:
            world.watchdog.rescue = self.snapshots.rescue_in_time
        self.tests = Tests(self.state, self.snapshots)
        self.iteration = self.loop(self.state, module, self.schedule, self.display)

    def _random_numbers(self, seed: int, world: World) -> CaffeRng | None:
        """Caffe's own generator, where the solver has a random_seed."""
        if seed < 0:
            return None
        torch.manual_seed(seed + world.rank)
        return CaffeRng(seed + world.rank)

    # -- what it works on: all in `state` --------------------------------------------------

    @property
    def job(self) -> Job:
        """The solver and its nets as read."""
        return self.state.job

    @property
    def file(self) -> SolverFile:
        """The solver's file."""
        return self.state.job.file

    @property
    def param(self) -> pb.SolverParameter:
        """The solver, with all changes made."""
        return self.state.job.param

    @property
    def profile(self) -> Profile:
        """Whose numbers are computed."""
        return self.state.job.profile

    @property
    def net(self) -> Net:
        """The training net."""
        return self.state.net

    @property
    def test_nets(self) -> list[Net]:
        """The test nets, in the solver's order."""
        return self.state.test_nets

    @property
    def optimizer(self) -> CaffeOptimizer:
        """Updates the blobs; a torch optimizer."""
        return self.state.optimizer

    @property
    def world(self) -> World:
        """The workers that train together."""
        return self.state.world

    @property
    def log(self) -> Log:
        """Where Caffe's lines go."""
        return self.state.log

    @property
    def events(self) -> Events:
        """The callbacks of whoever watches."""
        return self.state.events

    @property
    def rates(self) -> RateState:
        """What rate policies remember."""
        return self.state.rates

    @property
    def smoothed(self) -> LazyLoss:
        """The loss as Caffe averages it for its lines."""
        return self.state.smoothed

    @property
    def iter(self) -> int:
        """How many updates have been done."""
        return self.state.iter

    @iter.setter
    def iter(self, value: int) -> None:
        self.state.iter = value

    @property
    def module(self) -> nn.Module:
        """What runs the net in training: it averages the workers' gradients."""
        return self.iteration.module

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Of the last training batch, by name."""
        return self.iteration.outputs

    # -- running ---------------------------------------------------------------------------

    def solve(self, resume: str | os.PathLike[str] | None = None) -> bool:
        """Train to max_iter, as `caffe train` does; False if a signal stopped it early.

        `resume` is the path of a .solverstate to go on from.
        """
        log, param = self.log, self.param
        if self.display.nvidia:
            policy = f" Learning Rate Policy: {param.lr_policy}"
            log.info("solver.cpp:289", f"[0.0] Solving {self.net.name}{policy}")
        else:
            log.info("solver.cpp:289", f"Solving {self.net.name}")
            log.info("solver.cpp:290", f"Learning Rate Policy: {param.lr_policy}")
        if resume is not None:
            text = f"Restoring previous solver status from {os.fspath(resume)}"
            log.info("solver.cpp:297", text)
            self.restore(resume)
        if self.profile.initial_test_batch and self.iter < param.max_iter:
            self._initial_test()
        try:
            finished = self.step(param.max_iter - self.iter)
        except BaseException:
            self.snapshots.rescue()
            raise
        self.display.say_bad_loss()
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot):
            self.snapshots.write(background=False)
        if not finished:
            log.info("solver.cpp:311", "Optimization stopped early.")
            return False
        if self.display.on_grid:
            self._extra_forward()
        if self._on_test_grid():
            self.test_all()
        if not self.display.nvidia:
            log.info("solver.cpp:332", "Optimization Done.")
        return True

    def _initial_test(self) -> None:
        """NVIDIA's one batch of every test net before training; it stands for the test at 0."""
        self.log.info("solver.cpp:381", "Initial Test started...")
        began = perf_counter()
        self.tests.run_all(batches=1)
        seconds = stream_float(perf_counter() - began)
        self.log.info("solver.cpp:385", f"Initial Test completed in {seconds}s")

    def _extra_forward(self) -> None:
        """Caffe runs one more batch for the last loss line: BatchNorm statistics move with it."""
        self.state.kept.begin()
        with torch.no_grad():  # debug_info stays as the last trained iteration had it
            self.net()
        if self.net.keep_trace:
            log_forward(self.log, self.net)
        self.smoothed.add(self.net.loss.detach())
        self.state.kept.end()
        loss = stream_float(self.smoothed.value)
        self.log.info("solver.cpp:327", f"Iteration {self.iter}, loss = {loss}")

    def step(self, count: int) -> bool:
        """Train `count` iterations; False if a signal stopped it before.

        Tests, display and snapshots happen as the solver says; the window of average_loss begins
        anew, as it does in Caffe.
        """
        stop = self.iter + count
        self.smoothed.reset()
        self.display.begin(stop)
        finished = self._train_to(stop)
        self.snapshots.settle(together=True)
        return finished

    def _train_to(self, stop: int) -> bool:
        """Train until `stop` updates are done; False if a signal stopped it before."""
        state = self.state
        began = state.iter
        ended = perf_counter()
        while state.iter < stop:
            if self._test_due(began):
                if not self.test_all():
                    return False
                ended = perf_counter()
            loss = self.iteration.forward_backward()
            if loss is None:  # told to stop: the iteration is not done
                if Action.SNAPSHOT in state.world.exchange_actions(state.events.poll(), now=True):
                    self.snapshot()
                return False
            state.smoothed.add(loss)
            if self.display.due:
                self.display.show(self.iteration.outputs)
            with state.kept.guard:
                rate = self.iteration.update()
                state.iter += 1
                state.whole = True
                state.kept.end()
            if state.events.iteration is not None:
                ended = self._report(loss, rate, ended)
            waits = state.iter == stop or self._test_due(began)  # a test may take long
            action = state.world.exchange_actions(state.events.poll(), now=waits)
            if self._snapshot_due() or Action.SNAPSHOT in action:
                self.snapshot()
                ended = perf_counter()
            if Action.STOP in action:
                return False
            self.snapshots.settle(wait=False)
        return True

    def _on_test_grid(self) -> bool:
        every = self.param.test_interval
        return bool(every) and (self.iter - self.param.test_offset) % every == 0

    def _test_due(self, began: int) -> bool:
        if not self._on_test_grid():
            return False
        if self.profile.initial_test_batch and self.iter == began:
            return False
        return self.iter > 0 or self.param.test_initialization

    def _snapshot_due(self) -> bool:
        return bool(self.param.snapshot) and self.iter % self.param.snapshot == 0

    def _report(self, loss: Tensor, rate: float, before: float) -> float:
        """Tell the watcher of the iteration since `before`; the time at which it ended."""
        events = self.state.events
        assert events.iteration is not None
        if self._images is None:
            self._images = self.images_per_iteration
        if events.waits:
            self.state.world.synchronize()
        now = perf_counter()
        events.iteration(
            {"iter": self.state.iter, "lr": rate, "loss": loss, "seconds": now - before,
             "images": self._images}
        )  # fmt: skip
        return now

    @property
    def images_per_iteration(self) -> int:
        """Records that all workers together read in one iteration."""
        for source in self.net.sources.values():
            if source.top_shapes and source.top_shapes[0]:
                return int(source.top_shapes[0][0]) * self.param.iter_size * self.world.size
        return 0

    # -- testing ---------------------------------------------------------------------------

    def test_all(self) -> bool:
        """Run every test net; False if a signal asked to stop meanwhile."""
        return self.tests.run_all()

    def test(self, index: int = 0, *, batches: int | None = None) -> Scores | None:
        """Score test net `index` over `batches` (its test_iter); None if a signal stopped it."""
        return self.tests.run(index, batches)

    # -- snapshots -------------------------------------------------------------------------

    def snapshot(self) -> tuple[str, str]:
        """Write `<prefix>_iter_<N>` weights and state; returns their paths.

        With `async_snapshots` they are there when `snapshots.settle()` has returned.
        """
        return self.snapshots.write()

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go on from a .solverstate (binary or .h5): iteration, weights, history, rate state.

        Raises SnapshotError if it is not whole or belongs to another net or solver type; then
        nothing has changed.
        """
        self.snapshots.restore(path)

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading data and leave the other workers; may be called more than once."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def shared_seed(random_seed: int, world: World) -> int | None:
    """The seed by which several workers shuffle and augment: random_seed, else drawn for each run.

    It is drawn for each phase of a chain, so that phases see other crops. One worker needs none.
    """
    if world.size == 1:
        return None
    return world.broadcast(random_seed if random_seed >= 0 else entropy())


__all__ = ["ALONE", "Action", "Events", "Scores", "TrainOptions", "Trainer"]
