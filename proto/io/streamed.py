"""Walks over an array that is a map of a file, without keeping the file in memory."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

AHEAD = 32 << 20  # bytes that are read in one go
_POPULATE = 22  # MADV_POPULATE_READ of Linux 5.14: thousands of pages with one call


def streamed(flat: NDArray[Any], count: int) -> Iterator[NDArray[Any]]:
    """Pieces of `count` values of a one-dimensional array, the last one shorter.

    Of a large part of a mapped file the pages are read ahead, and given back when they are done
    with: they are not counted as this process's memory, and stay in the system's cache.
    """
    found = _mapped(flat) if flat.nbytes > AHEAD else None
    step = max(AHEAD // flat.itemsize // count, 1) * count if found else max(flat.size, 1)
    for begin in range(0, flat.size, step):
        part = flat[begin : begin + step]
        if found is not None:
            start = found[1] + begin * flat.itemsize
            _advise(found[0], _POPULATE, start, part.nbytes)
        for at in range(0, part.size, count):
            yield part[at : at + count]
        if found is not None:
            _advise(found[0], getattr(mmap, "MADV_DONTNEED", None), start, part.nbytes)


def _mapped(flat: NDArray[Any]) -> tuple[mmap.mmap, int] | None:
    """The map in which an array lies one value behind the other, and at which byte of it."""
    if not flat.flags.c_contiguous:
        return None
    base: Any = flat
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, mmap.mmap):
        return None
    whole = np.frombuffer(base, np.uint8)
    return base, int(flat.ctypes.data) - int(whole.ctypes.data)


def _advise(whole: mmap.mmap, advice: int | None, start: int, length: int) -> None:
    """Tell the system what will be done with bytes of a map, where it listens."""
    if advice is None or not hasattr(whole, "madvise"):
        return
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    with contextlib.suppress(OSError, ValueError):
        whole.madvise(advice, first, min(start + length, len(whole)) - first)
