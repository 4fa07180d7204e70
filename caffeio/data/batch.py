"""A batch on its way: its memory, the jobs that fill it, and what they gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caffeio.data.base import Shape
from caffeio.data.rng import Draws


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


@dataclass(slots=True)
class Job:
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
