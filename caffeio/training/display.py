"""The lines about the training itself: loss, outputs, rate.

Source: src/caffe/solver.cpp (Step), src/caffe/solvers/sgd_solver.cpp (PrintRate of NVIDIA's).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from caffeio.log.glog import stream_float
from caffeio.net.net import Net
from caffeio.solver.policies import nvidia_momentum, nvidia_weight_decay
from caffeio.training.state import TrainingState


class Display:
    """When and what a training shows of its iterations, by the rules of its profile."""

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self.every = int(state.param.display)
        self.nvidia = state.shows_as_nvidia
        self._timed = time.perf_counter()
        self._shown = self._began = self._stop = 0
        self._said_bad = False

    def begin(self, stop: int) -> None:
        """A call of `step` begins, which goes on to iteration `stop`."""
        self._timed = time.perf_counter()
        self._shown = self._began = self.state.iter
        self._stop = stop

    @property
    def on_grid(self) -> bool:
        """Whether the iteration is one that `display` names: debug_info and the rate follow it."""
        return bool(self.every) and self.state.iter % self.every == 0

    @property
    def due(self) -> bool:
        """Whether this iteration's loss is shown: NVIDIA also shows the first and the last ones."""
        if not self.nvidia:
            return self.on_grid
        now = self.state.iter
        edge = now - self._began <= 2 or now + 1 == self._stop
        return self.every > 0 and (edge or self.on_grid)

    def show(self, outputs: Mapping[str, Tensor]) -> None:
        """The loss line and a line for every element of the outputs."""
        state, log = self.state, self.state.log
        if not log:
            return
        now = time.perf_counter()
        loss = stream_float(state.smoothed.value)
        self.say_bad_loss()
        if self.nvidia:
            text = self._nvidia_line(now - self._timed, loss)
        else:
            text = f"Iteration {state.iter}{self._pace(now - self._timed)}, loss = {loss}"
        log.info("solver.cpp:239", text)
        self._timed, self._shown = time.perf_counter(), state.iter
        head = "    [0.0]     " if self.nvidia else "    "
        for i, text in enumerate(outputs_as_text(state.net, outputs)):
            log.info("solver.cpp:258", f"{head}Train net output #{i}: {text}")

    def say_bad_loss(self) -> None:
        """Say once that the loss is no number any more, and since which iteration."""
        state = self.state
        _ = state.smoothed.value  # reads what is waiting
        bad = state.smoothed.first_bad
        if bad is None or self._said_bad:
            return
        self._said_bad = True
        state.log.note(
            f"THE LOSS IS NOT A NUMBER since iteration {self._began + bad}: the weights are lost, "
            "and go on being so. Usual causes: base_lr too large, no warm-up, a loss of log(0), "
            "labels or pictures that are broken",
            level="W",
        )

    def _pace(self, seconds: float) -> str:
        if not self.state.profile.display_iter_speed:
            return ""
        speed = (self.state.iter - self._shown) / (seconds or 1)
        return f" ({stream_float(speed)} iter/s, {stream_float(seconds)}s/{self.every} iters)"

    def _nvidia_line(self, seconds: float, loss: str) -> str:
        now = self.state.iter
        name = self._stop if now + 1 == self._stop else now
        pace = f"{stream_float(seconds)} s"
        if now - self._began > 2:
            done = now - self._shown
            speed = stream_float(done / (seconds or 1))
            pace = f"{speed} iter/s, {stream_float(seconds)}s/{done} iter"
        return f"    [0.0] Iteration {name} ({pace}), loss = {loss}"

    def show_rate(self, rate: float) -> None:
        """The line of the learning rate."""
        state = self.state
        text = f"Iteration {state.iter}, lr = {stream_float(rate)}"
        if self.nvidia:
            momentum = np.float32(nvidia_momentum(state.param, state.iter, rate))
            decay = nvidia_weight_decay(state.param, state.iter)
            with np.errstate(all="ignore"):
                effective = np.float32(rate) / (np.float32(1) - momentum)
            text = (
                f"[0.0] {text}, m = {stream_float(float(momentum))}, lrm = "
                f"{stream_float(float(effective))}, wd = {stream_float(float(decay))}, gs = 1"
            )
        state.log.info("sgd_solver.cpp:112", text)


def outputs_as_text(net: Net, outputs: Mapping[str, Tensor]) -> Iterator[str]:
    """`name = value (* weight = product loss)` of every element of every output, in Caffe's order.

    The product is that of float32 numbers, as it is in Caffe.
    """
    for name in net.outputs:
        weight = net.loss_weight_of(name)
        for value in outputs[name].detach().reshape(-1).tolist():
            text = f"{name} = {stream_float(value)}"
            if weight:
                product = float(np.float32(weight) * np.float32(value))
                text += f" (* {stream_float(weight)} = {stream_float(product)} loss)"
            yield text
