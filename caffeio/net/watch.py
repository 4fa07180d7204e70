"""Notices when blobs that something was computed from have changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    past PyTorch are the one thing that is not noticed.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)
        self._blobs = self._found()
        self._state = [_state(blob) for blob in self._blobs]
        on_cpu = [blob for blob in self._blobs if blob.device.type == "cpu" and blob.numel()]
        self._views = [_sample(blob) for blob in on_cpu]
        self._kept = np.concatenate(self._views) if self._views else np.empty(0, np.float32)
        self._buffer = np.empty_like(self._kept)

    def _found(self) -> list[Tensor]:
        return [blob for layer in self._layers for blob in raw_blobs(layer)]

    def has_changed(self) -> bool:
        """Whether any blob is another tensor, or holds other values."""
        found = self._found()
        for blob, known, state in zip(found, self._blobs, self._state, strict=True):
            if blob is not known or _state(blob) != state:
                return True
        if self._views:
            np.concatenate(self._views, out=self._buffer)
            return not np.array_equal(self._buffer.view(np.int32), self._kept.view(np.int32))
        return False


def _state(blob: Tensor) -> tuple[int, int]:
    return 0 if blob.is_inference() else blob._version, blob.data_ptr()


def _sample(blob: Tensor) -> np.ndarray:
    """Values of a dense float32 blob at even distances, as a view of its memory."""
    count = blob.numel()
    flat = blob.detach().as_strided((count,), (1,))
    return flat.numpy()[:: 1 if count <= SMALL else count // SAMPLES]
