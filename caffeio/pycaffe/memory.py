"""The memory behind a blob's data or diff: one place for tensors and for the arrays of scripts.

A numpy array that was handed out stays a view of the memory for as long as anybody holds it. As
long as nobody does, a layer's result becomes the memory itself, without a copy. On a GPU there are
two sides with flags that say which one is newer. Source of the flags: src/caffe/syncedmem.cpp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]
CPU = torch.device("cpu")


class Memory:
    """Float32 numbers that layers, solvers and scripts read and write.

    `version` grows with everything that may have changed the numbers. A memory that is `pinned`
    (a parameter's) never moves: values are copied into it.
    """

    __slots__ = ("_array", "_head", "_host", "_later", "_near", "guarded", "pinned", "version")

    def __init__(self, host: Tensor | None = None, *, pinned: bool = False) -> None:
        self._host = host  # in main memory: dense, but of any layout until an array is asked for
        self._near: Tensor | None = None  # on a GPU
        self._head = "both" if host is None else "host"  # the side that is newest
        self._array: Array | None = None  # flat, over the host's memory: all views are of it
        self._later: Callable[[], Tensor] | None = None  # makes the numbers when they are wanted
        self.pinned = pinned
        self.guarded = False  # a layer has kept the tensor for its backward: it must not change
        self.version = 0

    @property
    def held(self) -> bool:
        """Whether a script holds an array of this memory."""
        return self._array is not None and sys.getrefcount(self._array) > 2

    # What layers use.

    def tensor(self, shape: tuple[int, ...], device: torch.device = CPU) -> Tensor:
        """The first numbers as a tensor of `shape` on `device`; zeros where nothing was written."""
        if self._later is not None:
            self._settle()
        side = self._on_host() if device.type == "cpu" else self._on(device)
        if side is not None and side.shape == shape:
            return side
        count = prod(shape)
        if side is None or side.numel() < count:
            side = self._grow(count, device)
        if not side.is_contiguous():
            side = self._set(side.contiguous(), device)
        flat = side.view(-1)
        return (flat if flat.numel() == count else flat[:count]).view(shape)

    def put(self, value: Tensor) -> None:
        """Take `value`, which nothing else may use, as the new numbers; copy it if it must be."""
        self._later = None
        if value.device.type != "cpu":
            self._near, self._head = value, "near"
        elif (self.pinned or self.held) and self._host is not None:
            if self._host.numel() < value.numel():
                self._array, self._host = None, value
            else:
                host = self._host if self._host.is_contiguous() else self._host.contiguous()
                self._host = host
                host.view(-1)[: value.numel()].view(value.shape).copy_(value)
            self._head = "host"
        else:
            self._host, self._array, self._head = value, None, "host"
        self.guarded = False
        self.version += 1

    def rearrange(self, value: Tensor) -> None:
        """Be `value`, which holds the same numbers in another order of memory."""
        if value.device.type == "cpu" and not self.pinned:
            self._host, self._array = value, None

    def write(self, value: Tensor) -> None:
        """Copy `value` into the memory."""
        self.put(value.clone(memory_format=torch.contiguous_format))

    def point_at(self, value: Tensor) -> None:
        """Be `value`, an array of the script's: arrays handed out before stay what they were."""
        self._host, self._array, self._later = value, None, None
        self._near, self._head, self.guarded = None, "host", False
        self.version += 1

    def zero(self, count: int) -> None:
        """Make the numbers zeros: at once where somebody looks, else when they are wanted."""
        if self.held or self.pinned:
            if self._host is not None:
                self._host.zero_()
            self._head, self._later = "host", None
        else:
            self._host = self._near = self._array = self._later = None
            self._head = "both"
        self.version += 1

    @property
    def is_blank(self) -> bool:
        """Whether the numbers are zeros that have no memory yet."""
        return self._host is None and self._near is None and self._later is None

    def later(self, make: Callable[[], Tensor]) -> None:
        """Let `make` give the numbers when they are asked for; at once where somebody looks."""
        if self.held:
            self.write(make())
        else:
            self._later = make
        self.version += 1

    # What scripts use.

    def array(self, count: int) -> Array:
        """The numbers as a flat array; writing to it counts as newest from now on."""
        if self._later is not None:
            self._settle()
        host = self._on_host()
        if host is None or host.numel() < count:
            host = self._grow(count, CPU)
        if self.guarded and not self.held:
            host = host.clone(memory_format=torch.contiguous_format)
            self._array, self.guarded = None, False
        elif not host.is_contiguous():
            host, self._array = host.contiguous(), None
        self._host, self._head = host, "host"
        self.version += 1
        if self._array is None:
            self._array = host.detach().view(-1).numpy()
        return self._array[:count]

    def pointer(self, device: torch.device, shape: tuple[int, ...]) -> int:
        """The address on a GPU, newest from now on."""
        near = self.tensor(shape, device)
        self._head = "near"
        return near.data_ptr()

    # The two sides.

    def _on_host(self) -> Tensor | None:
        if self._head == "near" and self._near is not None:
            fits = self._host is not None and self._host.numel() == self._near.numel()
            if fits and (self.held or self.pinned):
                assert self._host is not None
                self._host.view(-1).copy_(self._near.reshape(-1))
            else:
                self._host, self._array = self._near.to(CPU), None
            self._head = "both"
        return self._host

    def _on(self, device: torch.device) -> Tensor | None:
        stale = self._near is None or self._near.device != device
        if self._host is not None and (self._head == "host" or stale):
            same = not stale and self._near is not None and self._near.shape == self._host.shape
            if same and self.pinned:
                assert self._near is not None
                self._near.copy_(self._host)
            else:
                self._near = self._host.to(device, copy=True)
            self._head = "both"
        return self._near

    def changed_on(self, device: torch.device) -> None:
        """Note that the numbers on `device` have been changed in place."""
        self._head = "host" if device.type == "cpu" else "near"
        self.version += 1

    def _grow(self, count: int, device: torch.device) -> Tensor:
        """New memory of zeros, as Caffe's blobs get when they need more."""
        return self._set(torch.zeros(count, device=device), device)

    def _set(self, value: Tensor, device: torch.device) -> Tensor:
        if device.type == "cpu":
            self._host, self._array, self._head = value, None, "host"
        else:
            self._near, self._head = value, "near"
        return value

    def _settle(self) -> None:
        make, self._later = self._later, None
        assert make is not None
        self.write(make())
