"""Weights as safetensors; the work is done in `caffeio.proto.weights.safetensors`."""

from __future__ import annotations

from caffeio.proto.weights.safetensors import read, write

__all__ = ["read", "write"]
