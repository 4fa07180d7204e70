"""One iteration of a training: batches forward and backward, then the update.

Source: src/caffe/solver.cpp (Step), src/caffe/solvers/sgd_solver.cpp (ApplyUpdate).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from caffeio.log.debug_info import log_backward, log_forward
from caffeio.log.glog import stream_float
from caffeio.memory import is_memory_error
from caffeio.net.room import named
from caffeio.net.step import raw_blobs
from caffeio.solver.schedule import Rates, Schedule
from caffeio.training.display import Display
from caffeio.training.state import TrainingState


class Iteration:
    """Runs the iterations of one training."""

    outputs: Mapping[str, Tensor]  # of the last training batch, by name

    def __init__(
        self, state: TrainingState, module: nn.Module, schedule: Schedule, display: Display
    ) -> None:
        """`module` is what `World.wrap` has made of the net."""
        self.state = state
        self.module = module
        self.schedule = schedule
        self.display = display

    def forward_backward(self) -> Tensor | None:
        """Run iter_size batches; gradients add up, the mean loss (no gradient) is returned.

        None if a signal asked to stop among many batches: then all is as before them.
        """
        for item in self.state.net.learnable:
            item.tensor.grad = None
        self.state.kept.begin()
        size = self.state.param.iter_size
        trace = bool(self.state.param.debug_info) and self.display.on_grid
        if self.state.net.keep_trace is not trace:
            self.state.net.keep_trace = trace
        if size == 1:
            return self._one_batch(trace)
        total: Tensor | None = None
        world = self.state.world
        stops = world.all_reduce_any_async(False)
        for i in range(size):
            if stops():  # all workers ask in the same batch
                self.state.kept.put_back()
                return None
            stops = world.all_reduce_any_async(self.state.events.hurry())
            if i and self.state.profile.parameter_keeps_last:
                self._forget_parameters()
            with self.state.world.accumulate(self.module, last=i == size - 1):
                part = self._one_batch(trace)
            total = part if total is None else total + part
        stops()
        assert total is not None
        return total / size

    def _forget_parameters(self) -> None:
        """Parameter's top is its blob: a backward pass writes the gradient, it does not add."""
        blobs = [blob for layer in self.state.net.layers for blob in raw_blobs(layer)]
        for layer in self.state.net.layers:
            for blob in raw_blobs(layer) if layer.type_name == "Parameter" else ():
                if sum(blob is other for other in blobs) == 1:
                    blob.grad = None

    def _one_batch(self, trace: bool) -> Tensor:
        loss: Tensor
        try:
            loss, self.outputs = self.module()
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            raise named(error) from error
        if trace:
            log_forward(self.state.log, self.state.net)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        if trace:
            log_backward(self.state.log, self.state.net)
        return loss.detach()

    def update(self) -> float:
        """ApplyUpdate: rate, clip, normalise, regularise, update. Returns the printed rate."""
        state = self.state
        if self.schedule.policy == "plateau":
            state.rates.smoothed_loss = state.smoothed.value
        rates = self._ask_rates()
        printed = float(rates.printed)
        if self.display.on_grid:
            self.display.show_rate(printed)
        if state.profile.warmup and state.param.disabled_update:
            return printed  # Intel's switch for looking at gradients alone
        clipped = state.optimizer.clip(report=bool(state.log))
        if clipped is not None and state.log:
            norm, scale = clipped
            state.log.info(
                "sgd_solver.cpp:99",
                f"Gradient clipping: scaling down gradients (L2 norm {stream_float(norm)} > "
                f"{stream_float(state.param.clip_gradients)}) by scale factor "
                f"{stream_float(scale)}",
            )
        used = rates.used if isinstance(rates.used, np.ndarray) else float(rates.used)
        state.whole = False
        state.optimizer.step(used, state.iter)
        return printed

    def _ask_rates(self) -> Rates:
        state, schedule = self.state, self.schedule
        count = len(state.net.learnable)
        if not state.profile.late_rate or self._updates_at_once():
            return schedule.rates(state.iter, state.rates, count, self._rate_line)
        printed = schedule.rate(state.iter, state.rates, self._rate_line)
        calls = count if schedule.stateful else 1
        following = state.iter + 1
        later = [schedule.rate(following, state.rates, self._rate_line) for _ in range(calls)]
        return Rates(printed, np.array(later, np.float32) if calls > 1 else later[0])

    def _updates_at_once(self) -> bool:
        """Intel's nodes: whether this iteration waits for its updates, instead of the next one."""
        every, following = self.state.param.test_interval, self.state.iter + 1
        return following >= self.state.param.max_iter or bool(every and following % every == 0)

    def _rate_line(self, text: str) -> None:
        self.state.log.info("sgd_solver.cpp:50", text)
