"""Whether this machine can have a GPU at all: asked before torch, which takes a second to load."""

from __future__ import annotations

import sys
from pathlib import Path

from caffeio.errors import CaffeIOError

# What a driver makes: NVIDIA's (on Jetson boards: nvhost, nvmap), AMD's, Windows' own within WSL.
DEVICES = ("nvidiactl", "nvidia0", "nvhost-ctrl", "nvmap", "kfd", "dxg")


def may_be_there(dev: Path = Path("/dev")) -> bool:
    """Return False where there is surely no GPU: a Linux without a driver's device files."""
    return not sys.platform.startswith("linux") or any((dev / name).exists() for name in DEVICES)


def no_gpu(reason: str | None) -> CaffeIOError:
    """Make the error of those who ask for a GPU where there is none; `reason` says what asks."""
    return CaffeIOError(
        f"a GPU is asked for ({reason or '-gpu or --device cuda'}), but PyTorch sees none: say "
        "--device cpu to run on the CPU"
    )


def require_gpu(device: str | None, reason: str | None = None) -> None:
    """Raise CaffeIOError at once for a torch device of CUDA where there is surely no GPU."""
    if device is not None and device.startswith("cuda") and not may_be_there():
        raise no_gpu(reason)
