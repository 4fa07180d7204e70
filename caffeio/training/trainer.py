"""The loop that real Caffe's solver runs: train, test, display, snapshot, stop.

Source: src/caffe/solver.cpp (Step, Solve), src/caffe/solvers/sgd_solver.cpp (ApplyUpdate).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.data import Options
from caffeio.data.draws import entropy
from caffeio.errors import SolverError
from caffeio.log.debug_info import log_backward, log_forward
from caffeio.log.glog import NULL_LOG, Log, number
from caffeio.net.net import Net
from caffeio.net.recipe import NetRecipe
from caffeio.profiles import Profile
from caffeio.proto.files import SolverFile
from caffeio.solver.make import make_optimizer
from caffeio.solver.schedule import Rates, RateState, Schedule
from caffeio.training.build import build_nets, log_start
from caffeio.training.display import Display
from caffeio.training.distributed import ALONE, World
from caffeio.training.job import Job, read_job
from caffeio.training.loss_window import LazyLoss
from caffeio.training.signals import Action
from caffeio.training.snapshots import Snapshots
from caffeio.training.test_nets import Scores, Tests
from caffeio.training.training_net import build_net


@dataclass
class Events:
    """Callbacks of whoever watches the training (metrics file, progress bar).

    `iteration` gets a dict after every iteration: "iter" (updates done so far), "lr", "loss" (a
    scalar tensor, maybe on a GPU), "seconds" and "images" (of all workers).
    """

    iteration: Callable[[dict[str, Any]], None] | None = None
    test: Callable[[Scores], None] | None = None  # after every test, on workers that test
    snapshot: Callable[[str, str], None] | None = None  # paths of weights and state
    poll: Callable[[], Action] = field(default=lambda: Action.NONE)


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

    net: Net
    outputs: Mapping[str, Tensor]  # of the last training batch, by name

    def __init__(
        self,
        solver: str | os.PathLike[str] | SolverFile | Job,
        *,
        weights: Sequence[str | os.PathLike[str]] = (),
        snapshot: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (),
        profile: str | Profile | None = None,
        device: str | None = None,
        world: World | None = None,
        log: Log = NULL_LOG,
        events: Events | None = None,
        stages: Sequence[str] = (),
        level: int = 0,
        allow_python: bool = False,
        data_options: Options | None = None,
        ignore_unknown: bool = False,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        """Read the solver, build its nets, and load `weights` (later files win) or a `snapshot`.

        `weights` replace those that the solver's own `weights` field names; with `snapshot`, the
        path of a .solverstate, neither is loaded. `overrides` are `KEY=VALUE` changes of solver
        fields, or of net fields (`layer[NAME].data_param.source=...`). `device` is "cpu", "cuda",
        "cuda:N" or "auto"; None obeys solver_mode. A field that no known Caffe has is an error,
        as in Caffe, unless `ignore_unknown`. `precision` "bf16" trains faster, with other numbers
        than Caffe's; `compile` uses torch.compile. A `solver` that is a Job brings its weights and
        overrides along. Raises CaffeIOError.
        """
        if precision not in ("fp32", "bf16"):
            raise SolverError(f"precision is fp32 or bf16, not {precision!r}")
        if isinstance(solver, Job):
            self.job = solver
        else:
            self.job = read_job(
                solver, weights=weights, resumes=snapshot is not None, overrides=overrides,
                profile=profile, stages=stages, level=level, ignore_unknown=ignore_unknown,
            )  # fmt: skip
        self.file, self.param, self.profile = self.job.file, self.job.param, self.job.profile
        self.dialect, self.place = self.job.dialect, self.job.place
        self._owns_world = world is None
        wanted = device or self.job.wanted_device
        reason = None if device else self.job.device_reason
        self.world = world or World.join(wanted, reason=reason)
        self.log = log if self.world.is_root else NULL_LOG
        self.events = events or Events()
        self.iter = 0
        self.rates = RateState()
        self.test_nets: list[Net] = []
        self._images: int | None = None
        self._nets: list[Net] = []  # all that have been built, for close()
        try:
            log_start(self, hint=device is None)
            self._build(allow_python, data_options or Options(), precision, compile)
            if snapshot is not None:
                self.log.info("caffe.cpp:235", f"Resuming from {os.fspath(snapshot)}")
                self.restore(snapshot)
        except BaseException:
            self.close()
            raise

    def _build(self, allow_python: bool, data: Options, precision: str, compile: bool) -> None:
        self.schedule = Schedule(self.param, self.profile, where=self.job.where)
        self.snapshots = Snapshots(self)
        if self.world.is_root:
            self.job.probe_prefix()
        self.rng: CaffeRng | None = None
        if self.param.random_seed >= 0:
            self.rng = CaffeRng(self.param.random_seed + self.world.rank)
            torch.manual_seed(self.param.random_seed + self.world.rank)
        if data.shared_seed is None:
            data = replace(data, shared_seed=self._shared_seed())
        build_nets(self, allow_python=allow_python, data=data)
        self.optimizer = make_optimizer(
            self.param, self.profile, self.net.learnable, where=self.job.where
        )
        if not self.profile.clips_gradients:
            self.optimizer.clip_gradients = -1.0
        self.module = self.world.wrap(self.net, precision=precision, compile=compile)
        self.smoothed = LazyLoss(self.param.average_loss)
        self.display = Display(self)
        self.tests = Tests(self)

    def make_net(self, spec: NetRecipe, data: Options, *, fuse: bool) -> Net:
        """Build one of the solver's nets."""
        return build_net(spec, world=self.world, rng=self.rng, data=data, fuse=fuse)

    def share_with_tests(self) -> None:
        """Let the test nets use the tensors of the training net."""
        for net in self.test_nets:
            net.share_trained_layers_with(self.net)

    def _shared_seed(self) -> int | None:
        """What several workers shuffle and augment by: random_seed, else new for every run.

        A chain would otherwise show every phase the same crops. One worker needs none.
        """
        if self.world.size == 1:
            return None
        own = self.param.random_seed if self.param.random_seed >= 0 else entropy()
        return int(self.world.share(own))

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
        finished = self.step(param.max_iter - self.iter)
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot):
            self.snapshot()
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
        began = time.perf_counter()
        self.tests.run_all(batches=1)
        seconds = number(time.perf_counter() - began)
        self.log.info("solver.cpp:385", f"Initial Test completed in {seconds}s")

    def _extra_forward(self) -> None:
        """Caffe runs one more batch for the last loss line: BatchNorm statistics move with it."""
        self.net.keep_trace = bool(self.param.debug_info)
        with torch.no_grad():
            self.net()
        if self.net.keep_trace:
            log_forward(self.log, self.net)
        self.smoothed.add(self.net.loss.detach())
        loss = number(self.smoothed.value)
        self.log.info("solver.cpp:327", f"Iteration {self.iter}, loss = {loss}")

    def step(self, count: int) -> bool:
        """Train `count` iterations; False if a signal stopped it before.

        Tests, display and snapshots happen as the solver says; the window of average_loss begins
        anew, as it does in Caffe.
        """
        stop = self.iter + count
        self.smoothed.reset()
        self.display.begin(stop)
        watched = self.events.iteration is not None
        began = self.iter
        while self.iter < stop:
            if self._test_due(began) and not self.test_all():
                return False
            started = time.perf_counter() if watched else 0.0
            loss = self._forward_backward()
            self.smoothed.add(loss)
            if self.display.due:
                self.display.show(self.outputs)
            rate = self._update()
            self.iter += 1
            if watched:
                self._report(loss, rate, time.perf_counter() - started)
            action = Action(self.world.agree(self.events.poll()))
            if self._snapshot_due() or action is Action.SNAPSHOT:
                self.snapshot()
            if action is Action.STOP:
                return False
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

    def _forward_backward(self) -> Tensor:
        """Run iter_size batches; gradients add up, the mean loss (no gradient) is returned."""
        for item in self.net.learnable:
            item.tensor.grad = None
        size = self.param.iter_size
        trace = bool(self.param.debug_info) and self.display.on_grid
        if self.net.keep_trace is not trace:
            self.net.keep_trace = trace
        if size == 1:
            return self._one_batch(trace)
        total: Tensor | None = None
        for i in range(size):
            with self.world.accumulate(self.module, last=i == size - 1):
                part = self._one_batch(trace)
            total = part if total is None else total + part
        assert total is not None
        return total / size

    def _one_batch(self, trace: bool) -> Tensor:
        loss: Tensor
        loss, self.outputs = self.module()
        if trace:
            log_forward(self.log, self.net)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        if trace:
            log_backward(self.log, self.net)
        return loss.detach()

    def _update(self) -> float:
        """ApplyUpdate: rate, clip, normalise, regularise, update. Returns the printed rate."""
        if self.schedule.policy == "plateau":
            self.rates.smoothed_loss = self.smoothed.value
        rates = self._ask_rates()
        printed = float(rates.printed)
        if self.display.on_grid:
            self.display.show_rate(printed)
        if self.profile.warmup and self.param.disabled_update:
            return printed  # Intel's switch for looking at gradients alone
        clipped = self.optimizer.clip(report=bool(self.log))
        if clipped is not None and self.log:
            norm, scale = clipped
            self.log.info(
                "sgd_solver.cpp:99",
                f"Gradient clipping: scaling down gradients (L2 norm {number(norm)} > "
                f"{number(self.param.clip_gradients)}) by scale factor {number(scale)}",
            )
        used = rates.used if isinstance(rates.used, np.ndarray) else float(rates.used)
        self.optimizer.step(used, self.iter)
        return printed

    def _ask_rates(self) -> Rates:
        count = len(self.net.learnable)
        if not self.profile.late_rate or self._updates_at_once():
            return self.schedule.rates(self.iter, self.rates, count, self._rate_line)
        printed = self.schedule.rate(self.iter, self.rates, self._rate_line)
        calls = count if self.schedule.stateful else 1
        later = [
            self.schedule.rate(self.iter + 1, self.rates, self._rate_line) for _ in range(calls)
        ]
        return Rates(printed, np.array(later, np.float32) if calls > 1 else later[0])

    def _updates_at_once(self) -> bool:
        """Intel's nodes: whether this iteration waits for its updates, instead of the next one."""
        every, following = self.param.test_interval, self.iter + 1
        return following >= self.param.max_iter or bool(every and following % every == 0)

    def _rate_line(self, text: str) -> None:
        self.log.info("sgd_solver.cpp:50", text)

    def _report(self, loss: Tensor, rate: float, seconds: float) -> None:
        assert self.events.iteration is not None
        if self._images is None:
            self._images = self.images_per_iteration
        self.events.iteration(
            {"iter": self.iter, "lr": rate, "loss": loss, "seconds": seconds,
             "images": self._images}
        )  # fmt: skip

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
        """Write `<prefix>_iter_<N>` weights and state; returns their paths."""
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
        for net in self._nets:
            net.close()
        self._nets.clear()
        if self._owns_world:
            self.world.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


__all__ = ["ALONE", "Action", "Events", "Scores", "Trainer"]
