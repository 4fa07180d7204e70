"""Arrays of more than 4 GB that cost no memory, no disk and hardly any time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from caffeio.proto.io import stream
from tests.paths import NIGHT

SHAPE = (1080, 1_000_000)  # of float32: 4.32 GB
_EDGE = 64 << 20


def huge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    """An array whose last number is 1079, and a writer that leaves out its zeros.

    All that a writer does is done, but for the system calls between the first and the last 64 MB of
    the file: a hole is there, which reads as zeros. At night every row is full of its number, and
    written.
    """
    if NIGHT:
        return np.broadcast_to(np.arange(SHAPE[0], dtype=np.float32)[:, None], SHAPE)
    array = np.memmap(folder / "zeros", np.float32, "w+", shape=SHAPE)
    array[-1, -1] = SHAPE[0] - 1
    write = stream._flush

    def with_a_hole(
        descriptor: int, batch: list[stream.Bytes | memoryview], place: int, sync: bool
    ) -> int:
        length = sum(map(len, batch))
        if place > _EDGE and place + length < array.nbytes - _EDGE:
            return os.lseek(descriptor, length, os.SEEK_CUR)
        return write(descriptor, batch, place, sync)

    monkeypatch.setattr(stream, "_flush", with_a_hole)
    return array
