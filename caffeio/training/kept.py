"""What a running iteration has changed already, kept as the last whole iteration left it.

A forward moves BatchNorm's statistics, and asking for the rate moves its state, before the update
makes an iteration whole. A snapshot that is tried when a training fails must not hold such parts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from caffeio.net.net import Net
from caffeio.net.step import raw_blobs
from caffeio.solver.schedule import RateState


class Kept:
    """Copies of the blobs that a forward changes, and of the rate state, while it runs.

    `guard` is held while numbers change that a snapshot holds, and while they are written: the
    thread that rescues a training waits for it. It is never held while other workers are waited
    for.
    """

    def __init__(self, net: Net, rates: RateState) -> None:
        self.guard = threading.RLock()
        self._net, self._live_rates = net, rates
        self._places: list[tuple[int, int]] | None = None  # of the blobs: layer, blob
        self._blobs: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rates = rates
        self._begun = False

    def begin(self) -> None:
        """Keep all as it is now: the next thing that runs is a forward."""
        if self._places is None:
            self._find()
        with self.guard:
            if self._values:
                with torch.no_grad():
                    torch._foreach_copy_(self._values, self._blobs)
            self._rates = replace(self._live_rates)
            self._begun = True

    def _find(self) -> None:
        self._places = [
            (number, i)
            for number, layer in enumerate(self._net.layers)
            for i, spec in enumerate(layer.blob_specs)
            if spec.statistic or layer.type_name == "Python"
        ]
        layers = list(self._net.layers)
        self._blobs = [raw_blobs(layers[number])[i] for number, i in self._places]
        self._values = [torch.empty_like(blob, requires_grad=False) for blob in self._blobs]

    def end(self) -> None:
        """Forget what was kept: the iteration is whole."""
        self._begun = False

    def put_back(self) -> None:
        """Take everything back that has changed since `begin`."""
        with self.guard, torch.no_grad():
            for blob, value in zip(self._blobs, self._values, strict=True):
                blob.copy_(value)
            for name, value in vars(self._rates).items():
                setattr(self._live_rates, name, value)
            self._begun = False

    def rates(self) -> RateState:
        """The rate state that belongs to the last whole iteration."""
        return self._rates if self._begun else self._live_rates

    def moved(self) -> Iterator[tuple[int, int, Tensor]]:
        """Layer, blob and what it held, of each blob that may have changed since then."""
        if self._begun and self._places is not None:
            for (layer, blob), value in zip(self._places, self._values, strict=True):
                yield layer, blob, value
