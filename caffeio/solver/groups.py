"""Which blobs one call can update together, found once and used in every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from caffeio.solver import kernels


class Learnable(Protocol):
    """A blob that a net owns and a solver updates (see `net.learnable`)."""

    @property
    def layer(self) -> str:
        """The name of its layer."""

    @property
    def index(self) -> int:
        """Which of the layer's blobs it is."""

    @property
    def tensor(self) -> Tensor:
        """Its values; `.grad` holds the summed gradients of iter_size batches (None: zeros)."""

    @property
    def lr_mult(self) -> float:
        """Its own factor of the learning rate."""

    @property
    def decay_mult(self) -> float:
        """Its own factor of the weight decay."""


@dataclass
class Batch:
    """Blobs that one call updates: same device, dtype, rate and decay.

    Lists are equally long; the tensors of one blob all lie in memory in the same way.
    """

    indices: list[int]
    params: list[Tensor]
    grads: list[Tensor]
    history: list[list[Tensor]]  # one list a kind of history
    lr_mult: float
    eta: float | list[Tensor]  # rate * lr_mult, or (LARS) a scalar tensor a blob
    decay: float  # weight_decay * decay_mult
    iter_size: int  # the gradients are still to be divided by it
    dense: bool  # no holes in memory

    @property
    def on_cpu(self) -> bool:
        """Whether it lies in main memory: small parts are fast, and asking for a number is free."""
        return self.params[0].device.type == "cpu"

    def takes(self, kernel: str) -> bool:
        """Whether a fused kernel can update it: one rate, dense memory, a kernel that works."""
        first = self.params[0]
        usable = self.dense and isinstance(self.eta, float)
        return usable and kernels.available(kernel, first.device, first.dtype)

    def divisor(self) -> Tensor | None:
        """`iter_size` as fused kernels take it; None for 1."""
        return None if self.iter_size == 1 else self.scalar(self.iter_size)

    def scalar(self, value: float) -> Tensor:
        """A float32 scalar on the device of the blobs."""
        return torch.full((), value, dtype=torch.float32, device=self.params[0].device)

    def singles(self) -> Iterator[Batch]:
        """Each blob by itself, with its own rate as a number; this waits for the device."""
        assert isinstance(self.eta, list)
        for i, eta in enumerate(torch.stack(self.eta).tolist()):
            yield self._part([i], [[p[i]] for p in (self.params, self.grads, *self.history)], eta)

    def pieces(self) -> Iterator[Batch]:
        """Parts whose temporaries stay in the cache of a CPU."""
        lists = (self.params, self.grads, *self.history)
        for positions, columns in kernels.pieces(*lists):
            eta = self.eta if isinstance(self.eta, float) else [self.eta[i] for i in positions]
            yield self._part(positions, columns, eta)

    def _part(
        self, positions: list[int], columns: list[list[Tensor]], eta: float | list[Tensor]
    ) -> Batch:
        params, grads, *history = columns
        indices = [self.indices[i] for i in positions]
        return replace(self, indices=indices, params=params, grads=grads, history=history, eta=eta)


@dataclass
class ParamGroup:
    """Blobs of one device, dtype, layout kind and pair of multipliers."""

    indices: list[int]
    params: list[Tensor]
    history: list[list[Tensor]]
    lr_mult: float
    decay_mult: float
    dense: bool

    def split(self, rates: np.ndarray) -> Iterator[tuple[list[int], float]]:
        """Positions in the group that share a rate, and that rate (nan is equal to nan)."""
        if rates.ndim == 0:
            yield list(range(len(self.indices))), float(rates)
            return
        sharing: dict[str, list[int]] = {}
        for position, index in enumerate(self.indices):
            sharing.setdefault(repr(rates[index]), []).append(position)
        for positions in sharing.values():
            yield positions, float(rates[self.indices[positions[0]]])


class UpdatePlan:
    """The blobs to update in groups, valid as long as their memory stays where it is."""

    def __init__(
        self,
        blobs: Sequence[Learnable],
        state: dict[Tensor, Any],
        names: Sequence[str],
        idle: set[int],
    ) -> None:
        """Group all `blobs` but the `idle` ones; bring their histories into their layout."""
        self._params = [blob.tensor for blob in blobs]
        self._places = self._where()
        self._zeros: dict[int, Tensor] = {}
        groups: dict[tuple[Any, ...], ParamGroup] = {}
        for i, blob in enumerate(blobs):
            if i in idle:
                continue
            tensor, mults = blob.tensor, (blob.lr_mult, blob.decay_mult)
            dense = kernels.flat(tensor) is not None
            key = (tensor.device, tensor.dtype, dense, *mults)
            group = groups.get(key)
            if group is None:
                group = groups[key] = ParamGroup([], [], [[] for _ in names], *mults, dense)
            group.indices.append(i)
            group.params.append(tensor)
            for kind, name in zip(group.history, names, strict=True):
                state[tensor][name] = kernels.matching(state[tensor][name], tensor)
                kind.append(state[tensor][name])
        self.groups = list(groups.values())

    def _where(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(param.data_ptr(), param.stride()) for param in self._params]

    def valid(self) -> bool:
        """Whether no blob has moved in memory (to another device or layout)."""
        return self._places == self._where()

    def grad(self, index: int, *, replace: bool) -> Tensor:
        """The gradient of a blob in the blob's own layout; zeros where nothing reached it.

        `replace`: what is copied into another layout becomes the blob's `.grad`.
        """
        param = self._params[index]
        grad = param.grad
        if grad is None:
            return self.zeros(index).zero_()
        if grad.stride() == self._places[index][1]:
            return grad
        copied = kernels.matching(grad, param)
        if replace:
            param.grad = copied
        return copied

    def zeros(self, index: int) -> Tensor:
        """The diff memory of a blob that nothing reached, as Caffe has it."""
        if index not in self._zeros:
            self._zeros[index] = torch.zeros_like(self._params[index], requires_grad=False)
        return self._zeros[index]
