"""The weights of a net as a file of any format that holds weights."""

from __future__ import annotations

import os
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from caffeio.errors import UnsupportedError, WeightsError
from caffeio.net.step import Step, raw_blobs
from caffeio.proto.io.blobs import NOTHING, BlobInfo, Values
from caffeio.proto.weights.hdf5 import write_caffemodel_h5
from caffeio.proto.weights.load import LayerEntry, Weights, write_caffemodel

if TYPE_CHECKING:
    from caffeio.proto.caffe_pb2 import NetParameter

TENSORS = {".safetensors": "safetensors", ".pt": "pytorch", ".pth": "pytorch", ".npz": "npz"}
SUFFIXES = (".caffemodel", ".h5", ".hdf5", *TENSORS)


class Saved(Protocol):
    """What is asked of the net that is saved."""

    dialect: str
    steps: list[Step]

    def to_proto(self) -> NetParameter:
        """Name and layers without weights."""

    def blob_arrays(self) -> list[list[np.ndarray]]:
        """The blobs of every layer."""


def save_net(net: Saved, path: str | os.PathLike[str], dialect: str | None = None) -> None:
    """Write the weights of `net`; the suffix tells the format. See `Net.save`."""
    suffix = Path(path).suffix.lower()
    if suffix == ".caffemodel":
        chosen = dialect or net.dialect
        write_caffemodel(path, net.to_proto(), net.blob_arrays(), dialect=chosen)
    elif suffix in (".h5", ".hdf5"):
        write_caffemodel_h5(path, net.to_proto(), owned_arrays(net))
    elif suffix in TENSORS:
        module: Any = import_module(f"caffeio.proto.weights.{TENSORS[suffix]}")
        module.write(path, weights_of(net, path))
    else:
        raise UnsupportedError(
            f"the suffix {suffix!r} tells no format of weights: {', '.join(SUFFIXES)}",
            where=os.fspath(path),
        )


def owned_arrays(net: Saved) -> list[list[np.ndarray | None]]:
    """The blobs of every layer, None where another layer owns them: HDF5 stores owners only."""
    seen: set[int] = set()
    out: list[list[np.ndarray | None]] = []
    for step, arrays in zip(net.steps, net.blob_arrays(), strict=True):
        row: list[np.ndarray | None] = []
        for blob, array in zip(raw_blobs(step.layer), arrays, strict=True):
            row.append(None if id(blob) in seen else array)
            seen.add(id(blob))
        out.append(row)
    return out


def weights_of(net: Saved, path: str | os.PathLike[str]) -> Weights:
    """The net's weights as a file of them would be read; `path` is what errors name.

    Raises WeightsError where two layers of one name have blobs: formats of tensors have one.
    """
    arrays = net.blob_arrays()
    entries = []
    for step, blobs in zip(net.steps, arrays, strict=True):
        infos = [
            BlobInfo(a.shape, False, a.dtype, a.size, -1, Values(a.dtype, a.size, ()), NOTHING)
            for a in blobs
        ]
        entries.append(LayerEntry(step.node.name, step.node.type, infos))
    names = Counter(entry.name for entry in entries if entry.blobs)
    for name, count in names.items():
        if count > 1:
            raise WeightsError(
                f"{count} layers are called {name!r}: only a .caffemodel can hold them",
                where=os.fspath(path),
            )
    return Weights(
        Path(path), "memory", net.to_proto().name, entries, b"",
        lambda layer, blob, diff: arrays[layer][blob],
    )  # fmt: skip
