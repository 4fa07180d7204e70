"""Which device a command runs on."""

from __future__ import annotations

from caffeio.gpus import may_be_there, require_gpu


def choose(device: str | None, gpu: str | None) -> str:
    """The torch device that --device and -gpu ask for; the CPU without them.

    Raises CaffeIOError, before torch is loaded, for a GPU where there is surely none.
    """
    if device == "auto" and not gpu:
        if not may_be_there():
            return "cpu"
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    chosen = device or "cpu"
    if gpu:
        chosen = f"cuda:{gpu.split(',')[0]}" if gpu != "all" else "cuda"
    require_gpu(chosen)
    return chosen
