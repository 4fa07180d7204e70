"""safetensors: one tensor a blob, named "<layer>.<index>", and metadata that restores the rest.

The format is read and written here, without the safetensors package: a header of JSON, then the
numbers, little-endian, in one piece (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffeio.errors import ParseError, WeightsError
from caffeio.proto.io.atomic import atomic_write
from caffeio.proto.io.blobs import MAX_AXES, NOTHING, Array, BlobInfo, Values, view
from caffeio.proto.io.mapped import map_file
from caffeio.proto.io.stream import Numbers, Part, size_of, write_parts
from caffeio.proto.io.wire import Buffer
from caffeio.proto.weights.blob_names import BLOBS, blob_names, is_torch_named, rank
from caffeio.proto.weights.mapping import LayerEntry, Weights

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {np.dtype(numpy_name): name for name, numpy_name in _TYPES.items()}
_BFLOAT = "BF16"  # the upper half of a float32, which is what it is read as
_KEY = "caffeio"  # of our metadata: {"net": name, "layers": [[name, type, number of blobs], ...]}
_MAX_HEADER = 100_000_000  # the limit of the safetensors package


def read(path: str | os.PathLike[str]) -> Weights:
    """Open the weights of a safetensors file as views of it.

    Files of ours restore layers, types and order. In others "<layer>.<index>" is a blob of that
    index, and tensors "<layer>.weight", "<layer>.bias", ... are the layer's blobs in file order.
    Raises WeightsError, naming the tensor, if the file is cut off, damaged or something else.
    """
    buffer = map_file(path, WeightsError, "a safetensors file")
    try:
        header, start = _header(buffer)
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor(name, entry, start, buffer) for name, entry in header.items()}
        _check_apart(tensors)
        known = json.loads(metadata[_KEY]) if _KEY in metadata else {}
        _check_texts([list(header), known])
        layers = _ours(known["layers"], tensors) if "layers" in known else _grouped(tensors)
    except ParseError as error:
        raise WeightsError(error.message, where=str(path)) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"is no safetensors file: {error}", where=str(path)) from None

    def fetch(layer: int, blob: int, diff: bool) -> Array:
        return _numbers(buffer, layers[layer].blobs[blob])

    def module() -> dict[str, Array]:
        return {name: _numbers(buffer, blob) for name, blob in tensors.items()}

    of_module = module if "layers" not in known and is_torch_named(tensors) else None
    net_name = str(known.get("net", ""))
    return Weights(Path(path), "safetensors", net_name, layers, buffer, fetch, of_module)


MODULE = "caffeio.module"  # in the metadata of weights that lie beside a Python file


def made_here(path: str | os.PathLike[str], *, module: bool = False) -> bool:
    """Whether caffeio has written the file at `path`: a net's weights, or those of a `module`."""
    header, _ = _header(map_file(path, WeightsError, "a safetensors file"))
    told = header.get("__metadata__", {})
    return _KEY in told and (MODULE in told) == module


def _header(buffer: Buffer) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or not 2 <= size <= _MAX_HEADER:
        raise ParseError("is no safetensors file: it does not begin with the size of a header")
    if 8 + size > len(buffer):
        raise ParseError(f"is cut off: the header needs {8 + size - len(buffer)} bytes more")
    header = json.loads(bytes(buffer[8 : 8 + size]))
    if not isinstance(header, dict):
        raise ParseError("is no safetensors file: its header is not an object")
    return header, 8 + size


def _tensor(name: str, entry: dict[str, Any], start: int, buffer: Buffer) -> BlobInfo:
    kind = entry["dtype"]
    if kind not in _TYPES and kind != _BFLOAT:
        raise ParseError(f"tensor {name!r} is of type {kind}, which numpy does not have")
    dtype = np.dtype(_TYPES.get(kind, "<f4"))
    stored = 2 if kind == _BFLOAT else dtype.itemsize
    shape = tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
        raise ParseError(f"tensor {name!r}: shape or offsets are not sizes")
    count = math.prod(shape)
    if len(shape) > MAX_AXES or last - first != count * stored:
        raise ParseError(f"tensor {name!r}: shape {shape} does not fit {last - first} bytes")
    if start + last > len(buffer):
        missing = start + last - len(buffer)
        raise ParseError(f"is cut off: tensor {name!r} needs {missing} bytes more")
    pieces = ((start + first, count, dtype.itemsize),) if count and kind != _BFLOAT else ()
    values = Values(dtype, count, pieces)
    place = start + first if count else -1
    return BlobInfo(
        shape, False, dtype, count, place, values, NOTHING, start=start + first, end=start + last
    )


def _numbers(buffer: Buffer, blob: BlobInfo) -> Array:
    """A tensor as a view of the file; a bfloat16 one as float32, in memory of its own."""
    if blob.data.pieces or not blob.count:
        return view(buffer, blob.shape, blob.data)
    upper = np.frombuffer(buffer, "<u2", blob.count, blob.start).astype("<u4")
    array: Array = (upper << 16).view("<f4").reshape(blob.shape)
    array.flags.writeable = False
    return array


def _check_apart(tensors: Mapping[str, BlobInfo]) -> None:
    """Raise ParseError if two tensors have a byte in common."""
    end, before = 0, ""
    held = [(blob.start, name, blob) for name, blob in tensors.items() if blob.count]
    for start, name, blob in sorted(held, key=lambda item: item[:2]):
        if start < end:
            raise ParseError(f"tensors {before!r} and {name!r} overlap")
        end, before = blob.end, name


def _check_texts(known: object) -> None:
    """Raise ParseError for a half of a surrogate pair, which no other format can hold."""
    try:
        json.dumps(known, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ParseError("has a name that is not Unicode") from None


def _ours(layers: list[list[Any]], tensors: dict[str, BlobInfo]) -> list[LayerEntry]:
    out = []
    for name, kind, count in layers:
        keys, blobs = [], []
        for key in count if isinstance(count, list) else range(count):
            if f"{name}.{key}" not in tensors:
                raise ParseError(f"the tensor {name}.{key} that its metadata names is missing")
            keys.append(str(key))
            blobs.append(tensors[f"{name}.{key}"])
        out.append(LayerEntry(str(name), str(kind), blobs, names=tuple(keys)))
    return out


def _grouped(tensors: dict[str, BlobInfo]) -> list[LayerEntry]:
    """Layers of a file that is not ours, by the names' part before the last dot."""
    groups: dict[str, list[tuple[tuple[int, int], str, BlobInfo]]] = {}
    for name, blob in sorted(tensors.items(), key=lambda item: item[1].offset):
        layer, _, last = name.rpartition(".")
        members = groups.setdefault(layer or name, [])
        members.append((rank(last, len(members)), last, blob))
    out = []
    for name, members in groups.items():
        members.sort(key=lambda member: member[0])
        blobs, names = [blob for _, _, blob in members], tuple(last for _, last, _ in members)
        out.append(LayerEntry(name, "", blobs, names=names))
    return out


def write(
    path: str | os.PathLike[str],
    weights: Mapping[str, Sequence[Array]],
    *,
    sync: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights (a `Weights`, or layer name -> arrays in order) as a safetensors file.

    Tensors keep their numbers and types; `metadata` is added to the file's. The file appears
    when it is whole. Raises WeightsError for types that the format lacks, SnapshotError if it
    cannot be written.
    """
    layers = _layers(weights)
    names = [blob_names(kind, len(arrays)) for _, kind, arrays in layers]
    told = [
        [name, kind, keys if kind in BLOBS else len(arrays)]
        for (name, kind, arrays), keys in zip(layers, names, strict=True)
    ]
    notes = json.dumps({"net": getattr(weights, "net_name", ""), "layers": told})
    named: dict[str, Array] = {}
    for (layer, _, arrays), keys in zip(layers, names, strict=True):
        for key, array in zip(keys, arrays, strict=True):
            if f"{layer}.{key}" in named:
                raise WeightsError(f"two layers are named {layer!r}", where=str(path))
            named[f"{layer}.{key}"] = array
    write_tensors(path, named, sync=sync, metadata={**(metadata or {}), _KEY: notes})


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    *,
    sync: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays by name; `metadata` is added to the file's. Raises as `write` does."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", _KEY: "{}", **(metadata or {})}}
    parts: list[Part] = []
    place = 0
    for name, array in tensors.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            message = f"tensor {name!r}: type {array.dtype} has no safetensors form"
            raise WeightsError(message, where=str(path))
        numbers = Numbers(array, dtype)
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + numbers.nbytes],
        }
        place += numbers.nbytes
        parts.append(numbers)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts.insert(0, len(text).to_bytes(8, "little") + text)
    with atomic_write(path, sync=sync, needed=size_of(parts)) as file:
        write_parts(file, parts, sync=sync)


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors by their own names. Raises WeightsError as `read` does."""
    buffer = map_file(path, WeightsError, "a safetensors file")
    try:
        header, start = _header(buffer)
        header.pop("__metadata__", None)
        found = {name: _tensor(name, entry, start, buffer) for name, entry in header.items()}
        return {name: _numbers(buffer, blob) for name, blob in found.items()}
    except ParseError as error:
        raise WeightsError(error.message, where=str(path)) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"is no safetensors file: {error}", where=str(path)) from None


def _layers(weights: Mapping[str, Sequence[Array]]) -> list[tuple[str, str, Sequence[Array]]]:
    """Name, type and arrays of each layer; of duplicates, the one that a mapping gives."""
    if not isinstance(weights, Weights):
        return [(name, "", arrays) for name, arrays in weights.items()]
    last = {entry.name: i for i, entry in enumerate(weights.layers)}
    return [
        (entry.name, entry.type, weights.get(entry.name, []))
        for i, entry in enumerate(weights.layers)
        if last[entry.name] == i
    ]
