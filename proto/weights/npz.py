"""NumPy archives (.npz): one array a blob, named "<layer>.<index>", in Caffe's layout."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from caffeio.errors import WeightsError
from caffeio.memory import check_room
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import Array
from caffeio.proto.io.regular import open_regular
from caffeio.proto.weights.mapping import LayerEntry, Weights, info_of

# What zipfile, zlib and NumPy raise for files that are damaged, locked, or made to hurt
BROKEN_ARCHIVE = (
    OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, KeyError, TypeError,
    NotImplementedError, RuntimeError, OverflowError, SyntaxError, zlib.error, struct.error,
    tokenize.TokenError,
)  # fmt: skip


def read(path: str | os.PathLike[str]) -> Weights:
    """Open the weights of an archive; arrays "<layer>.<index>" are the layer's blobs.

    No code is run (arrays of objects are refused). Raises WeightsError if the file is damaged, or
    holds something else.
    """
    groups: dict[str, dict[int, Array]] = {}
    try:
        # NumPy leaves a file open that it cannot read, if it has opened it
        with open_regular(path) as raw, np.load(raw, allow_pickle=False) as archive:
            for name in archive.files:
                layer, dot, index = name.rpartition(".")
                if not (dot and index.isdigit()):
                    message = f"array {name!r} is no blob: one is called <layer>.<index>"
                    raise WeightsError(message, where=str(path))
                check_array(archive.zip, f"{name}.npy", path)
                groups.setdefault(layer, {})[int(index)] = archive[name]
    except FileNotFoundError:
        raise WeightsError("no such file; an .npz was expected", where=str(path)) from None
    except BROKEN_ARCHIVE as problem:
        raise WeightsError(f"is damaged or no .npz: {problem}", where=str(path)) from None
    arrays = [_blobs(layer, blobs, path) for layer, blobs in groups.items()]
    layers = [
        LayerEntry(layer, "", [info_of(array) for array in blobs])
        for layer, blobs in zip(groups, arrays, strict=True)
    ]

    def fetch(layer: int, blob: int, diff: bool) -> Array:
        return arrays[layer][blob]

    return Weights(Path(path), "npz", "", layers, b"", fetch)


def check_array(archive: zipfile.ZipFile, name: str, path: str | os.PathLike[str]) -> None:
    """Raise WeightsError for what is no array, or promises more than the archive holds."""
    with archive.open(name) as member:
        wanted = promised_bytes(member, f"{path}: array {name!r}")
    stored = archive.getinfo(name).file_size
    if wanted is None:
        raise WeightsError(f"member {name!r} is no array", where=str(path))
    if wanted > stored:
        message = f"array {name!r} wants {wanted} bytes; the archive holds {stored}"
        raise WeightsError(message, where=str(path))
    check_room(stored, f"{path}: array {name!r}")


def promised_bytes(file: IO[bytes], where: str) -> int | None:
    """The bytes of numbers that the header of a .npy promises; None if it is no .npy.

    Raises WeightsError for dates, texts, records and whatever else is no real number.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, OSError, EOFError):
        return None
    if dtype.kind not in "fiub":
        raise WeightsError(f"holds {dtype}, which are no real numbers", where=where)
    return math.prod(shape) * dtype.itemsize


def _blobs(layer: str, blobs: Mapping[int, Array], path: str | os.PathLike[str]) -> list[Array]:
    if sorted(blobs) != list(range(len(blobs))):
        message = f"layer {layer!r} has blobs {sorted(blobs)}: there must be no gap"
        raise WeightsError(message, where=str(path))
    return [blobs[i] for i in range(len(blobs))]


def write(
    path: str | os.PathLike[str], weights: Mapping[str, Sequence[Array]], *, sync: bool = True
) -> None:
    """Write weights (a `Weights`, or layer name -> arrays) as an uncompressed archive.

    Values, shapes and types are unchanged. The file appears when it is whole; raises SnapshotError
    if it cannot be written.
    """
    with (
        atomic_write(path, sync=sync) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for layer, arrays in weights.items():
            for i, array in enumerate(arrays):
                entry = zipfile.ZipInfo(f"{layer}.{i}.npy")  # without the time: same bytes again
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
