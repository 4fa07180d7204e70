"""Caffe's weight files: read as views of the mapped file, written as a stream.

Reading walks the wire format and never parses the numbers, so a file of any size is open in
milliseconds and costs no memory. Every age is read: `layer` (V2), `layers` (V1), nested V0, packed
and unpacked numbers, double_data, NVIDIA's raw_data, legacy 4-D shapes, and HDF5.
"""

from __future__ import annotations

import os
from pathlib import Path

from caffeio.errors import ParseError, WeightsError
from caffeio.proto.io.blobs import BlobInfo, shapes_match
from caffeio.proto.io.mapped import foreign, is_hdf5, map_file
from caffeio.proto.weights.hdf5 import load_weights_h5, write_caffemodel_h5
from caffeio.proto.weights.mapping import LayerEntry, Weights
from caffeio.proto.weights.scan import NetScanner, other_kind
from caffeio.proto.weights.write import write_caffemodel


def load_weights(path: str | os.PathLike[str], *, dialect: str | None = None) -> Weights:
    """Open the weights at `path`, a .caffemodel of any age and dialect, or HDF5.

    What kind of file it is shows in its content, not in its name. Weights mean the same in every
    dialect, so `dialect` changes nothing; it is there because other readers take one.
    Raises WeightsError, naming the place, if the file is missing, cut off, damaged or not a
    caffemodel, and if a blob's shape and the number of its values do not agree.
    """
    buffer = map_file(path, WeightsError, "a caffemodel")
    if is_hdf5(buffer):
        return load_weights_h5(path, buffer)
    if kind := foreign(buffer):
        raise WeightsError(f"{kind}; a caffemodel was expected", where=str(path))
    scanner = NetScanner(buffer)
    try:
        scanner.scan()
    except (ParseError, IndexError) as error:
        raise scanner.explain(path, error) from None
    if not scanner.layers:
        raise WeightsError(f"has no layer{other_kind(buffer)}", where=str(path))
    return Weights(Path(path), "binary", scanner.name, scanner.layers, buffer)


__all__ = [
    "BlobInfo",
    "LayerEntry",
    "Weights",
    "load_weights",
    "shapes_match",
    "write_caffemodel",
    "write_caffemodel_h5",
]
