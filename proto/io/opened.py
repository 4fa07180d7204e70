"""Files that one piece of work looks at several times: each is opened once, its dialect found once.

Within `opened_once()` the map of a binary file is kept until the work is done, and given out again
while the file of that name is still the same one. Other threads, and everything outside, open
files as ever.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from caffeio.proto.io.regular import TEXT_LIMIT, open_regular

if TYPE_CHECKING:
    from caffeio.proto.io.wire import Buffer

T = TypeVar("T")
_Identity = tuple[int, int, int, int]  # device, inode, size, time of the last change


@dataclass
class _Held:
    """The maps by what their files were when they were opened, and what was found out of each."""

    maps: dict[_Identity, Buffer] = field(default_factory=dict)
    found: dict[tuple[int, object], Any] = field(default_factory=dict)  # by the map's id


_HELD: ContextVar[_Held | None] = ContextVar("opened", default=None)


@contextmanager
def opened_once() -> Iterator[None]:
    """Keep the maps of binary files until the end of the block; an inner block changes nothing."""
    if _HELD.get() is not None:
        yield
        return
    token = _HELD.set(_Held())
    try:
        yield
    finally:
        _HELD.reset(token)


def open_map(path: str | os.PathLike[str]) -> Buffer:
    """The bytes of a file as a read-only map; of an empty one, or one without a size, as read.

    Raises OSError unless it is a regular file that can be read.
    """
    known = _known(path)
    if known is not None:
        return known
    with open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            return file.read(TEXT_LIMIT)  # nothing, or a file of /proc without a size
        return _keep(file.fileno())


def read_head(
    path: str | os.PathLike[str], count: int, is_binary: Callable[[bytes], bool]
) -> tuple[bytes, int]:
    """The first `count` bytes of a file, and how many it has; what is binary will be mapped soon.

    Raises OSError unless it is a regular file that can be read.
    """
    known = _known(path)
    if known is not None:
        return bytes(known[:count]), len(known)
    with open_regular(path) as file:
        head = file.read(count)
        size = os.fstat(file.fileno()).st_size
        if size and _HELD.get() is not None and is_binary(head):
            _keep(file.fileno())
        return head, size or len(head)


def found_once(data: Buffer, key: object, find: Callable[[], T]) -> T:
    """What `find` finds out of a map; within `opened_once` it is looked for once."""
    held = _HELD.get()
    if held is None or not any(data is buffer for buffer in held.maps.values()):
        return find()
    if (id(data), key) not in held.found:
        held.found[id(data), key] = find()
    value: T = held.found[id(data), key]
    return value


def _known(path: str | os.PathLike[str]) -> Buffer | None:
    """The map of the file that has this name now, if it is held."""
    held = _HELD.get()
    if held is None or not held.maps:
        return None
    try:
        return held.maps.get(_identity(os.stat(path)))
    except (OSError, ValueError):
        return None  # to open it tells why


def _keep(descriptor: int) -> Buffer:
    """Map an open file, and hold the map if there is a block that wants it."""
    buffer = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    held = _HELD.get()
    if held is not None:
        held.maps[_identity(os.fstat(descriptor))] = buffer
    return buffer


def _identity(state: os.stat_result) -> _Identity:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
