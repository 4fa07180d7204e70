"""Memory that is not there: how much is free, and one error that names what needs how much."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caffeio.errors import CaffeIOError, OutOfMemoryError

_TORCH = re.compile(r"allocate (\d+) bytes")  # DefaultCPUAllocator: you tried to allocate N bytes
_NUMBER = re.compile(r"allocate ([\d.]+) (bytes|KiB|MiB|GiB|TiB|PiB|EiB)", re.IGNORECASE)
_POWER = {"bytes": 0, "kib": 1, "mib": 2, "gib": 3, "tib": 4, "pib": 5, "eib": 6}
_STEP_METHODS = ("_run", "forward", "initialize", "read_inputs")  # of Net: they have a `step`
_CGROUP = Path("/sys/fs/cgroup")
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "file "),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "cache"),
)  # fmt: skip
_TOO_LARGE = (  # what PyTorch and numpy say of sizes that no machine has
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Unable to allocate",
    "Storage size calculation overflowed",
    "array is too big",
    "Maximum allowed dimension exceeded",
    "numel: integer multiplication overflow",
    "Invalid shape dimension",
    "Trying to create tensor with negative dimension",
    "std::bad_alloc",
)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no cycles of garbage meanwhile: a net that is built has many objects and none."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for what it takes next; returns whether it does now.

    glibc gives large blocks back to the system at once, and gets them again page by page, each
    cleared: 5 % and more of a training step whose blobs have the same sizes in every iteration.
    For commands only: a program that caffeio is a part of decides for itself. Does nothing where
    there is no glibc, or where MALLOC_* variables or GLIBC_TUNABLES have set it already.
    Source: mallopt(3).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    settings = ((mmap_max, 0), (trim_threshold, -1), (top_pad, 64 << 20))
    return all(mallopt(name, value) for name, value in settings)


def free_bytes() -> int | None:
    """The bytes of memory that this process may still take; None if it is not known.

    The least of what the machine has available, what the control group leaves (containers), and
    what the process's own limit (ulimit -v) leaves.
    """
    found = [n for n in (_available(), _group(), _limit()) if n is not None]
    return min(found) if found else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(size) * 1024 for size in sizes), None)


def _group() -> int | None:
    """What the control group leaves; pages of files count as used there, and can be dropped."""
    for limit, used, facts, name in _GROUPS:
        try:
            most = (_CGROUP / limit).read_text().strip()
            if most.isdigit():
                lines = (_CGROUP / facts).read_text().splitlines()
                cache = next((int(x.split()[1]) for x in lines if x.startswith(name)), 0)
                return max(0, int(most) - int((_CGROUP / used).read_text()) + cache)
        except (OSError, ValueError):
            continue
    return None


def _limit() -> int | None:
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        return max(0, soft - pages * os.sysconf("SC_PAGESIZE"))
    except (ImportError, OSError):
        return None


def bytes_text(count: float) -> str:
    """A number of bytes for people: 1 kB is 1000 bytes."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception of Python, numpy or PyTorch means that memory is not there."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return not isinstance(error, CaffeIOError)
    return isinstance(error, RuntimeError | ValueError | OverflowError) and any(
        text.lower() in str(error).lower() for text in _TOO_LARGE
    )


def bytes_of_error(error: BaseException) -> int | None:
    """The bytes that an allocation asked for, by its message."""
    text = str(error)
    if found := _TORCH.search(text):
        return int(found[1])
    if found := _NUMBER.search(text):
        return int(float(found[1]) * 1024 ** _POWER[found[2].lower()])
    return None


def memory_error(
    error: BaseException, where: str | None = None, *, needed_bytes: int | None = None
) -> OutOfMemoryError:
    """The user's error: what did not fit, the bytes it needs and the bytes that are free."""
    needed_bytes = needed_bytes if needed_bytes is not None else bytes_of_error(error)
    free = free_bytes()
    text = "not enough memory"
    facts = [f"{bytes_text(needed_bytes)} are wanted"] if needed_bytes is not None else []
    if free is not None and "CUDA" not in str(error):
        facts.append(f"{bytes_text(free)} are free")
    if needed_bytes is None and str(error) and not isinstance(error, MemoryError):
        facts.insert(0, str(error).splitlines()[0].strip())
    return OutOfMemoryError(f"{text}: {', '.join(facts)}" if facts else text, where=where)


@contextmanager
def memory_named(where: str) -> Iterator[None]:
    """Turn an allocation that fails inside into one error that names `where`."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError, OverflowError) as error:
        if not is_memory_error(error):
            raise
        raise memory_error(error, where) from None


def check_room(needed_bytes: int, where: str) -> None:
    """Raise OutOfMemoryError for more bytes than are free: before anything is touched.

    Linux gives memory that it does not have and kills the process later, so sizes that a file
    claims are compared with what is free beforehand.
    """
    free = free_bytes()
    if free is not None and needed_bytes > free:
        raise memory_error(MemoryError(), where, needed_bytes=needed_bytes)


def layer_of(error: BaseException) -> str | None:
    """The layer that a net was running or building when the error came, by the error's frames."""
    found, trace = None, error.__traceback__
    while trace is not None:
        node = getattr(trace.tb_frame.f_locals.get("step"), "node", None)
        if node is not None and trace.tb_frame.f_code.co_name in _STEP_METHODS:
            found = f"layer {node.name!r} (type {node.type})"
        trace = trace.tb_next
    return found
