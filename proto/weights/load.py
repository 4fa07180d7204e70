"""Files of weights: read as views of the mapped file, Caffe's own written as a stream.

Reading walks the wire format and never parses the numbers, so a file of any size is open in
milliseconds and costs no memory. Every age is read: `layer` (V2), `layers` (V1), nested V0, packed
and unpacked numbers, double_data, NVIDIA's raw_data, legacy 4-D shapes, and HDF5. Files of named
tensors (safetensors, PyTorch's state_dicts, NumPy's archives) have their own readers.
"""

from __future__ import annotations

import os
from pathlib import Path

from caffeio.errors import ParseError, WeightsError
from caffeio.proto.io.blobs import BlobInfo, shapes_match
from caffeio.proto.io.mapped import foreign, is_hdf5, map_file
from caffeio.proto.io.wire import Buffer
from caffeio.proto.weights.hdf5 import load_weights_h5, write_caffemodel_h5
from caffeio.proto.weights.mapping import LayerEntry, Weights
from caffeio.proto.weights.scan import NetScanner, other_kind
from caffeio.proto.weights.write import write_caffemodel

_TITLES = {
    "safetensors": "a safetensors file", "pytorch": "a PyTorch file", "npz": "a NumPy archive",
}  # fmt: skip
TENSOR_SUFFIXES = {
    ".safetensors": "safetensors",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".npz": "npz",
}


def load_weights(path: str | os.PathLike[str], *, dialect: str | None = None) -> Weights:
    """Open the weights at `path`: a .caffemodel of any age and dialect, HDF5, or named tensors.

    These are safetensors, a PyTorch state_dict (only tensors are loaded, no code is run) and an
    .npz. What kind of file it is shows in its content; its name counts where that says nothing.
    Only a PyTorch file imports torch. Weights mean the same in every
    dialect, so `dialect` changes nothing; it is there because other readers take one.
    Raises WeightsError, naming the place, if the file is missing, cut off, damaged or of another
    kind, and if a blob's shape and the number of its values do not agree.
    """
    suffix = Path(path).suffix.lower()
    expected = _TITLES.get(TENSOR_SUFFIXES.get(suffix, ""), "a caffemodel")
    buffer = map_file(path, WeightsError, expected)
    if is_hdf5(buffer):
        return load_weights_h5(path, buffer)
    if tensors := _tensor_format(buffer, suffix):
        return _read_tensors(path, tensors)
    if kind := foreign(buffer):
        raise WeightsError(f"{kind}; {expected} was expected", where=str(path))
    scanner = NetScanner(buffer)
    try:
        scanner.scan()
    except (ParseError, IndexError) as error:
        raise scanner.explain(path, error) from None
    if not scanner.layers:
        raise WeightsError(f"has no layer{other_kind(buffer)}", where=str(path))
    return Weights(Path(path), "binary", scanner.name, scanner.layers, buffer)


def _tensor_format(buffer: Buffer, suffix: str) -> str | None:
    """Which of TENSORS a file is; None if it is another kind of file."""
    head = bytes(buffer[:300])
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") <= len(buffer):
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):  # both are zip archives: the first member tells
        member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return "npz" if suffix == ".npz" or member.endswith(b".npy") else "pytorch"
    if head.startswith(b"\x80\x02"):  # PyTorch before 1.6
        return "pytorch"
    return None if foreign(buffer) else TENSOR_SUFFIXES.get(suffix)


def _read_tensors(path: str | os.PathLike[str], kind: str) -> Weights:
    from caffeio.proto.weights import npz, pytorch, safetensors

    read = {"npz": npz.read, "pytorch": pytorch.read, "safetensors": safetensors.read}[kind]
    return read(path)


__all__ = [
    "BlobInfo",
    "LayerEntry",
    "Weights",
    "load_weights",
    "shapes_match",
    "write_caffemodel",
    "write_caffemodel_h5",
]
