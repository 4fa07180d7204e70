"""caffe.Timer. Source: src/caffe/util/benchmark.cpp."""

from __future__ import annotations

import time


class Timer:
    """Measures the time between start() and stop()."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0
        self._running = False

    def start(self) -> None:
        """Begin to measure."""
        self._began, self._running = time.perf_counter(), True

    def stop(self) -> None:
        """Stop measuring; work on a GPU is waited for."""
        if self._running:
            from caffeio.pycaffe.state import compute_device

            device = compute_device()
            if device.type == "cuda":
                import torch

                torch.cuda.synchronize(device)
            self._ended, self._running = time.perf_counter(), False

    @property
    def ms(self) -> float:
        """Milliseconds between the last start and stop."""
        self.stop()
        return (self._ended - self._began) * 1000
