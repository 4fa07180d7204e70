"""Which device a command runs on."""

from __future__ import annotations


def choose(device: str | None, gpu: str | None) -> str:
    """The torch device that --device and -gpu ask for; the CPU without them."""
    if gpu:
        return f"cuda:{gpu.split(',')[0]}" if gpu != "all" else "cuda"
    if device == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return device or "cpu"
