"""How many cores there are to work with, and how many processes share them."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """How many cores this process may use; all of the machine where the system keeps no such set.

    macOS and Windows have no os.sched_getaffinity.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_world() -> int:
    """How many processes of this run share the machine (torchrun says so)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
