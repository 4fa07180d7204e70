"""Notices when blobs that something was computed from have changed."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffeio.net.step import raw_blobs
from caffeio.ops.module import Layer

SMALL = 4096  # values of a blob that is compared whole
SAMPLES = 128  # values of a larger one that are compared


class Watch:
    """The blobs of some layers as they were: which tensors, how often written, what they hold.

    PyTorch counts what is written to a tensor, but not what goes through `.data` or a NumPy array
    of its memory. Therefore values are compared as well: all of blobs of up to `SMALL` values,
    `SAMPLES` at even distances of larger ones. A few single values of a large blob that are written
    past PyTorch are the one thing that is not noticed. A GPU's blobs are compared by the GPU, and
    its answer is waited for.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._blobs: list[Tensor] = [blob for layer in layers for blob in raw_blobs(layer)]
        # where the layers keep them: looked at before every forward, so no more than a dict's entry
        self._places = [
            (layer.blobs.places, name) for layer in layers for name in layer.blobs.names
        ]
        self._counted = [blob for blob in self._blobs if not blob.is_inference()]
        self._state = self._now()
        watched = [blob for blob in self._blobs if blob.numel() and not blob.is_meta]
        on_cpu = [blob for blob in watched if blob.device.type == "cpu"]
        away = [blob for blob in watched if blob.device.type != "cpu"]
        self._samples: list[ArraySamples | TensorSamples] = []
        if on_cpu:
            self._samples.append(ArraySamples(on_cpu))
        if away:
            self._samples.append(TensorSamples(away))

    def _now(self) -> tuple[list[int], list[int], list[torch.dtype]]:
        return (
            [blob._version for blob in self._counted],
            [blob.data_ptr() for blob in self._blobs],
            [blob.dtype for blob in self._blobs],
        )

    def has_changed(self) -> bool:
        """Whether any blob is another tensor, or holds other values."""
        found = [places[name] for places, name in self._places]
        if any(map(operator.is_not, found, self._blobs)) or self._now() != self._state:
            return True
        return any(samples.have_changed() for samples in self._samples)


class ArraySamples:
    """Values of float32 blobs on the CPU, seen through NumPy: their bits are compared."""

    def __init__(self, blobs: Sequence[Tensor]) -> None:
        self._views = [_sample(blob).numpy() for blob in blobs]
        self._kept = np.concatenate(self._views)
        self._buffer = np.empty_like(self._kept)

    def have_changed(self) -> bool:
        """Whether any value is another one."""
        np.concatenate(self._views, out=self._buffer)
        return not np.array_equal(self._buffer.view(np.int32), self._kept.view(np.int32))


class TensorSamples:
    """The same of blobs on one GPU, which gathers and compares them."""

    def __init__(self, blobs: Sequence[Tensor]) -> None:
        self._views = [_sample(blob).view(torch.int32) for blob in blobs]
        self._kept = torch.cat(self._views)

    def have_changed(self) -> bool:
        """Whether any value is another one; this waits for the device."""
        return not torch.equal(torch.cat(self._views), self._kept)


def _sample(blob: Tensor) -> Tensor:
    """Values of a dense float32 blob at even distances, as a view of its memory."""
    count = blob.numel()
    every = 1 if count <= SMALL else count // SAMPLES
    return blob.detach().as_strided((-(-count // every),), (every,))
