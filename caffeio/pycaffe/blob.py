"""Blobs of a live net, as scripts see them. Source: python/caffe/_caffe.cpp, blob.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from caffeio.layers.python.pycaffe import BlobVec as _BlobVec
from caffeio.layers.python.pycaffe import PyBlob
from caffeio.pycaffe.memory import CPU, Array, Memory

MAX_LEGACY_AXES = 4


class Blob(PyBlob):
    """Numbers of some shape and their gradient: what a net computes with, not a copy of it.

    `data` and `diff` are writable float32 arrays over the net's own memory. `reshape` changes
    this blob alone; what depends on it follows in the next forward, or in the net's reshape().
    """

    def __init__(self, shape: Sequence[int] = (), *, empty: bool = False) -> None:
        super().__init__(shape, empty=empty)
        self.memory = {"data": Memory(), "diff": Memory()}

    def _view(self, kind: str) -> Array:
        flat = self.memory[kind].array(self._count)
        return flat if prod(self._shape) != self._count else flat.reshape(self._shape)

    def reshape(self, *dims: int) -> None:
        """Give the blob new dimensions; the memory stays unless more is needed."""
        super().reshape(*dims)

    def values(self, device: torch.device = CPU) -> Tensor:
        """The data as a tensor."""
        return self.memory["data"].tensor(self._shape, device)

    def gradient(self, device: torch.device = CPU) -> Tensor:
        """The diff as a tensor."""
        return self.memory["diff"].tensor(self._shape, device)

    def set_values(self, value: Tensor) -> None:
        """Let `value`, which nothing else uses, be the data."""
        if value.shape != self._shape:
            self._shape = tuple(value.shape)
        self._count = value.numel()
        self.memory["data"].put(value)

    def set_gradient(self, value: Tensor) -> None:
        """Let `value`, which nothing else uses, be the diff."""
        self.memory["diff"].put(value)

    def share_data(self, other: Blob) -> None:
        """Use the data memory of `other`."""
        self.memory["data"] = other.memory["data"]

    def share_diff(self, other: Blob) -> None:
        """Use the diff memory of `other`."""
        self.memory["diff"] = other.memory["diff"]

    @property
    def _gpu_data_ptr(self) -> int:
        from caffeio.pycaffe.state import gpu

        return self.memory["data"].pointer(gpu(), self._shape)

    @property
    def _gpu_diff_ptr(self) -> int:
        from caffeio.pycaffe.state import gpu

        return self.memory["diff"].pointer(gpu(), self._shape)


class BlobVec(_BlobVec):
    """The learnable blobs of a layer."""

    def add_blob(self, *shape: int) -> None:
        """Append a blob of zeros."""
        self.append(Blob(tuple(int(n) for n in shape)))
