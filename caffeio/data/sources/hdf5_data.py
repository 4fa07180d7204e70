"""The HDF5Data layer: rows of HDF5 files, one dataset for each top.

Source: src/caffe/layers/hdf5_data_layer.cpp, src/caffe/util/hdf5.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caffeio.data.base import DataSource, SourceContext, batch_of
from caffeio.proto.io.broken import BROKEN_HDF5
from caffeio.proto.io.regular import check_regular

Rows = list[NDArray[np.float32]]


class Hdf5Source(DataSource):
    """Batches of rows; a batch goes on into the next file, and from the last into the first.

    With `shuffle` files and rows are permuted anew in every pass. Real Caffe does that with libc's
    rand(), which random_seed does not touch, so here the order is our own.
    """

    def __init__(self, layer: SourceContext) -> None:
        super().__init__(layer)
        p = layer.param.hdf5_data_param
        layer.source_layer()  # what its parameters may not say
        self.batch_size = batch_of(layer, p.batch_size, "hdf5_data_param")
        self._h5 = _import_h5py(layer)
        path = layer.find(p.source, "hdf5_data_param.source")
        self._files = layer.read_text(path, "hdf5_data_param.source").split()
        layer.check(self._files, f"{path!r} names no HDF5 file", "hdf5_data_param.source")
        self.file_count = len(self._files)
        self.kinds: list[str] = []  # "f", "i" or "u" of the datasets, one a top
        self._shuffle = bool(p.shuffle)
        self._generator = np.random.Generator(np.random.Philox(key=self.key))
        o = layer.options
        self._rank, self._world = (o.rank, o.world) if layer.phase == "TRAIN" else (0, 1)
        self._order = self._permutation(len(self._files))
        self._file = self._row = self._offset = 0
        self._load()
        self.top_shapes = [(self.batch_size, *blob.shape[1:]) for blob in self._blobs]
        if len(self._files) == 1:
            self.epoch_size = len(self._blobs[0])

    def _permutation(self, n: int) -> NDArray[np.int64]:
        return self._generator.permutation(n) if self._shuffle else np.arange(n)

    def _load(self) -> None:
        """Read the current file whole."""
        name = self._files[int(self._order[self._file])]
        path = self.layer.find(name, "hdf5_data_param.source")
        try:
            check_regular(path)
            with self._h5.File(path, "r") as file:
                self._blobs: Rows = [self._dataset(file, path, top) for top in self.layer.param.top]
        except BROKEN_HDF5 as error:
            raise self.layer.error(f"cannot read HDF5 file {path!r}: {error}") from None
        counts = [len(blob) for blob in self._blobs]
        self.layer.check(
            len(set(counts)) == 1 and counts[0] > 0,
            f"{path!r}: the datasets {', '.join(self.layer.param.top)} must have the same "
            f"(positive) number of rows, not {', '.join(map(str, counts))}",
        )
        self._rows = self._permutation(counts[0])

    def _dataset(self, file: Any, path: str, name: str) -> NDArray[np.float32]:
        self.layer.check(
            name in file,
            f"{path!r} has no dataset {name!r}; it has {', '.join(map(str, file)) or 'none'}",
        )
        data = file[name]
        kind = getattr(getattr(data, "dtype", None), "kind", "")
        self.layer.check(
            kind in "fiu" and kind and data.ndim >= 1,
            f"{path!r}: dataset {name!r} must hold numbers and have an axis of rows",
        )
        self.kinds.append(kind)
        return np.asarray(data, dtype=np.float32)

    def _next_row(self) -> None:
        self._row += 1
        self._offset += 1
        if self._row < len(self._rows):
            return
        self._row = 0
        if len(self._files) > 1:
            self._file += 1
            if self._file == len(self._files):
                self._file = 0
                self._order = self._permutation(len(self._files))
            self._load()
        elif self._shuffle:
            self._rows = self._permutation(len(self._rows))

    def next(self) -> tuple[Tensor, ...]:
        """The next rows of every dataset: (N, ...) float32."""
        out = [np.empty(shape, np.float32) for shape in self.top_shapes]
        for i in range(self.batch_size):
            while self._offset % self._world != self._rank:
                self._next_row()
            row = int(self._rows[self._row])
            for target, blob, top in zip(out, self._blobs, self.layer.param.top, strict=True):
                self.layer.check(
                    target.shape[1:] == blob.shape[1:],
                    f"dataset {top!r} has rows of shape {blob.shape[1:]} in "
                    f"{self._files[int(self._order[self._file])]!r}, and {target.shape[1:]} before",
                )
                target[i] = blob[row]
            self._next_row()
        tops = tuple(torch.from_numpy(values) for values in out)
        device = self.layer.options.device
        return tuple(top.to(device) for top in tops) if device else tops


def _import_h5py(layer: SourceContext) -> Any:
    try:
        import h5py
    except ImportError:
        raise layer.error(
            "reading HDF5 needs the package h5py: pip install 'caffeio[hdf5]'"
        ) from None
    return h5py
