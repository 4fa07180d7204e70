"""A batch on its way: its memory, the jobs that fill it, and what they gave."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caffeio.data.base import Shape, SourceContext
from caffeio.data.draws import Draws
from caffeio.data.transform.transformer import Transformer
from caffeio.memory import check_room, memory_named
from caffeio.shape_text import format_shape


class Slot:
    """Memory of one batch of images: float32, or uint8 on its way to a GPU."""

    def __init__(self, batch: int, item: Shape, dtype: torch.dtype, last: bool, pin: bool) -> None:
        self.item = item  # (C, H, W)
        self.last = last  # memory is (N, H, W, C)
        channels, height, width = item
        shape = (batch, height, width, channels) if last else (batch, *item)
        self.memory = torch.empty(shape, dtype=dtype, pin_memory=pin)
        self.rows: NDArray[Any] = self.memory.numpy()
        self.labels = torch.empty(batch, dtype=torch.float32, pin_memory=pin)
        self.label_rows: NDArray[np.float32] = self.labels.numpy()
        self.copied: torch.cuda.Event | None = None  # the last copy out of this memory

    def wait(self) -> None:
        """Wait until the memory may be written again."""
        if self.copied is not None:
            self.copied.synchronize()
            self.copied = None


class Parts:
    """The parts of a batch, on which threads work: one waits for all of them, and wakes once.

    Who waited for one part after the other would be woken, and would take a core, for each.
    """

    def __init__(self, futures: Sequence[Future[list[Result]]]) -> None:
        self._futures, self._left = futures, len(futures)
        self._lock, self._ended = threading.Lock(), threading.Event()
        for future in futures:
            future.add_done_callback(self._one_less)

    def _one_less(self, _: Future[list[Result]]) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._ended.set()

    def results(self) -> list[Result]:
        """The results of all samples in order; raises the error of the first part that has one."""
        self._ended.wait()
        return [result for future in self._futures for result in future.result()]

    def settle(self) -> None:
        """Wait for what still runs; what has not begun never will."""
        for future in self._futures:
            future.cancel()
        self._ended.wait()


class Delivery:
    """From memory of batches to tensors where they are wanted.

    For a GPU the bare uint8 pixels travel, and are normalised there; float records, and images
    from which a mean image is subtracted, are normalised here.
    """

    def __init__(self, layer: SourceContext, transformer: Transformer, planar: bool) -> None:
        self.device = layer.options.device or torch.device("cpu")
        self.where = f"layer {layer.param.name!r} (type {layer.param.type})"
        self.channels_last = layer.options.channels_last
        self.transformer = transformer
        self.scaled = layer.profile.data_scaled_mean
        plain = transformer.mean is None and not (planar and self.scaled)
        self.bare = self.device.type == "cuda" and plain
        self._means: Tensor | None = None  # on the device
        self._stream: Any = None  # copies and normalizes while the device computes
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def slot(self, batch: int, item: Shape) -> Slot:
        """Memory for a batch of items (C, H, W)."""
        dtype = torch.uint8 if self.bare else torch.float32
        last = self.channels_last or self.bare
        where = f"{self.where}, a batch of {batch} x {format_shape(item, ' x ')}"
        with memory_named(where):
            check_room(batch * math.prod(item) * dtype.itemsize, where)
            return Slot(batch, item, dtype, last, self.device.type == "cuda")

    def send(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; on a CPU it stays what it is."""
        return tensor.to(self.device, non_blocking=True)

    def sent(self, slot: Slot) -> None:
        """Note that the slot must not be written before what was sent has arrived."""
        if self.device.type == "cuda":
            slot.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            slot.copied.record()

    def values(self, values: NDArray[np.float32]) -> Tensor:
        """A batch that did not fit its slot: (N, C, H, W) float32."""
        return self._ordered(torch.from_numpy(values).to(self.device))

    def images(self, slot: Slot) -> Tensor:
        """The slot's images: (N, C, H, W) float32."""
        if self._stream is None:
            return self._images(slot)
        with torch.cuda.stream(self._stream):
            data = self._images(slot)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._stream)
        data.record_stream(computing)
        return data

    def _images(self, slot: Slot) -> Tensor:
        data = self.send(slot.memory)
        data = data.permute(0, 3, 1, 2) if slot.last else data
        return self._ordered(self._normalize(data) if self.bare else data)

    def _ordered(self, data: Tensor) -> Tensor:
        if self.channels_last:
            return data.contiguous(memory_format=torch.channels_last)
        return data.contiguous()

    def _normalize(self, pixels: Tensor) -> Tensor:
        t, data = self.transformer, pixels.to(torch.float32)
        if self.scaled:
            data = data.mul_(float(t.scale))
        if len(t.means):
            if self._means is None:
                means = np.array(t.means_of(data.shape[1]))
                means = means * t.scale if self.scaled else means
                self._means = torch.from_numpy(means).to(data.device)[:, None, None]
            data = data.sub_(self._means)
        return data if self.scaled else data.mul_(float(t.scale))


@dataclass(slots=True)
class SampleTask:
    """One sample: what is needed to load it in another thread."""

    record: Any  # a view of the record, a path ...
    draws: Draws
    name: str | bytes | memoryview  # key or path, for messages
    number: int  # of the sample in the run of this rank
    label: float = 0.0


@dataclass(slots=True)
class Result:
    """What loading a sample gave: its shape, and its values if they did not fit the slot."""

    shape: Shape
    values: NDArray[np.float32] | None = None
    extra: Any = None
