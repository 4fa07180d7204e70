"""Weights as they lie in a file: a mapping from layer names to arrays that are views of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from caffeio.errors import ParseError, WeightsError
from caffeio.proto.io.blobs import NOTHING, Array, BlobInfo, Values, view
from caffeio.proto.io.wire import Buffer

Fetch = Callable[[int, int, bool], Array]  # (layer, blob, diff): for what cannot be mapped


class LayerEntry(NamedTuple):
    """A layer of the file: its name, its type, its blobs, and the age of its message.

    `type` is Caffe's name of today for V1 files, and the old lower-case word for V0 files; HDF5
    files have none. `indices` are the blobs' numbers where the file leaves some out: HDF5 files
    lack what another layer owns. `names` are what a file of tensors calls the blobs.
    """

    name: str
    type: str
    blobs: list[BlobInfo]
    version: str = "V2"
    indices: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def number(self, position: int) -> int:
        """Which of its layer's blobs stands at `position` of `blobs`."""
        return self.indices[position] if self.indices else position


TENSORS = ("safetensors", "pytorch", "npz")  # formats of named tensors


@dataclass(eq=False)
class Weights(Mapping[str, list[Array]]):
    """Layer name -> its blobs in order, as read-only arrays that are views of the file.

    Only layers with blobs are keys, in file order; `layers` lists all. If a name occurs twice, the
    last one counts, as in Caffe, which copies layer by layer in file order: to copy as Caffe does
    take `layers` with `arrays(index)`. Views may be unaligned (floats start at any byte of a file):
    fine to copy from or look at; `array(..., writable=True)` and `copy()` give arrays of your own.
    Shapes are the file's: a legacy shape has four axes (see `shapes_match`).
    """

    path: Path
    format: str  # "binary", "hdf5", "memory", or one of TENSORS
    net_name: str
    layers: list[LayerEntry]
    buffer: Buffer = field(repr=False)
    fetch: Fetch | None = field(default=None, repr=False)
    module: Callable[[], dict[str, Array]] | None = field(default=None, repr=False)
    """The tensors by their own names, where these and the forms are those of a PyTorch module."""

    def __post_init__(self) -> None:
        self._index = {entry.name: i for i, entry in enumerate(self.layers) if entry.blobs}

    def __getitem__(self, name: str) -> list[Array]:
        return self.arrays(self._index[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __repr__(self) -> str:
        return f"Weights({str(self.path)!r}, {len(self)} layers with blobs, {self.format})"

    def entry(self, layer: str) -> LayerEntry:
        """The layer of that name that counts."""
        return self.layers[self._index[layer]]

    def arrays(self, index: int) -> list[Array]:
        """The blobs of `layers[index]`."""
        return [self._view(index, i) for i in range(len(self.layers[index].blobs))]

    def array(self, layer: str, blob: int, *, writable: bool = False) -> Array:
        """One blob; `writable` copies it into an aligned array of your own."""
        array = self._view(self._index[layer], blob)
        return np.array(array) if writable else array

    def copy(self) -> dict[str, list[Array]]:
        """All blobs, copied into writable arrays that do not need the file."""
        return {name: [np.array(a) for a in self[name]] for name in self}

    @property
    def diffs(self) -> dict[str, list[Array | None]]:
        """Layer name -> the diffs of its blobs (snapshot_diff), for the layers that have any."""
        found = {name: self.diff_arrays(index) for name, index in self._index.items()}
        return {
            name: arrays for name, arrays in found.items() if any(a is not None for a in arrays)
        }

    def diff_arrays(self, index: int) -> list[Array | None]:
        """The diffs of `layers[index]`; None for blobs without one."""
        blobs = self.layers[index].blobs
        return [
            self._view(index, i, diff=True) if b.diff.count else None for i, b in enumerate(blobs)
        ]

    def raw_blobs(self, index: int) -> list[memoryview]:
        """The BlobProto messages of `layers[index]` as they stand in a binary file."""
        if self.format != "binary":
            raise WeightsError("an HDF5 file has no BlobProto messages", where=str(self.path))
        whole = memoryview(self.buffer)
        return [whole[blob.start : blob.end] for blob in self.layers[index].blobs]

    def _view(self, index: int, blob: int, *, diff: bool = False) -> Array:
        entry = self.layers[index]
        info = entry.blobs[blob]
        values = info.diff if diff else info.data
        try:
            if self.fetch is not None and values.count and not values.pieces:
                return self.fetch(index, blob, diff)
            return view(self.buffer, info.shape, values)
        except ParseError as error:
            place = f"layer {entry.name!r}, blob {blob}"
            raise WeightsError(f"{place}: {error.message}", where=str(self.path)) from None


def weights_of_arrays(arrays: Mapping[str, Sequence[Array]], path: Path) -> Weights:
    """Arrays by layer name as if they had been read from a file."""
    held = {name: [np.asarray(a) for a in blobs] for name, blobs in arrays.items()}
    layers = [LayerEntry(name, "", [info_of(a) for a in blobs]) for name, blobs in held.items()]

    def fetch(layer: int, blob: int, diff: bool) -> Array:
        return held[layers[layer].name][blob]

    return Weights(path, "memory", "", layers, b"", fetch)


def info_of(array: Array) -> BlobInfo:
    """An array as a blob whose numbers no file holds as they are."""
    values = Values(array.dtype, array.size, ())
    return BlobInfo(array.shape, False, array.dtype, array.size, -1, values, NOTHING)
