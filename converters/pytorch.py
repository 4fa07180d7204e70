"""Weights as a PyTorch state_dict; the work is done in `caffeio.proto.weights.pytorch`."""

from __future__ import annotations

from caffeio.proto.weights.pytorch import read, write

__all__ = ["read", "write"]
