"""LazyLoss: averages losses, and reads their tensors only when the average is asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caffeio.solver.schedule import SmoothedLoss


class LazyLoss:
    """Collects the losses of iterations as tensors; they are read when a value is asked for."""

    def __init__(self, average_loss: int) -> None:
        self._size = average_loss
        self.reset()

    def reset(self) -> None:
        """Forget everything: Caffe does at the start of every Step."""
        self._pending: list[Tensor] = []
        self._smoothed = SmoothedLoss(self._size)
        self._read = 0
        self.first_bad: int | None = None  # which one, from 0, was the first that is no number

    def add(self, loss: Tensor) -> None:
        """The loss of one iteration, a scalar tensor."""
        self._pending.append(loss)
        if len(self._pending) >= 4096:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            for item in torch.stack(self._pending).tolist():
                self._smoothed.update(item)
                if self.first_bad is None and not math.isfinite(item):
                    self.first_bad = self._read
                self._read += 1
            self._pending.clear()

    @property
    def value(self) -> float:
        """The mean over the last `average_loss` iterations, in Caffe's float32 arithmetic."""
        self._flush()
        return float(self._smoothed.value)
