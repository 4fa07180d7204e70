"""How workers find each other, and what it means when they cannot."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from caffeio.errors import CaffeIOError
from caffeio.training.watchdog import DEFAULT

TIMEOUT = timedelta(hours=6)  # a test on rank 0 alone may take long


def worker_timeout() -> float:
    """Seconds of silence after which a worker is lost (--worker-timeout)."""
    return float(os.environ.get("CAFFEIO_WORKER_TIMEOUT", DEFAULT))


def connect(backend: str, rank: int, size: int) -> None:
    """Find the other workers. Raises CaffeIOError when a port is taken, or somebody is missing."""
    wait = timedelta(seconds=worker_timeout())
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=wait))
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        mine = PrefixStore(f"caffeio/{restart}", store)
        dist.init_process_group(backend, store=mine, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:
        raise lost_workers(error) from None


def is_connection_error(error: BaseException) -> bool:
    """Whether an error means that another worker, or the way to it, has gone."""
    if type(error).__name__ in ("DistNetworkError", "DistStoreError", "DistBackendError"):
        return True
    text = str(error)
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return isinstance(error, RuntimeError) and any(word in text for word in words)


def lost_workers(error: BaseException) -> CaffeIOError:
    """The user's error for a connection to other workers that cannot be made, or is lost."""
    text = " ".join(str(error).split())
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    if "EADDRINUSE" in text or "already in use" in text:
        return CaffeIOError(f"port {place} is in use: choose another MASTER_PORT")
    if "Connection closed" in text or "reset by peer" in text or "Broken pipe" in text:
        return CaffeIOError("another worker has gone: its own message says why")
    return CaffeIOError(f"the other workers cannot be reached at {place}: {text[:200]}")
