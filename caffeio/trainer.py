"""The loop that real Caffe's solver runs: train, test, display, snapshot, stop.

Source: src/caffe/solver.cpp (Step, Solve, Test), src/caffe/solvers/sgd_solver.cpp (ApplyUpdate).
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffeio.debug_info import log_backward, log_forward
from caffeio.detection_map import detection_map
from caffeio.errors import SolverError
from caffeio.log import NULL_LOG, Log, number
from caffeio.net import Net
from caffeio.netlog import log_filtering, log_net, log_upgrade, log_upgrade_of_weights
from caffeio.parallel import ALONE, World
from caffeio.profiles import Profile, get_profile, profile_of_solver
from caffeio.proto import caffe_pb2 as pb
from caffeio.proto.files import SolverFile, read_solver
from caffeio.proto.overrides import apply_overrides
from caffeio.proto.text import format_message
from caffeio.proto.weights import load_weights
from caffeio.rng import CaffeRng
from caffeio.schedule import RateState, Schedule
from caffeio.smoothing import LazyLoss
from caffeio.snapshot import Snapshots
from caffeio.solver import make_optimizer
from caffeio.solver_nets import (
    NetSpec,
    find_file,
    override_nets,
    solver_folder,
    test_specs,
    train_spec,
)
from caffeio.training_net import build_net
from caffeio.unknown import refuse_unknown


class Action(enum.IntEnum):
    """What a signal asks for, looked at once an iteration and once a test batch."""

    NONE = 0
    SNAPSHOT = 1
    STOP = 2


@dataclass
class Scores:
    """The means of one test net's outputs."""

    net: int
    iteration: int
    loss: float
    outputs: dict[str, np.ndarray]  # by blob, in the net's order; float32


@dataclass
class Events:
    """Callbacks of whoever watches the training (metrics file, progress bar)."""

    iteration: Callable[[dict[str, Any]], None] | None = None  # after every iteration
    test: Callable[[Scores], None] | None = None
    snapshot: Callable[[str, str], None] | None = None  # paths of weights and state
    poll: Callable[[], Action] = field(default=lambda: Action.NONE)


class Trainer:
    """Runs one Caffe solver on PyTorch with real Caffe's numbers.

    `trainer.solve()` is `caffe train`; `step(n)`, `test_all()`, `snapshot()` and `restore()` are
    pycaffe's. `trainer.net`, `.test_nets`, `.iter`, `.optimizer` may be looked at in between.
    """

    def __init__(
        self,
        solver: str | os.PathLike[str] | SolverFile,
        *,
        weights: Sequence[str | os.PathLike[str]] = (),
        overrides: Sequence[str] = (),
        profile: str | Profile | None = None,
        device: str | None = None,
        world: World | None = None,
        log: Log = NULL_LOG,
        events: Events | None = None,
        stages: Sequence[str] = (),
        level: int = 0,
        allow_python: bool = False,
        data_options: Mapping[str, Any] | None = None,
        ignore_unknown: bool = False,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        """Read the solver, build its nets and load `weights` (later files win).

        `overrides` are `KEY=VALUE` changes of solver fields, or of net fields when KEY begins
        with `layer[`. `device` None obeys solver_mode. A field that no known Caffe has is an
        error, as in Caffe, unless `ignore_unknown`. `precision` "bf16" trains faster, with other
        numbers than Caffe's; `compile` uses torch.compile. Raises CaffeIOError.
        """
        self.file = solver if isinstance(solver, SolverFile) else read_solver(solver)
        net_changes = [o for o in overrides if o.lstrip().startswith("layer")]
        solver_changes = [o for o in overrides if not o.lstrip().startswith("layer")]
        if not ignore_unknown:
            refuse_unknown(self.file.unknown)
        apply_overrides(self.file.message, solver_changes)
        self.param = self.file.message
        self._set_state(stages, level)
        specs = [train_spec(self.file), *test_specs(self.file)]
        override_nets(specs, net_changes)
        for spec in specs:
            spec.check_unknown(ignore_unknown)
        self._specs = specs[0], specs[1:]
        self.dialect = _dialect(self.file.dialect, self._specs[0].dialect)
        chosen = get_profile(profile) if isinstance(profile, str) else profile
        self.profile = chosen or profile_of_solver(self.param, self.dialect)
        self.world = world or World.join(device or self.wanted_device(self.param, self.profile))
        self.log = log if self.world.is_root else NULL_LOG
        self.events = events or Events()
        self.iter = 0
        self.rates = RateState()
        self._allow_python = allow_python
        self._data_options = dict(data_options or {})
        self._speed: dict[str, Any] = {"precision": precision, "compile": compile}
        self._fill_placeholders()
        files = [os.fspath(path) for path in weights]
        if files and self.profile.weights_in_solver:
            self.param.weights.append(",".join(files))
        self._prefix()
        self._log_start()
        self._check()
        self.snapshots = Snapshots(self)
        self.snapshots.probe()
        self._build(self._weights_field() if self.profile.weights_in_solver else files)

    # -- construction ----------------------------------------------------------------------

    @staticmethod
    def wanted_device(param: pb.SolverParameter, profile: Profile) -> str:
        """The device that solver_mode asks for: "cpu" or "cuda[:device_id]".

        BVLC uses a GPU only where solver_mode says so; Intel's default is the enum's, GPU.
        """
        gpu = param.solver_mode == pb.SolverParameter.GPU
        if not param.HasField("solver_mode") and not profile.solver_mode_default_gpu:
            gpu = False
        if not gpu:
            return "cpu"
        return f"cuda:{param.device_id}" if param.HasField("device_id") else "cuda"

    def _set_state(self, stages: Sequence[str], level: int) -> None:
        """`caffe train` always writes level and stages into train_state."""
        self.param.train_state.level = level
        self.param.train_state.stage.extend(stages or [""])

    def _prefix(self) -> None:
        """A missing snapshot_prefix is the solver's own path without its suffix (BVLC)."""
        param = self.param
        if not self.profile.prefix_from_solver_file:
            if param.snapshot and not param.HasField("snapshot_prefix"):
                raise SolverError(
                    "snapshot is specified but snapshot_prefix is not", where=self.place
                )
            return
        if self.file.path is None:
            return
        stem = os.path.splitext(os.fspath(self.file.path))[0]
        if not param.snapshot_prefix:
            param.snapshot_prefix = stem
        elif os.path.isdir(param.snapshot_prefix):
            param.snapshot_prefix = os.path.join(param.snapshot_prefix, os.path.basename(stem))

    def _fill_placeholders(self) -> None:
        """Intel's multi-node paths: %# is this worker's number, %* how many there are."""
        if not self.profile.tests_on_all_workers:
            return

        def filled(text: str) -> str:
            return text.replace("%#", str(self.world.rank)).replace("%*", str(self.world.size))

        if self.param.snapshot_prefix:
            self.param.snapshot_prefix = filled(self.param.snapshot_prefix)
        for spec in (self._specs[0], *self._specs[1]):
            for layer in spec.message.layer:
                for param in (layer.data_param, layer.image_data_param, layer.hdf5_data_param):
                    if "%" in param.source:
                        param.source = filled(param.source)

    @property
    def place(self) -> str | None:
        """The solver's file, for messages."""
        return str(self.file.path) if self.file.path else None

    def _where(self, *path: str | int) -> str:
        """The place of a solver field, for messages."""
        return self.file.where(*path) if self.file.path else ""

    def _log_start(self) -> None:
        self.log.info(
            "caffe.cpp:197", "Use CPU." if self.world.device.type == "cpu" else "Using GPUs"
        )
        text = "Initializing solver from parameters: \n" + format_message(self.param)
        self.log.info("solver.cpp:45", text)

    def _check(self) -> None:
        param = self.param
        if param.average_loss < 1:
            raise SolverError(
                f"average_loss must be 1 or more, not {param.average_loss}", where=self.place
            )
        if param.iter_size < 1:
            raise SolverError(
                f"iter_size must be 1 or more, not {param.iter_size}", where=self.place
            )
        if param.eval_type not in ("classification", "detection"):
            raise SolverError(
                f"eval_type must be classification or detection, not {param.eval_type!r}",
                where=self.place,
            )
        self.detection = param.eval_type == "detection"
        self.schedule = Schedule(param, self.profile, where=self._where)

    def _build(self, files: Sequence[str]) -> None:
        rng: CaffeRng | None = None
        if self.param.random_seed >= 0:
            rng = CaffeRng(self.param.random_seed + self.world.rank)
            torch.manual_seed(self.param.random_seed + self.world.rank)
        self.rng = rng
        spec, tests = self._specs
        self.log.info("solver.cpp:102", f"Creating training net from {spec.title}")
        self.net = self._make(spec)
        self._finetune(self.net, files)
        self.test_nets: list[Net] = []
        for i, test in enumerate(tests):
            self.log.info("solver.cpp:190", f"Creating test net (#{i}) specified by {test.title}")
            net = self._make(test)
            self._finetune(net, files)
            net.share_trained_layers_with(self.net)
            self.test_nets.append(net)
        self.optimizer = make_optimizer(
            self.param, self.profile, self.net.learnable, where=self._where
        )
        self.module = self.world.wrap(self.net, **self._speed)
        self.smoothed = LazyLoss(self.param.average_loss)
        self.log.info("solver.cpp:57", "Solver scaffolding done.")

    def _make(self, spec: NetSpec) -> Net:
        log_upgrade(self.log, spec.upgrade_log)
        log_filtering(self.log, spec.message, spec.state)
        net = build_net(
            spec,
            profile=self.profile,
            world=self.world,
            rng=self.rng,
            allow_python=self._allow_python,
            data_options=self._data_options,
            fuse=not (spec.message.debug_info or self.param.debug_info),
        )
        log_net(self.log, net, spec.message, spec.state)
        return net

    def _weights_field(self) -> list[str]:
        """The solver's own `weights` entries: each may be a comma list."""
        return [w.strip() for entry in self.param.weights for w in entry.split(",") if w.strip()]

    def _finetune(self, net: Net, files: Sequence[str]) -> None:
        for name in files:
            path = find_file(name, solver_folder(self.file), what="weights file", where=self.place)
            self.log.info("solver.cpp:72", f"Finetuning from {name}")
            log_upgrade_of_weights(self.log, path, self.profile)
            for ignored in net.copy_trained_layers_from(load_weights(path)):
                self.log.info("net.cpp:744", f"Ignoring source layer {ignored}")

    # -- running ---------------------------------------------------------------------------

    def solve(self, resume: str | os.PathLike[str] | None = None) -> bool:
        """Train to max_iter, as `caffe train` does; False if a signal stopped it early."""
        log, param = self.log, self.param
        log.info("solver.cpp:289", f"Solving {self.net.name}")
        log.info("solver.cpp:290", f"Learning Rate Policy: {param.lr_policy}")
        if resume is not None:
            self.restore(resume)
        if self.profile.initial_test_batch and self.test_nets:
            self._initial_test()
        finished = self.step(param.max_iter - self.iter)
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot):
            self.snapshot()
        if not finished:
            log.info("solver.cpp:311", "Optimization stopped early.")
            return False
        if param.display and self.iter % param.display == 0:
            self._extra_forward()
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        log.info("solver.cpp:332", "Optimization Done.")
        return True

    def _initial_test(self) -> None:
        """NVIDIA's one batch of every test net before training; it stands for the test at 0."""
        self.log.info("solver.cpp:381", "Initial Test started...")
        for index in range(len(self.test_nets)):
            self.test(index, batches=1)
        self.log.info("solver.cpp:385", "Initial Test completed")

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
        """Train `count` iterations; False if a signal stopped it before."""
        stop = self.iter + count
        self.smoothed.reset()
        self._timer, self._last = time.perf_counter(), self.iter
        self._began = self.iter
        while self.iter < stop:
            if self._test_due() and not self.test_all():
                return False
            started = time.perf_counter()
            loss = self._forward_backward()
            self.smoothed.add(loss)
            if self._display_due():
                self._display()
            rate = self._update()
            self.iter += 1
            self._report(loss, rate, time.perf_counter() - started)
            action = Action(self.world.agree(self.events.poll()))
            if self._snapshot_due() or action is Action.SNAPSHOT:
                self.snapshot()
            if action is Action.STOP:
                return False
        return True

    def _test_due(self) -> bool:
        every = self.param.test_interval
        first = self.iter > 0 or self.param.test_initialization
        first = first and not (self.profile.initial_test_batch and self.iter == self._began)
        return bool(every) and self.iter % every == 0 and first

    def _display_due(self) -> bool:
        return bool(self.param.display) and self.iter % self.param.display == 0

    def _snapshot_due(self) -> bool:
        return bool(self.param.snapshot) and self.iter % self.param.snapshot == 0

    def _forward_backward(self) -> Tensor:
        """Run iter_size batches; gradients add up, the mean loss (no gradient) is returned."""
        self.optimizer.zero_grad(set_to_none=True)
        size = self.param.iter_size
        total: Tensor | None = None
        self.net.keep_trace = bool(self.param.debug_info and self._display_due())
        for i in range(size):
            with self.world.accumulate(self.module, last=i == size - 1):
                loss, self.outputs = self.module()
                if self.net.keep_trace:
                    log_forward(self.log, self.net)
                if loss.requires_grad:
                    loss.backward()
                if self.net.keep_trace:
                    log_backward(self.log, self.net)
            part = loss.detach()
            total = part if total is None else total + part
        assert total is not None
        return total / size if size > 1 else total

    def _update(self) -> float:
        """ApplyUpdate: rate, clip, normalise, regularise, update. Returns the printed rate."""
        if self.schedule.policy == "plateau":
            self.rates.smoothed_loss = self.smoothed.value
        count = len(self.net.learnable)
        rates = self.schedule.rates(self.iter, self.rates, count, self._rate_line)
        if self._display_due():
            text = f"Iteration {self.iter}, lr = {number(float(rates.printed))}"
            self.log.info("sgd_solver.cpp:112", text)
        if self.profile.warmup and self.param.disabled_update:
            return float(rates.printed)  # Intel's switch for looking at gradients alone
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
        return float(rates.printed)

    def _rate_line(self, text: str) -> None:
        self.log.info("sgd_solver.cpp:50", text)

    def _report(self, loss: Tensor, rate: float, seconds: float) -> None:
        if self.events.iteration is not None:
            self.events.iteration(
                {"iter": self.iter, "lr": rate, "loss": loss, "seconds": seconds,
                 "images": self.images_per_iteration}
            )  # fmt: skip

    @property
    def images_per_iteration(self) -> int:
        """Records that all workers together read in one iteration."""
        for source in self.net.sources.values():
            if source.top_shapes and source.top_shapes[0]:
                return int(source.top_shapes[0][0]) * self.param.iter_size * self.world.size
        return 0

    # -- what is shown ---------------------------------------------------------------------

    def _display(self) -> None:
        if not self.log:
            return
        loss = number(self.smoothed.value)
        if self.profile.display_iter_speed:
            lapsed = time.perf_counter() - self._timer
            speed = (self.iter - self._last) / (lapsed or 1)
            pace = f" ({number(speed)} iter/s, {number(lapsed)}s/{self.param.display} iters)"
        else:
            pace = ""
        self.log.info("solver.cpp:239", f"Iteration {self.iter}{pace}, loss = {loss}")
        self._timer, self._last = time.perf_counter(), self.iter
        for i, (name, value) in enumerate(_scalars(self.net, self.outputs)):
            text = _with_weight(self.net, name, value)
            self.log.info("solver.cpp:258", f"    Train net output #{i}: {text}")

    # -- testing ---------------------------------------------------------------------------

    def test_all(self) -> bool:
        """Run every test net; False if a signal asked to stop meanwhile."""
        return all(self.test(i) is not None for i in range(len(self.test_nets)))

    def test(self, index: int = 0, *, batches: int | None = None) -> Scores | None:
        """Score test net `index` over `batches` (its test_iter); None if a signal stopped it."""
        net = self.test_nets[index]
        self.log.info("solver.cpp:347", f"Iteration {self.iter}, Testing net (#{index})")
        batches = self.param.test_iter[index] if batches is None else batches
        net.keep_trace = bool(self.param.debug_info)
        total: dict[str, Tensor] = {}
        loss = torch.zeros((), device=self.world.device)
        for _ in range(batches):
            action = Action(self.world.agree(self.events.poll()))
            if action is Action.SNAPSHOT:
                self.snapshot()
            elif action is Action.STOP:
                self.log.info("solver.cpp:400", "Test interrupted.")
                return None
            with torch.no_grad():
                outputs = net()
            if net.keep_trace:
                log_forward(self.log, net)
            loss += net.loss
            for name, value in outputs.items():
                if self.detection:
                    rows = [total[name]] if name in total else []
                    total[name] = torch.cat([*rows, value.float()], -2)
                else:
                    total[name] = total[name] + value if name in total else value.float().clone()
        return self._score(index, batches, loss, total)

    def _score(self, index: int, batches: int, loss: Tensor, total: dict[str, Tensor]) -> Scores:
        net = self.test_nets[index]
        if self.detection:
            total = {name: self._mean_precision(rows) for name, rows in total.items()}
        if self.profile.tests_on_all_workers:
            self.world.mean([loss, *total.values()])
        count = 1 if self.detection else batches
        means = {name: (value / count) for name, value in total.items()}
        result = Scores(
            index,
            self.iter,
            float(loss / batches),
            {name: value.cpu().numpy() for name, value in means.items()},
        )
        if self.param.test_compute_loss:
            self.log.info("solver.cpp:405", f"Test loss: {number(result.loss)}")
        for i, (name, value) in enumerate(_scalars(net, means)):
            text = _with_weight(net, name, value)
            self.log.info("solver.cpp:414", f"    Test net output #{i}: {text}")
        if self.events.test is not None:
            self.events.test(result)
        return result

    def _mean_precision(self, rows: Tensor) -> Tensor:
        """The mAP of all rows of a test's DetectionEvaluate, a scalar on the worker's device."""
        found = detection_map(rows.flatten(0, -2).cpu().numpy(), self.param.ap_version)
        if self.param.show_per_class_result:
            for label, value in found.by_label.items():
                self.log.info("solver.cpp:414", f"class{label}: {number(value)}")
        return torch.tensor(found.mean, device=self.world.device)

    # -- snapshots -------------------------------------------------------------------------

    def snapshot(self) -> tuple[str, str]:
        """Write `<prefix>_iter_<N>` weights and state; returns their paths."""
        paths = self.snapshots.write()
        if self.events.snapshot is not None:
            self.events.snapshot(*paths)
        return paths

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go on from a .solverstate (binary or .h5): iteration, weights, history, rate state."""
        self.snapshots.restore(path)

    def close(self) -> None:
        """Stop reading data."""
        for net in (self.net, *self.test_nets):
            for source in net.sources.values():
                close = getattr(source, "close", None)
                if close is not None:
                    close()


def _dialect(solver: str, net: str) -> str:
    """The dialect of a run: the solver's, or the net's where the solver uses BVLC's fields only."""
    return net if solver == "bvlc" else solver


def _scalars(net: Net, outputs: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Every element of every output, in Caffe's order."""
    for name in net.outputs:
        for value in outputs[name].detach().reshape(-1).tolist():
            yield name, value


def _with_weight(net: Net, name: str, value: float) -> str:
    weight = net.loss_weight_of(name)
    text = f"{name} = {number(value)}"
    if weight:
        product = float(np.float32(weight) * np.float32(value))
        text += f" (* {number(weight)} = {number(product)} loss)"
    return text


__all__ = ["ALONE", "Action", "Events", "Scores", "Trainer"]
